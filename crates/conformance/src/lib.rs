//! Cases times backends with one tolerance table.
#![forbid(unsafe_code)]
