//! Named constants: placeholders without values, literals with them.
//!
//! The library tells weights apart by address and reads them until the build is over. Where it
//! takes null weights, a placeholder is one. Elsewhere each placeholder gets an address of its
//! own in a large mapping of zeros, of which no page is ever written, so that it takes no memory:
//! placeholders may overlap there as long as no two begin at one address.

use memmap2::{Mmap, MmapOptions};
use tintype_tensor::{DType, Tensor};
use tintype_tensorrt_sys::{Dims, Weights};

use super::{Network, Value};
use crate::calls::name;
use crate::dtype::to_library;
use crate::{Error, Result};

/// What constants point to.
#[derive(Default)]
pub(super) struct Kept {
    literals: Vec<Box<[u64]>>,
    zeros: Vec<Zeros>,
}

/// A mapping of zeros and how many addresses in it are taken.
struct Zeros {
    mapping: Mmap,
    taken: usize,
}

/// Distance between two placeholders' addresses: the widest alignment that a kernel could ask for.
const STEP: usize = 256;

/// Length of a mapping beyond the placeholder that it is made for; room for many addresses.
const ROOM: usize = 1 << 30;

impl Network<'_> {
    /// A constant whose values come by refit, named for it.
    ///
    /// # Errors
    /// A name or dtype that the library does not take, no elements, or what the library says.
    pub fn placeholder(&self, weights: &str, dtype: DType, sizes: &[usize]) -> Result<Value<'_>> {
        let (raw, count) = (to_library(dtype)?, count(weights, sizes)?);
        let values = if self.builder().tensorrt().takes_placeholders() {
            Weights::placeholder(raw, count)
        } else {
            let bytes = dtype.byte_len(count as usize).unwrap_or(usize::MAX);
            Weights::new(raw, self.kept.borrow_mut().zeros(weights, bytes)?, count)
        };
        self.constant(weights, values, sizes)
    }

    /// A constant with the values of a tensor.
    ///
    /// # Errors
    /// A name or dtype that the library does not take, no elements, or what the library says.
    pub fn literal(&self, weights: &str, values: &Tensor, sizes: &[usize]) -> Result<Value<'_>> {
        let (raw, count) = (to_library(values.dtype())?, count(weights, sizes)?);
        if values.element_count() as i64 != count {
            return Err(Error::Mismatch {
                name: weights.to_owned(),
                expected: format!("{count} values"),
                found: format!("{}", values.element_count()),
            });
        }
        // An allocation of its own is an address of its own, aligned for every dtype.
        let mut words = vec![0_u64; values.bytes().len().div_ceil(8)];
        for (word, bytes) in words.iter_mut().zip(values.bytes().chunks(8)) {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(all);
        }
        let words = words.into_boxed_slice();
        let address = words.as_ptr();
        self.kept.borrow_mut().literals.push(words);
        self.constant(weights, Weights::new(raw, address.cast(), count), sizes)
    }

    fn constant(&self, weights: &str, values: Weights, sizes: &[usize]) -> Result<Value<'_>> {
        let text = name(weights)?;
        let sizes: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
        let dims = Dims::new(&sizes)?;
        let constant = self
            .calls()
            .object(format_args!("adding constant `{weights}`"), || {
                // SAFETY: the network is alive; what the weights point to is kept as long.
                unsafe { self.raw().add_constant(&dims, values) }
            })?;
        self.calls()
            .done(format_args!("naming weights `{weights}`"), || {
                // SAFETY: layer and network are alive, and the text outlives the call. A null
                // placeholder is known by what the layer gives, not by what it was made from.
                unsafe {
                    self.raw()
                        .set_weights_name(constant.get_weights()?, text.as_ptr())
                }
            })?;
        self.output(weights, constant.into())
    }
}

impl Kept {
    /// The address of `bytes` zeros that no other placeholder begins at.
    fn zeros(&mut self, weights: &str, bytes: usize) -> Result<*const std::ffi::c_void> {
        let fits = |zeros: &Zeros| zeros.taken * STEP + bytes <= zeros.mapping.len();
        if !self.zeros.last().is_some_and(fits) {
            let length = bytes.checked_add(ROOM).unwrap_or(isize::MAX as usize);
            let failed = |source| Error::Read {
                action: format!("cannot map {length} zeros for `{weights}`"),
                source,
            };
            let mapping = MmapOptions::new().len(length).no_reserve_swap().map_anon();
            let mapping = mapping
                .and_then(memmap2::MmapMut::make_read_only)
                .map_err(failed)?;
            self.zeros.push(Zeros { mapping, taken: 0 });
        }
        let zeros = self.zeros.last_mut().expect("one was just made");
        let address = zeros.mapping[zeros.taken * STEP..].as_ptr();
        zeros.taken += 1;
        Ok(address.cast())
    }
}

/// The number of elements, which is not zero.
fn count(weights: &str, sizes: &[usize]) -> Result<i64> {
    let count = sizes
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size));
    let count = count
        .and_then(|count| i64::try_from(count).ok())
        .filter(|&count| count > 0);
    count.ok_or_else(|| Error::Mismatch {
        name: weights.to_owned(),
        expected: "a constant of one element or more".to_owned(),
        found: format!("sizes {sizes:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_have_addresses_of_their_own() {
        let mut kept = Kept::default();
        let first = kept.zeros("a", 1 << 20).unwrap();
        let second = kept.zeros("b", 1 << 31).unwrap();
        let third = kept.zeros("c", 8).unwrap();
        assert!(first != second && second != third);
        assert_eq!(
            kept.zeros.len(),
            2,
            "the second does not fit beside the first"
        );
    }

    #[test]
    fn constants_have_elements() {
        assert_eq!(count("a", &[]).unwrap(), 1);
        assert_eq!(count("a", &[2, 3]).unwrap(), 6);
        assert!(count("a", &[2, 0]).is_err());
        assert!(count("a", &[usize::MAX, 3]).is_err());
    }
}
