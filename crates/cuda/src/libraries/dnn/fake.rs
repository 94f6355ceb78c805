//! A library that is not cuDNN but takes its calls: for tests of what is said to it.
//!
//! It keeps descriptors with their attributes, insists on the order that cuDNN insists on
//! (attributes, then finalizing; parts before what is made of them; nothing destroyed while in
//! use by a call), and answers with engines that a test makes up. Each thread has its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::ptr;

use super::descriptor::{Kind, Name, Type};
use super::library::{Functions, Library, RawDescriptor, RawHandle, Status, Version};

/// An engine as the fake advises it.
#[derive(Debug, Clone, Default)]
pub(super) struct Engine {
    pub(super) number: i64,
    pub(super) numerical: Vec<u32>,
    pub(super) behavior: Vec<u32>,
    pub(super) workspace: i64,
    /// What finalizing its plan gives.
    pub(super) status: Status,
}

#[derive(Debug, Default)]
struct Object {
    kind: u32,
    is_final: bool,
    attributes: HashMap<u32, (u32, Vec<u8>)>,
    /// The engine that it stands for.
    engine: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    next: usize,
    objects: HashMap<usize, Object>,
    engines: Vec<Engine>,
    /// Attributes that are not taken.
    refused: Vec<u32>,
    log: Vec<String>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// The library, with these engines for every graph.
pub(super) fn library(engines: Vec<Engine>) -> &'static Library {
    STATE.with_borrow_mut(|state| {
        *state = State {
            next: 1,
            engines,
            ..State::default()
        };
    });
    Box::leak(Box::new(Library {
        functions: Functions {
            version: fake_version,
            error_string,
            last_error: Some(last_error),
            create,
            destroy,
            set_stream,
            create_descriptor,
            destroy_descriptor,
            finalize,
            set_attribute,
            get_attribute,
            execute,
        },
        version: Version(91_400),
        _code: None,
    }))
}

/// Has an attribute refused from now on.
pub(super) fn refuse(name: Name) {
    STATE.with_borrow_mut(|state| state.refused.push(name as u32));
}

/// How many descriptors are alive.
pub(super) fn alive() -> usize {
    STATE.with_borrow(|state| state.objects.len())
}

/// What was finalized, in order: the kind, and its attributes by number with their bytes.
pub(super) fn log() -> Vec<String> {
    STATE.with_borrow(|state| state.log.clone())
}

/// The 64-bit numbers of an attribute, for each descriptor of a kind, in the order of making.
pub(super) fn integers(kind: Kind, name: Name) -> Vec<Vec<i64>> {
    STATE.with_borrow(|state| {
        let mut numbers: Vec<usize> = state.objects.keys().copied().collect();
        numbers.sort_unstable();
        let objects = numbers.iter().map(|number| &state.objects[number]);
        objects
            .filter(|object| object.kind == kind as u32)
            .map(|object| match object.attributes.get(&(name as u32)) {
                Some((_, bytes)) => bytes.chunks(8).map(integer).collect(),
                None => Vec::new(),
            })
            .collect()
    })
}

fn integer(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn width(ty: u32) -> usize {
    let wide = [
        Type::CUDNN_TYPE_HANDLE,
        Type::CUDNN_TYPE_INT64,
        Type::CUDNN_TYPE_DOUBLE,
        Type::CUDNN_TYPE_VOID_PTR,
        Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
    ];
    if wide.iter().any(|wide| *wide as u32 == ty) {
        8
    } else if ty == Type::CUDNN_TYPE_BOOLEAN as u32 {
        1
    } else {
        4
    }
}

unsafe extern "C" fn fake_version() -> usize {
    91_400
}

unsafe extern "C" fn error_string(_: Status) -> *const c_char {
    c"FAKE_REFUSAL".as_ptr()
}

unsafe extern "C" fn last_error(text: *mut c_char, room: usize) {
    let words = c"the fake says no".to_bytes_with_nul();
    assert!(room > words.len());
    // SAFETY: there is room.
    unsafe { ptr::copy_nonoverlapping(words.as_ptr().cast(), text, words.len()) };
}

unsafe extern "C" fn create(_: *mut RawHandle) -> Status {
    0
}

unsafe extern "C" fn destroy(_: RawHandle) -> Status {
    0
}

unsafe extern "C" fn set_stream(_: RawHandle, _: *mut c_void) -> Status {
    0
}

unsafe extern "C" fn execute(_: RawHandle, _: RawDescriptor, _: RawDescriptor) -> Status {
    0
}

unsafe extern "C" fn create_descriptor(kind: u32, target: *mut RawDescriptor) -> Status {
    STATE.with_borrow_mut(|state| {
        let number = state.next;
        state.next += 1;
        let object = Object {
            kind,
            ..Object::default()
        };
        state.objects.insert(number, object);
        // SAFETY: the caller gives a live variable.
        unsafe { *target = number as RawDescriptor };
    });
    0
}

unsafe extern "C" fn destroy_descriptor(raw: RawDescriptor) -> Status {
    let gone = STATE.with_borrow_mut(|state| state.objects.remove(&(raw as usize)));
    assert!(gone.is_some(), "destroyed twice");
    0
}

unsafe extern "C" fn set_attribute(
    raw: RawDescriptor,
    name: u32,
    ty: u32,
    count: i64,
    values: *const c_void,
) -> Status {
    STATE.with_borrow_mut(|state| {
        if state.refused.contains(&name) {
            return 2000;
        }
        let object = state.objects.get_mut(&(raw as usize)).expect("alive");
        assert!(!object.is_final, "attributes come before finalizing");
        // SAFETY: the caller gives as many values of this type.
        let bytes =
            unsafe { std::slice::from_raw_parts(values.cast::<u8>(), count as usize * width(ty)) };
        object.attributes.insert(name, (ty, bytes.to_vec()));
        0
    })
}

unsafe extern "C" fn finalize(raw: RawDescriptor) -> Status {
    STATE.with_borrow_mut(|state| {
        let number = raw as usize;
        let object = &state.objects[&number];
        let parts = object
            .attributes
            .values()
            .filter(|(ty, _)| *ty == Type::CUDNN_TYPE_BACKEND_DESCRIPTOR as u32);
        let parts: Vec<usize> = parts
            .flat_map(|(_, bytes)| bytes.chunks(8).map(|bytes| integer(bytes) as usize))
            .collect();
        assert!(
            parts.iter().all(|part| state.objects[part].is_final),
            "parts are final before what is made of them"
        );
        let engine = parts.iter().find_map(|part| state.objects[part].engine);
        if object.kind == Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR as u32 {
            let status = state.engines[engine.expect("a plan has an engine")].status;
            if status != 0 {
                return status;
            }
        }
        let mut names: Vec<u32> = object.attributes.keys().copied().collect();
        names.sort_unstable();
        state.log.push(format!("{} {names:?}", object.kind));
        let object = state.objects.get_mut(&number).expect("alive");
        object.is_final = true;
        object.engine = engine;
        0
    })
}

unsafe extern "C" fn get_attribute(
    raw: RawDescriptor,
    name: u32,
    _: u32,
    room: i64,
    count: *mut i64,
    values: *mut c_void,
) -> Status {
    STATE.with_borrow_mut(|state| {
        let room = room as usize;
        let found = if name == Name::CUDNN_ATTR_ENGINEHEUR_RESULTS as u32 {
            // SAFETY: the caller gives as many descriptors as it says.
            unsafe { advise(state, raw, values, room) }
        } else {
            let engine = state.objects[&(raw as usize)]
                .engine
                .expect("it has an engine");
            // SAFETY: the caller gives as much room as it says.
            unsafe { tell(state, engine, name, values, room) }
        };
        // SAFETY: the caller gives a live variable.
        unsafe { *count = found as i64 };
    });
    0
}

/// # Safety
/// There are `room` descriptors at `values`, if that is not null.
unsafe fn advise(state: &mut State, raw: RawDescriptor, values: *mut c_void, room: usize) -> usize {
    let (_, mode) =
        &state.objects[&(raw as usize)].attributes[&(Name::CUDNN_ATTR_ENGINEHEUR_MODE as u32)];
    // The quick advice alone knows any.
    let count = if mode[0] == 3 { state.engines.len() } else { 0 };
    for place in 0..room.min(count) {
        // SAFETY: there are so many.
        let target = unsafe { *values.cast::<usize>().add(place) };
        let object = state.objects.get_mut(&target).expect("made by the caller");
        object.is_final = true;
        object.engine = Some(place);
    }
    count
}

/// # Safety
/// There is room for so many values of the attribute.
unsafe fn tell(
    state: &mut State,
    engine: usize,
    name: u32,
    values: *mut c_void,
    room: usize,
) -> usize {
    let Engine {
        number,
        numerical,
        behavior,
        workspace,
        ..
    } = state.engines[engine].clone();
    let is = |other: Name| name == other as u32;
    if is(Name::CUDNN_ATTR_ENGINECFG_ENGINE) {
        // SAFETY: there is one.
        let target = unsafe { *values.cast::<usize>() };
        let object = state.objects.get_mut(&target).expect("made by the caller");
        object.is_final = true;
        object.engine = Some(engine);
        return 1;
    }
    let notes = if is(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE) {
        numerical
    } else if is(Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE) {
        behavior
    } else {
        let value = if is(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX) {
            number
        } else {
            workspace
        };
        // SAFETY: there is room for one.
        unsafe { *values.cast::<i64>() = value };
        return 1;
    };
    assert!(notes.len() <= room);
    // SAFETY: there is room.
    unsafe { ptr::copy_nonoverlapping(notes.as_ptr(), values.cast(), notes.len()) };
    notes.len()
}
