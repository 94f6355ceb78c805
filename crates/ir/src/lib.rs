//! Tintype's graph: ops, types, stages, text form, verifier and passes.
#![forbid(unsafe_code)]
