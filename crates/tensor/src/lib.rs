//! Dtypes with their rounding rules, shapes, host tensors, and torch-compatible noise.
#![forbid(unsafe_code)]
