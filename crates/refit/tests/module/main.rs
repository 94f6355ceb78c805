//! The mutable module on the CPU, seen from outside.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod backend;
mod misjudged;
mod network;
