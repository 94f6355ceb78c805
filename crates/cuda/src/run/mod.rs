//! Plans on a device: steps made ready, memory at fixed addresses, captured graphs.
//!
//! | module | holds |
//! |---|---|
//! | `prepared` | what a step becomes: something that is enqueued |
//! | `makers` | who makes a step ready, the best first, and what falls back |
//! | `offers` | the libraries and our own kernels as makers |
//! | `parts` | products of codes where no library takes them whole |
//! | `kernels` | kernels compiled once each and side by side |
//! | `places` | steps that differ in their places alone, made ready once |
//! | `machine` | what programs run on: a GPU, or host memory in tests |
//! | `program` | a plan whose steps are ready |
//! | `weights` | the weights of one version, and who still reads them |
//! | `captures` | when a program is run, captured, replayed |
//! | `lane` | a stream with a workspace, in which programs run |
//! | `gpu`, `graph`, `branches` | the GPU as a machine, its captured graphs, a stream beside another |
//! | `profile` | how long each step takes |
//!
//! Nothing here knows the traits of backends; that is `backend`'s.

mod branches;
mod captures;
pub(crate) mod gpu;
mod graph;
#[cfg(test)]
pub(crate) mod host;
pub(crate) mod kernels;
pub(crate) mod lane;
pub(crate) mod machine;
pub(crate) mod makers;
mod offers;
mod parts;
mod places;
pub(crate) mod prepared;
pub(crate) mod profile;
pub(crate) mod program;
pub(crate) mod weights;

pub(crate) use self::prepared::{Addresses, Prepared};
