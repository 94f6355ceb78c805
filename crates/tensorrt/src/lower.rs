//! Graphs to networks.
