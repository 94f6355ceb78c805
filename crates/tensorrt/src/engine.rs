//! Runtime, engine, context, refitter, inspector.
