//! The traits between a graph and what runs it: Backend, Executable, Session.
#![forbid(unsafe_code)]
