//! Keys of plans, and the folder they are kept in.
