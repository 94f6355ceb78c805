//! The mutable module on the CPU, seen from outside.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod backend;
mod coverage;
mod failures;
mod misjudged;
mod network;
mod properties;
mod reports;
mod sizes;
mod threads;
