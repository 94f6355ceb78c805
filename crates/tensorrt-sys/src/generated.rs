//! What `cargo xtask codegen tensorrt` writes.
//!
//! Nothing in here is edited: change `xtask/src/tensorrt` and run the command.
//!
//! ```text
//! cargo xtask codegen tensorrt
//! ```

pub(crate) mod interfaces;
pub(crate) mod objects;
pub(crate) mod slots;
pub(crate) mod types;
