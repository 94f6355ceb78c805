//! The backend: compiled graphs, sessions, states.
