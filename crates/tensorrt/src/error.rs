//! What can go wrong with TensorRT.
//!
//! ```
//! use tintype_tensorrt::Error;
//!
//! let error = Error::Name { name: "a\0b".to_owned() };
//! assert_eq!(error.to_string(), r#""a\0b" cannot be a name: it has a zero byte or is too long"#);
//! ```

use std::io;
use std::path::PathBuf;

use tintype_tensor::DType;
use tintype_tensorrt_sys as sys;
use tintype_tensorrt_sys::Abi;

use crate::Target;

/// What can go wrong with TensorRT.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The library was not found, cannot be used, or lacks a function.
    #[error(transparent)]
    Library(#[from] sys::Error),
    /// The library refused or failed, in its own words.
    #[error("{action} failed: {message} ({code}, {abi})")]
    Call {
        /// What was being done.
        action: String,
        /// What the library said, in one line.
        message: String,
        /// The kind of failure.
        code: Code,
        /// The library.
        abi: Abi,
    },
    /// A build was stopped by whoever follows its progress.
    #[error("{action} was stopped")]
    Stopped {
        /// What was being done.
        action: String,
    },
    /// A plan or cache could not be written.
    #[error("{action}: {source}")]
    Write {
        /// What was being written.
        action: String,
        /// Why it could not.
        source: io::Error,
    },
    /// A plan could not be read.
    #[error("{action}: {source}")]
    Read {
        /// What was being read.
        action: String,
        /// Why it could not.
        source: io::Error,
    },
    /// A file of a cache could not be written.
    #[error("cannot write {}: {source}", .path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A target that the library does not build for.
    #[error("{abi} does not build for {target}: {reason}")]
    Target {
        /// What was asked for.
        target: Target,
        /// Why not, and what it builds for.
        reason: String,
        /// The library.
        abi: Abi,
    },
    /// The memory of the device cannot hold a graph's weights.
    #[error(
        "graph `{graph}` needs {needed} bytes on {device} for its weights, {free} of {total} are free; {}",
        way_out(*needed, *total)
    )]
    Memory {
        /// The graph.
        graph: String,
        /// The device.
        device: String,
        /// Bytes of its weights.
        needed: usize,
        /// Bytes that can be had.
        free: usize,
        /// Bytes that the device has.
        total: usize,
    },
    /// A text that is no architecture.
    #[error("{text:?} is no target, expected one like sm89 or 8.9")]
    NoTarget {
        /// The text.
        text: String,
    },
    /// A setting outside its range.
    #[error("{what}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        what: String,
        /// What it can be.
        expected: String,
        /// What it was.
        found: String,
    },
    /// A name that the library cannot take.
    #[error("{name:?} cannot be a name: it has a zero byte or is too long")]
    Name {
        /// The name.
        name: String,
    },
    /// An engine has no input, output or weights of this name.
    #[error("the engine has no {what} `{name}`, it has {}", list(.known))]
    Unknown {
        /// `input`, `output` or `weights`.
        what: &'static str,
        /// The name.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A tensor or weights of another dtype or size than the engine's.
    #[error("`{name}`: expected {expected}, found {found}")]
    Mismatch {
        /// The tensor or weights.
        name: String,
        /// What the engine takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// Inputs that were not given before running.
    #[error("{action}: not given: {}", list(.names))]
    Missing {
        /// What was being done.
        action: String,
        /// What is missing.
        names: Vec<String>,
    },
    /// A dtype that TensorRT does not have.
    #[error("TensorRT has no dtype {0}")]
    DType(DType),
    /// A dtype of the library that Tintype does not have.
    #[error("the library's dtype {0} is not known here")]
    LibraryDType(i32),
    /// Two objects that belong to different builders, engines or devices.
    #[error("{action}: {what} belongs to another {owner}")]
    Foreign {
        /// What was being done.
        action: String,
        /// What does not belong.
        what: String,
        /// Where it should belong.
        owner: &'static str,
    },
    /// The GPU failed.
    #[error(transparent)]
    Device(#[from] tintype_device::Error),
    /// A graph, or a dimension of it, that cannot be.
    #[error(transparent)]
    Graph(#[from] tintype_ir::Error),
    /// An operation that is not lowered.
    #[error("`{name}` ({operation}) cannot be lowered to TensorRT: {reason}")]
    Lowering {
        /// The operation's label, or its place.
        name: String,
        /// The operation's name.
        operation: &'static str,
        /// What is in the way.
        reason: String,
    },
}

/// The library's kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// It does not say, or said it in its log only.
    Unspecified,
    /// A fault of the library itself.
    Internal,
    /// An argument that cannot be.
    InvalidArgument,
    /// A configuration that cannot be.
    InvalidConfig,
    /// Memory did not suffice.
    FailedAllocation,
    /// Something could not be started, often the GPU.
    FailedInitialization,
    /// The GPU failed to run something.
    FailedExecution,
    /// A computation failed.
    FailedComputation,
    /// A call at the wrong time.
    InvalidState,
    /// What this version or GPU does not do.
    UnsupportedState,
}

impl Code {
    pub(crate) fn new(code: sys::ErrorCode) -> Self {
        match code {
            sys::ErrorCode::INTERNAL_ERROR => Self::Internal,
            sys::ErrorCode::INVALID_ARGUMENT => Self::InvalidArgument,
            sys::ErrorCode::INVALID_CONFIG => Self::InvalidConfig,
            sys::ErrorCode::FAILED_ALLOCATION => Self::FailedAllocation,
            sys::ErrorCode::FAILED_INITIALIZATION => Self::FailedInitialization,
            sys::ErrorCode::FAILED_EXECUTION => Self::FailedExecution,
            sys::ErrorCode::FAILED_COMPUTATION => Self::FailedComputation,
            sys::ErrorCode::INVALID_STATE => Self::InvalidState,
            sys::ErrorCode::UNSUPPORTED_STATE => Self::UnsupportedState,
            _ => Self::Unspecified,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified error",
            Self::Internal => "internal error",
            Self::InvalidArgument => "invalid argument",
            Self::InvalidConfig => "invalid configuration",
            Self::FailedAllocation => "failed allocation",
            Self::FailedInitialization => "failed initialization",
            Self::FailedExecution => "failed execution",
            Self::FailedComputation => "failed computation",
            Self::InvalidState => "invalid state",
            Self::UnsupportedState => "unsupported state",
        })
    }
}

/// What to do where weights do not fit.
fn way_out(needed: usize, total: usize) -> String {
    if needed > total {
        "use a GPU with more memory, or a smaller dtype".to_owned()
    } else {
        format!(
            "let models run in turn (`--low-memory`), which for this one takes those {needed} bytes"
        )
    }
}

/// Some of the names, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_says_what_would() {
        let error = |total| Error::Memory {
            graph: "t5".to_owned(),
            device: "GPU 0".to_owned(),
            needed: 10,
            free: 4,
            total,
        };
        let text = error(12).to_string();
        assert!(text.contains("needs 10 bytes on GPU 0"), "{text}");
        assert!(
            text.contains("4 of 12 are free; let models run in turn"),
            "{text}"
        );
        assert!(text.contains("`--low-memory`"), "{text}");
        let text = error(8).to_string();
        assert!(
            text.ends_with("a GPU with more memory, or a smaller dtype"),
            "{text}"
        );
    }

    #[test]
    fn long_lists_are_cut() {
        let names = |count: usize| {
            (0..count)
                .map(|index| index.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(list(&names(0)), "none");
        assert_eq!(list(&names(2)), "`0`, `1`");
        assert!(list(&names(8)).ends_with("`7`"));
        assert!(list(&names(11)).ends_with("`7` and 3 more"));
    }
}
