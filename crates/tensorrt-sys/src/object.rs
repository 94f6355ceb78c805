//! Objects of the library: how a virtual function is found and called.
//!
//! An object of the public interface begins with the address of its vtable, followed by the
//! addresses of what implements it. Its public functions only forward, so that calls go to the
//! implementation: object → word `member` → vtable → slot. Which word and which slot comes from
//! the headers; the slot also from the version that is loaded, so that a function which that
//! version lacks is an error and never a wrong call.
//!
//! Handles are plain copies of a pointer. This module knows nothing of who owns what, who must
//! outlive whom, or which thread may call: the safe layer above does.
//!
//! ```text
//! ITensor ─► [ vtable | implementation ] ─► [ vtable ] ─► [ D1 | D0 | setName | getName | … ]
//! ```
//!
//! # Safety
//! All calling functions demand the same, and their documentation refers here:
//! - the object is alive, and so are all objects that it depends on (a network's tensors die with
//!   the network, an engine's contexts before the engine, the library is never unloaded);
//! - each pointer given is valid as the library's documentation of that function demands, for as
//!   long as it demands (weights until the build is over, names until the call returns);
//! - objects given belong to the same library;
//! - functions of one object are called by one thread at a time, unless that documentation says
//!   otherwise.

use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;

use crate::slot::Class;
use crate::{Abi, Error};

/// A pointer to an object of the library, with the ABI that it is called by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Object {
    pointer: NonNull<c_void>,
    abi: Abi,
}

/// A handle of one class.
pub trait Interface: Copy {
    /// The class's name in the library's headers.
    const NAME: &'static str;

    /// The handle of an object.
    ///
    /// # Safety
    /// The object is of this class or derives from it.
    unsafe fn from_object(object: Object) -> Self;

    /// The object.
    fn object(self) -> Object;

    /// The object's address.
    fn as_ptr(self) -> *mut c_void {
        self.object().pointer.as_ptr()
    }

    /// The ABI that the object is called by.
    fn abi(self) -> Abi {
        self.object().abi
    }

    /// Deletes the object, as `delete` does in C++.
    ///
    /// # Safety
    /// The caller owns the object (the library's documentation says of which function's results
    /// this is so), nothing that depends on it is alive, and no handle of it is used afterwards.
    unsafe fn destroy(self) {
        // SAFETY: by the caller's promise the object is alive; slot 1 of every public vtable is
        // the destructor that also frees.
        unsafe { self.object().delete() }
    }
}

impl Object {
    /// The object at `pointer`, if it is not null.
    ///
    /// # Safety
    /// The pointer is null or that of an object of a library of this ABI.
    pub unsafe fn new(pointer: *mut c_void, abi: Abi) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self { pointer, abi })
    }

    /// The implementation behind word `member` and its function in slot `index` of the table.
    ///
    /// # Safety
    /// The object is alive and of a class that forwards to `class` by that word.
    pub(crate) unsafe fn function(
        self,
        member: usize,
        class: &Class,
        index: usize,
    ) -> Result<(*mut c_void, *const c_void), Error> {
        let method = &class.methods[index];
        let slot = method.slot(self.abi).ok_or(Error::MissingMethod {
            class: class.name,
            method: method.name,
            found: self.abi,
            since: method.since(self.abi.line()),
        })?;
        // SAFETY: an object of the class has more than `member` words, and that word is the
        // address of its implementation, whose first word is the address of a vtable that has
        // `slot`, because this version does.
        unsafe {
            let implementation = *self.pointer.as_ptr().cast::<*mut c_void>().add(member);
            let vtable = *implementation.cast::<*const *const c_void>();
            Ok((implementation, *vtable.add(slot)))
        }
    }

    /// Why a function that promises an object gave none.
    pub(crate) fn nothing_from(self, class: &Class, index: usize) -> Error {
        Error::NoObject {
            class: class.name,
            method: class.methods[index].name,
            found: self.abi,
        }
    }

    pub(crate) fn abi(self) -> Abi {
        self.abi
    }

    /// # Safety
    /// As [`Interface::destroy`].
    unsafe fn delete(self) {
        // SAFETY: the first word of a public object is its vtable, slot 1 of which is the
        // deleting destructor (the Itanium C++ ABI has the complete one before it).
        unsafe {
            let vtable = *self.pointer.as_ptr().cast::<*const *const c_void>();
            let delete = std::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut c_void)>(
                *vtable.add(1),
            );
            delete(self.pointer.as_ptr());
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} of {}", self.pointer, self.abi)
    }
}

/// An argument of a calling function: what it is on the other side of the border.
pub trait Pass {
    /// A type of the C ABI.
    type Raw;

    /// The argument as the library takes it.
    fn pass(self) -> Self::Raw;
}

/// A result of a calling function.
pub trait Receive: Sized {
    /// A type of the C ABI.
    type Raw;

    /// The result as the caller gets it; `None` if it is a null pointer and must not be.
    ///
    /// # Safety
    /// `raw` was given by a function with this result, of a library of this ABI.
    unsafe fn receive(raw: Self::Raw, abi: Abi) -> Option<Self>;
}

impl<T> Pass for &T {
    type Raw = *const T;

    fn pass(self) -> Self::Raw {
        self
    }
}

impl<T> Pass for &mut T {
    type Raw = *mut T;

    fn pass(self) -> Self::Raw {
        self
    }
}

/// Types that are the same on both sides.
macro_rules! plain {
    ($($({$parameter:ident})? $name:ty),* $(,)?) => { $(
        impl $(<$parameter>)? crate::object::Pass for $name {
            type Raw = Self;

            fn pass(self) -> Self {
                self
            }
        }

        impl $(<$parameter>)? crate::object::Receive for $name {
            type Raw = Self;

            unsafe fn receive(raw: Self, _abi: crate::Abi) -> Option<Self> {
                Some(raw)
            }
        }
    )* };
}
pub(crate) use plain;

plain!((), bool, i32, u32, i64, u64, usize, f32, f64, {T} *const T, {T} *mut T);

/// A handle and its calling functions.
///
/// Each line is one function: its place in the slot table, its name there, its signature.
macro_rules! object {
    ($name:ident $(($base:ident))? at $member:literal in $table:ident {
        $($index:literal $cpp:literal $method:ident($($argument:ident: $ty:ty),*) -> $result:ty;)*
    }) => {
        #[doc = concat!("A handle of an `", stringify!($name), "`; see [`Interface`](crate::Interface).")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(crate::Object);

        impl crate::Interface for $name {
            const NAME: &'static str = stringify!($name);

            unsafe fn from_object(object: crate::Object) -> Self {
                Self(object)
            }

            fn object(self) -> crate::Object {
                self.0
            }
        }

        impl crate::object::Pass for $name {
            type Raw = *mut c_void;

            fn pass(self) -> *mut c_void {
                crate::Interface::as_ptr(self)
            }
        }

        impl crate::object::Pass for Option<$name> {
            type Raw = *mut c_void;

            fn pass(self) -> *mut c_void {
                self.map_or(std::ptr::null_mut(), crate::Interface::as_ptr)
            }
        }

        impl crate::object::Receive for $name {
            type Raw = *mut c_void;

            unsafe fn receive(raw: *mut c_void, abi: crate::Abi) -> Option<Self> {
                // SAFETY: the caller says where the pointer is from.
                unsafe { crate::Object::new(raw, abi) }.map(Self)
            }
        }

        impl crate::object::Receive for Option<$name> {
            type Raw = *mut c_void;

            unsafe fn receive(raw: *mut c_void, abi: crate::Abi) -> Option<Self> {
                // SAFETY: the caller says where the pointer is from.
                Some(unsafe { crate::Object::new(raw, abi) }.map($name))
            }
        }

        $(
            impl From<$name> for $base {
                fn from(object: $name) -> Self {
                    Self(object.0)
                }
            }
        )?

        #[allow(clippy::too_many_arguments, reason = "the signatures are the library's")]
        impl $name { $(
            #[doc = concat!("Calls `", stringify!($name), "::", $cpp, "`.")]
            ///
            /// # Safety
            /// What [the module](crate::object) demands of every call.
            pub unsafe fn $method(self $(, $argument: $ty)*) -> Result<$result, crate::Error> {
                let class = &crate::generated::slots::$table;
                // SAFETY: the caller promises that the object is alive; word and table are those
                // that its class is declared with.
                let found = unsafe { self.0.function($member, class, $index) };
                let (implementation, function) = found?;
                // SAFETY: the function in this slot is declared with this signature, in every
                // version of both lines.
                let function = unsafe {
                    std::mem::transmute::<
                        *const c_void,
                        unsafe extern "C" fn(
                            *mut c_void
                            $(, <$ty as crate::object::Pass>::Raw)*
                        ) -> <$result as crate::object::Receive>::Raw,
                    >(function)
                };
                // SAFETY: the caller promises that the arguments are what the library demands.
                let result = unsafe {
                    function(implementation $(, crate::object::Pass::pass($argument))*)
                };
                // SAFETY: the result is of this object's library.
                unsafe { <$result as crate::object::Receive>::receive(result, self.0.abi()) }
                    .ok_or_else(|| self.0.nothing_from(class, $index))
            }
        )* }
    };
}
pub(crate) use object;

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
