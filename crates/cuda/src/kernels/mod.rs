//! Kernels of our own for what no generated kernel computes, and for where a library is missing.
