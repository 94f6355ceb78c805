//! Saved and loaded: equal outputs, every kind of damage, kills.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod ahead;
mod changed;
mod compiled;
mod damage;
mod process;
mod round_trip;
mod support;
