//! A small FLUX inside the program: coloured shapes from prompts, on any CPU.
//!
//! This crate is a table of files and nothing else: the files of a folder in diffusers'
//! layout, with the model's defaults (`tintype.json`) and two LoRAs. It has no dependencies
//! and no functions; `tintype-flux` reads the table where it lies, so a program that never
//! draws pays with its size alone.
//!
//! ```
//! let names = tintype_shapes::FILES.iter().map(|(name, _)| name);
//! assert!(names.is_sorted());
//! ```
#![forbid(unsafe_code)]

/// What stands for the model's folder in messages.
pub const LABEL: &str = "shapes (built in)";

/// Bytes at an address that suits every dtype; `include_bytes!` alone promises none.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

/// The bytes of a file.
macro_rules! embedded {
    ($path:literal) => {{
        const FILE: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &FILE.0
    }};
}

/// The model: paths with `/` below its folder, in order, and the bytes there. Each file
/// begins at a multiple of 64, so that tensors can be used where they lie.
pub static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/files.rs"));
