//! Backend descriptors of cuDNN: created, given attributes, finalized, destroyed when dropped.
//!
//! Every object of the backend API is one of these. The functions here know how a Rust value
//! becomes an attribute (its type and the bytes behind the pointer), and name the attribute in
//! the error when the library does not take it.
//!
//! ```ignore
//! let tensor = Descriptor::new(library, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
//!     .with_integers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[1, 24, 4608, 128])?
//!     .finalized()?;
//! ```

use std::ffi::c_void;
use std::fmt;
use std::ptr;

pub(super) use cudarc::cudnn::sys::cudnnBackendAttributeName_t as Name;
pub(super) use cudarc::cudnn::sys::cudnnBackendAttributeType_t as Type;
pub(super) use cudarc::cudnn::sys::cudnnBackendDescriptorType_t as Kind;

use super::library::{Attempt, Library, RawDescriptor, RawHandle};

/// One object of the backend API.
pub(super) struct Descriptor {
    library: &'static Library,
    kind: Kind,
    raw: RawDescriptor,
}

// SAFETY: a descriptor belongs to no thread. All that changes one takes it by value or by `&mut`,
// and a shared one is only read, or executed under the lock of the handle.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    pub(super) fn new(library: &'static Library, kind: Kind) -> Attempt<Self> {
        let mut raw: RawDescriptor = ptr::null_mut();
        // SAFETY: the pointer is to a live variable.
        let status = unsafe { (library.functions.create_descriptor)(kind as u32, &raw mut raw) };
        library.check(status, || format!("making a {kind:?}"))?;
        Ok(Self { library, kind, raw })
    }

    pub(super) fn raw(&self) -> RawDescriptor {
        self.raw
    }

    pub(super) fn finalized(self) -> Attempt<Self> {
        // SAFETY: the descriptor is live.
        let status = unsafe { (self.library.functions.finalize)(self.raw) };
        self.library
            .check(status, || format!("finalizing a {:?}", self.kind))?;
        Ok(self)
    }

    pub(super) fn with_integers(self, name: Name, values: &[i64]) -> Attempt<Self> {
        self.with(name, Type::CUDNN_TYPE_INT64, values)
    }

    pub(super) fn with_float(self, name: Name, value: f32) -> Attempt<Self> {
        self.with(name, Type::CUDNN_TYPE_FLOAT, &[value])
    }

    pub(super) fn with_boolean(self, name: Name, value: bool) -> Attempt<Self> {
        self.with(name, Type::CUDNN_TYPE_BOOLEAN, &[value])
    }

    /// One of the library's enums, which are as wide as `u32`.
    pub(super) fn with_choice(self, name: Name, ty: Type, value: u32) -> Attempt<Self> {
        self.with(name, ty, &[value])
    }

    pub(super) fn with_pointers(self, name: Name, values: &[*mut c_void]) -> Attempt<Self> {
        self.with(name, Type::CUDNN_TYPE_VOID_PTR, values)
    }

    pub(super) fn with_handle(self, name: Name, value: RawHandle) -> Attempt<Self> {
        self.with(name, Type::CUDNN_TYPE_HANDLE, &[value])
    }

    pub(super) fn with_descriptor(self, name: Name, value: &Self) -> Attempt<Self> {
        self.with(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[value.raw])
    }

    pub(super) fn with_descriptors(self, name: Name, values: &[Self]) -> Attempt<Self> {
        let raw: Vec<RawDescriptor> = values.iter().map(Self::raw).collect();
        self.with(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw)
    }

    /// `T` is what the library reads for an attribute of type `ty`.
    fn with<T: Copy>(self, name: Name, ty: Type, values: &[T]) -> Attempt<Self> {
        // SAFETY: the descriptor is live, and there are as many values as said, of the type that
        // the callers above choose for `ty`; the library copies them.
        let status = unsafe {
            (self.library.functions.set_attribute)(
                self.raw,
                name as u32,
                ty as u32,
                values.len() as i64,
                values.as_ptr().cast(),
            )
        };
        self.library.check(status, || format!("setting {name:?}"))?;
        Ok(self)
    }

    pub(super) fn integer(&self, name: Name) -> Attempt<i64> {
        let mut value = [0i64];
        self.read(name, Type::CUDNN_TYPE_INT64, &mut value)?;
        Ok(value[0])
    }

    /// Values of one of the library's enums, at most 32.
    pub(super) fn choices(&self, name: Name, ty: Type) -> Attempt<Vec<u32>> {
        let mut values = [0u32; 32];
        let count = self.read(name, ty, &mut values)?;
        Ok(values[..count].to_vec())
    }

    /// How many descriptors an attribute has.
    pub(super) fn count(&self, name: Name) -> Attempt<usize> {
        self.read::<RawDescriptor>(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut [])
    }

    /// Has the library fill in `targets`, which are made and not finalized; gives how many it did.
    pub(super) fn read_into(&self, name: Name, targets: &mut [Self]) -> Attempt<usize> {
        let mut raw: Vec<RawDescriptor> = targets.iter().map(Self::raw).collect();
        self.read(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut raw)
    }

    /// Reads as many values as there are and as fit; with no room, says how many there are.
    fn read<T: Copy>(&self, name: Name, ty: Type, values: &mut [T]) -> Attempt<usize> {
        let mut found = 0i64;
        let room = if values.is_empty() {
            ptr::null_mut()
        } else {
            values.as_mut_ptr().cast()
        };
        // SAFETY: the descriptor is live, the count goes to a live variable, and the library
        // writes at most as many values as there is room for, of the type that `ty` means.
        let status = unsafe {
            (self.library.functions.get_attribute)(
                self.raw,
                name as u32,
                ty as u32,
                values.len() as i64,
                &raw mut found,
                room,
            )
        };
        self.library.check(status, || format!("reading {name:?}"))?;
        let found = usize::try_from(found).unwrap_or(0);
        Ok(if values.is_empty() {
            found
        } else {
            found.min(values.len())
        })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is live and nobody has it any more: what was made from it was
        // dropped before. There is nothing to do about a failure.
        unsafe { (self.library.functions.destroy_descriptor)(self.raw) };
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:p}", self.kind, self.raw)
    }
}
