//! The libraries that compute products, attention and convolutions.

pub(crate) mod blas;
pub(crate) mod dnn;
