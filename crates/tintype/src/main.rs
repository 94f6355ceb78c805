//! The `tintype` program.
fn main() {}
