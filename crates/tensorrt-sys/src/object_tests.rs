//! Calls into objects of our own that look like the library's.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use super::*;
use crate::version::Newer;
use crate::{Dims, IConstantLayer, ILayer, INetworkDefinition, IRefitter, ITensor};

/// An implementation whose vtable has the same function in every slot but those set.
#[repr(C)]
struct Fake {
    vtable: *const *const c_void,
    seen: AtomicI32,
}

fn fake(slots: &[(usize, *const c_void)]) -> (Fake, Vec<*const c_void>) {
    let mut vtable = vec![wrong as *const c_void; 100];
    for (slot, function) in slots {
        vtable[*slot] = *function;
    }
    let fake = Fake {
        vtable: vtable.as_ptr(),
        seen: AtomicI32::new(0),
    };
    (fake, vtable)
}

/// The public object: a vtable, then the implementations.
fn public(implementations: &[&Fake]) -> Vec<*const c_void> {
    let mut words = vec![std::ptr::null()];
    words.extend(
        implementations
            .iter()
            .map(|fake| std::ptr::from_ref(*fake).cast::<c_void>()),
    );
    words
}

fn object(words: &[*const c_void], number: i32) -> Object {
    let abi = Abi::of_number(number, Newer::Refuse).unwrap();
    // SAFETY: the words are laid out as an object is.
    unsafe { Object::new(words.as_ptr().cast_mut().cast(), abi) }.unwrap()
}

unsafe extern "C" fn wrong(_this: *mut c_void) {
    // A wrong slot must end the test, and unwinding through C is not allowed.
    std::process::abort();
}

unsafe extern "C" fn set_name(this: *mut Fake, name: *const c_char) {
    // SAFETY: the test calls with a fake and a text.
    let (fake, name) = unsafe { (&*this, CStr::from_ptr(name)) };
    fake.seen.store(name.count_bytes() as i32, Ordering::SeqCst);
}

unsafe extern "C" fn dimensions(_this: *mut Fake) -> Dims {
    Dims::new(&[2, 3, 5]).unwrap()
}

unsafe extern "C" fn add_input(
    this: *mut Fake,
    _name: *const c_char,
    dtype: i32,
    dims: *const Dims,
) -> *mut c_void {
    // SAFETY: the test calls with a fake and with dimensions.
    let (fake, dims) = unsafe { (&*this, &*dims) };
    fake.seen
        .store(dtype * 100 + dims.nb_dims, Ordering::SeqCst);
    this.cast()
}

unsafe extern "C" fn nothing(_this: *mut Fake) -> *mut c_void {
    std::ptr::null_mut()
}

#[test]
fn arguments_and_results_cross_the_border() {
    let (tensor, _vtable) = fake(&[
        (2, set_name as *const c_void),
        (5, dimensions as *const c_void),
    ]);
    let words = public(&[&tensor]);
    // SAFETY: the object is a fake with these functions.
    unsafe {
        let handle = ITensor::from_object(object(&words, 10701));
        handle.set_name(c"seven77".as_ptr()).unwrap();
        assert_eq!(tensor.seen.load(Ordering::SeqCst), 7);
        assert_eq!(handle.get_dimensions().unwrap().as_slice(), [2, 3, 5]);
    }
}

#[test]
fn objects_given_back_are_handles_of_the_same_abi() {
    let (network, _vtable) = fake(&[(2, add_input as *const c_void)]);
    let words = public(&[&network]);
    let dims = Dims::new(&[4, 4]).unwrap();
    // SAFETY: the object is a fake with this function.
    let tensor = unsafe {
        let handle = INetworkDefinition::from_object(object(&words, 110400));
        handle.add_input(c"x".as_ptr(), crate::DataType::BF16, &dims)
    };
    let tensor = tensor.unwrap().unwrap();
    assert_eq!(network.seen.load(Ordering::SeqCst), 702);
    assert_eq!(tensor.abi().to_string(), "TensorRT 11.4.0");
}

#[test]
fn a_layer_has_functions_of_its_own_and_those_of_all_layers() {
    let (every, _every) = fake(&[(3, set_name as *const c_void)]);
    let (own, _own) = fake(&[(5, dimensions as *const c_void)]);
    let words = public(&[&every, &own]);
    // SAFETY: the object is a fake with these functions.
    unsafe {
        let constant = IConstantLayer::from_object(object(&words, 10500));
        assert_eq!(constant.get_dimensions().unwrap().as_slice(), [2, 3, 5]);
        ILayer::from(constant).set_name(c"four".as_ptr()).unwrap();
    }
    assert_eq!(every.seen.load(Ordering::SeqCst), 4);
}

#[test]
fn slots_follow_the_line() {
    // `VNetworkDefinition` has two functions of plugins more in TensorRT than in TensorRT-RTX.
    let slot = |number, name: &str| {
        let abi = Abi::of_number(number, Newer::Refuse).unwrap();
        let methods = crate::generated::slots::NETWORK_DEFINITION.methods.iter();
        methods.clone().find(|m| m.name == name).unwrap().slot(abi)
    };
    assert_eq!(slot(10701, "addMatrixMultiply"), Some(22));
    assert_ne!(
        slot(10701, "addAttentionV2"),
        slot(110400, "addAttentionV2")
    );
}

#[test]
fn a_missing_function_is_an_error_with_both_versions() {
    let (refitter, _vtable) = fake(&[]);
    let words = public(&[&refitter]);
    // SAFETY: nothing is called: the version does not have the function.
    let error = unsafe { IRefitter::from_object(object(&words, 10601)).release_refit_resources() };
    assert_eq!(
        error.unwrap_err().to_string(),
        "IRefitter::releaseRefitResources is not in TensorRT-RTX 1.6.1, it came with TensorRT-RTX 1.7.1"
    );
    // SAFETY: as above.
    let error = unsafe { crate::IRuntimeCache::from_object(object(&words, 110400)).reset() };
    assert_eq!(
        error.unwrap_err().to_string(),
        "IRuntimeCache::reset is not in TensorRT 11.4.0, no version of TensorRT has it"
    );
}

#[test]
fn a_missing_object_is_none_or_an_error() {
    let slots = (2..100)
        .map(|slot| (slot, nothing as *const c_void))
        .collect::<Vec<_>>();
    let (network, _vtable) = fake(&slots);
    let words = public(&[&network]);
    // SAFETY: the object is a fake all of whose functions give null.
    unsafe {
        let handle = INetworkDefinition::from_object(object(&words, 10701));
        assert_eq!(handle.get_layer(0).unwrap(), None);
        let error = handle.get_builder().unwrap_err().to_string();
        assert_eq!(
            error,
            "INetworkDefinition::getBuilder of TensorRT-RTX 1.7.1 gave no object"
        );
    }
}

#[test]
fn deleting_calls_slot_1_of_the_public_vtable() {
    static DELETED: AtomicI32 = AtomicI32::new(0);
    unsafe extern "C" fn delete(_this: *mut c_void) {
        DELETED.fetch_add(1, Ordering::SeqCst);
    }
    let vtable = [wrong as *const c_void, delete as *const c_void];
    let words = [vtable.as_ptr().cast::<c_void>(), std::ptr::null()];
    // SAFETY: the object is a fake with a destructor.
    unsafe { ITensor::from_object(object(&words, 10701)).destroy() };
    assert_eq!(DELETED.load(Ordering::SeqCst), 1);
}
