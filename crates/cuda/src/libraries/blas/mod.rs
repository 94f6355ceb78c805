//! Products by cuBLASLt.

pub(crate) mod layout;
#[cfg(test)]
mod reference;
pub(crate) mod survey;
