//! Products by cuBLASLt.
