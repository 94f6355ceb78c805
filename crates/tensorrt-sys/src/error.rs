//! What can go wrong between a program and the library.
//!
//! ```
//! use tintype_tensorrt_sys::{Abi, Newer};
//!
//! let error = Abi::of_number(10400, Newer::Refuse).unwrap_err();
//! assert!(error.to_string().contains("1.4.0"));
//! ```

use std::path::{Path, PathBuf};

use crate::version::{Abi, Line, Version};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No library at any of the places.
    #[error(
        "no TensorRT library found; install TensorRT-RTX 1.5 or later (pip package \
         tensorrt-rtx-cu13-libs) or TensorRT 11, or set TINTYPE_TENSORRT to its file or folder; \
         looked at: {}", .looked.join("; ")
    )]
    NotFound {
        /// Every place, and what was wrong with it.
        looked: Vec<String>,
    },
    /// A system whose C++ lays out vtables in another way.
    #[error("TensorRT can be used on 64-bit Linux only")]
    Platform,
    /// A file that is no loadable library.
    #[error("cannot load {}: {reason}", .path.display())]
    Load {
        /// The file, or the name that the system's search was given.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A library without a function that every version has.
    #[error("{} is no TensorRT library: it has no function {function}", .path.display())]
    NoFunction {
        /// The file.
        path: PathBuf,
        /// The function's name.
        function: &'static str,
    },
    /// A version whose vtables are not known.
    #[error(
        "version {version}{} is not supported, expected TensorRT-RTX 1.5 to {}.{} or TensorRT 11",
        of_file(.path.as_deref()), Line::Rtx.newest().major, Line::Rtx.newest().minor
    )]
    UnknownVersion {
        /// The file, if one was loaded.
        path: Option<PathBuf>,
        /// What the library says of itself.
        version: Version,
    },
    /// A runtime without the builder (the "lean" and "dispatch" libraries).
    #[error(
        "{} runs engines but cannot build them ({abi} without a builder); \
         set TINTYPE_TENSORRT to the full library", .path.display()
    )]
    NoBuilder {
        /// The file.
        path: PathBuf,
        /// Its version.
        abi: Abi,
    },
    /// The library made no object; it says why through the logger.
    #[error("{abi} made no {what}; its log says why")]
    NotCreated {
        /// The kind of object.
        what: &'static str,
        /// The library.
        abi: Abi,
    },
    /// A function that the loaded version does not have.
    #[error("{class}::{method} is not in {found}, {}", expected(*.found, *.since))]
    MissingMethod {
        /// The class.
        class: &'static str,
        /// The function.
        method: &'static str,
        /// The version loaded.
        found: Abi,
        /// The first version of this line that has it, if any has.
        since: Option<Version>,
    },
    /// A null pointer where the library promises an object.
    #[error("{class}::{method} of {found} gave no object")]
    NoObject {
        /// The class.
        class: &'static str,
        /// The function.
        method: &'static str,
        /// The version loaded.
        found: Abi,
    },
    /// More dimensions than the library has room for.
    #[error("expected at most {} dimensions, found {found}", crate::Dims::MAX)]
    TooManyDimensions {
        /// How many were given.
        found: usize,
    },
}

fn of_file(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(" of {}", path.display()))
}

fn expected(found: Abi, since: Option<Version>) -> String {
    match since {
        Some(since) => format!("it came with {} {since}", found.line()),
        None => format!("no version of {} has it", found.line()),
    }
}
