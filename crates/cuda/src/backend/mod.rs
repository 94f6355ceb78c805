//! The traits of `tintype-backend`, on one GPU.
//!
//! | part | does |
//! |---|---|
//! | [`CudaBackend`] | opens the GPU; compiles graphs, which costs nothing yet |
//! | refit | runs the reached part of the weight program on the GPU |
//! | sessions | plan for the sizes at hand, run, capture, replay |
//!
//! What the traits demand, and how it is met:
//!
//! - **A request state keeps the weights it was prepared with.** It holds their version. While no
//!   state holds one, a refit writes new values where the old ones are, once all work that reads
//!   them is over: addresses stay, and so does what was captured. Otherwise a new version gets new
//!   memory for what has changed and shares the rest; steps with it are captured anew.
//! - **A failed refit leaves the old weights.** Parameters and overlays are checked first. Where
//!   the device's memory suffices, all new weights are computed before the first is written. Where
//!   it does not, they are computed and written in groups; what was written when one fails is
//!   computed again from the parameters and overlays of before. If that fails too, the executable
//!   refuses to run until a refit, which then computes all weights.
//! - **No picture is made with mixed weights**, so a `prepare` waits for a refit that is just
//!   writing: some milliseconds, or as long as it takes where weights come in groups.
//! - **Memory is said before loading**: a graph whose weights do not fit is an error with the need
//!   and what is free, before any is read.

mod exchange;
mod executable;
mod failure;
mod forecast;
mod implementation;
mod session;
#[cfg(test)]
mod tests;

pub use forecast::forecast;
pub use implementation::{CudaBackend, CudaOptions, capabilities};

/// The name by which users choose it.
const NAME: &str = "cuda";
