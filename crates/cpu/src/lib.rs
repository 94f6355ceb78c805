//! Executes any Tintype graph on the CPU; the meaning of the IR.
