//! Diffusion models compiled and changeable while they run: the facade and the command line program.
#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod hub;
