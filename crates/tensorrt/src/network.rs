//! A network under construction.
