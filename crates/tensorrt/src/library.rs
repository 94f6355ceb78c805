//! The loaded library and the logger that every object of it shares.
