//! Builder, configuration, optimization profiles.
