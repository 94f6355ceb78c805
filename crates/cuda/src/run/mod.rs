//! Plans on a device.

pub(crate) mod prepared;

pub(crate) use self::prepared::{Addresses, Prepared};
