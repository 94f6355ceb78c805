//! Optimization profiles: the ranges of sizes that an engine takes.

use std::ops::RangeInclusive;

use tintype_tensorrt_sys::{Dims, IOptimizationProfile, OptProfileSelector};

use super::Builder;
use crate::calls::name;
use crate::{Error, Result};

/// For each input of unknown size its smallest, most usual and largest shape.
///
/// ```no_run
/// # fn f(builder: &tintype_tensorrt::build::Builder) -> tintype_tensorrt::Result<()> {
/// let mut profile = builder.profile()?;
/// profile.set_shape("hidden_states", &[1, 256, 3072], &[1, 4096, 3072], &[2, 8192, 3072])?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Profile<'b> {
    builder: &'b Builder,
    /// The builder owns it.
    object: IOptimizationProfile,
}

/// What the shapes of a profile are called, in the order in which they are given.
const SELECTORS: [(OptProfileSelector, &str); 3] = [
    (OptProfileSelector::MIN, "smallest"),
    (OptProfileSelector::OPT, "usual"),
    (OptProfileSelector::MAX, "largest"),
];

impl<'b> Profile<'b> {
    pub(super) fn new(builder: &'b Builder, object: IOptimizationProfile) -> Self {
        Self { builder, object }
    }

    /// The shapes of an input: smallest, the one to be fastest for, largest.
    ///
    /// # Errors
    /// [`Error::Setting`] if they differ in rank or are not in this order;
    /// [`Error::Library`] for more than 8 dimensions.
    pub fn set_shape(
        &mut self,
        input: &str,
        smallest: &[i64],
        usual: &[i64],
        largest: &[i64],
    ) -> Result<()> {
        let shapes = [smallest, usual, largest];
        check(input, shapes)?;
        let input_name = name(input)?;
        for ((selector, which), shape) in SELECTORS.into_iter().zip(shapes) {
            let dims = Dims::new(shape)?;
            let action = format_args!("setting the {which} shape {shape:?} of `{input}`");
            self.builder.calls().done(action, || {
                // SAFETY: the builder keeps the profile; name and shape live longer than the
                // call.
                unsafe {
                    self.object
                        .set_dimensions(input_name.as_ptr(), selector, &dims)
                }
            })?;
        }
        Ok(())
    }

    /// The values of an input that is itself a shape: smallest, usual, largest.
    ///
    /// # Errors
    /// As [`Profile::set_shape`].
    pub fn set_values(
        &mut self,
        input: &str,
        smallest: &[i64],
        usual: &[i64],
        largest: &[i64],
    ) -> Result<()> {
        let values = [smallest, usual, largest];
        check(input, values)?;
        let input_name = name(input)?;
        for ((selector, which), values) in SELECTORS.into_iter().zip(values) {
            let action = format_args!("setting the {which} values {values:?} of `{input}`");
            let count = values.len() as i32;
            self.builder.calls().done(action, || {
                // SAFETY: as above; the library copies the values.
                unsafe {
                    self.object.set_shape_values_v2(
                        input_name.as_ptr(),
                        selector,
                        values.as_ptr(),
                        count,
                    )
                }
            })?;
        }
        Ok(())
    }

    /// Whether the shapes that were set fit each other.
    pub fn is_valid(&self) -> Result<bool> {
        self.builder.calls().run("checking a profile", || {
            // SAFETY: the builder keeps the profile.
            unsafe { self.object.is_valid() }
        })
    }

    pub(super) fn builder(&self) -> &'b Builder {
        self.builder
    }

    pub(super) fn raw(&self) -> IOptimizationProfile {
        self.object
    }
}

fn check(input: &str, [smallest, usual, largest]: [&[i64]; 3]) -> Result<()> {
    let in_order = |range: RangeInclusive<&i64>, usual| range.contains(&usual);
    let ranges = smallest.iter().zip(largest).zip(usual);
    let fits = smallest.len() == usual.len()
        && usual.len() == largest.len()
        && ranges
            .into_iter()
            .all(|((smallest, largest), usual)| in_order(smallest..=largest, usual));
    if fits {
        return Ok(());
    }
    Err(Error::Setting {
        what: format!("profile of `{input}`"),
        expected: "smallest ≤ usual ≤ largest, of one rank".to_owned(),
        found: format!("{smallest:?}, {usual:?}, {largest:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_must_be_in_order_and_of_one_rank() {
        assert!(check("x", [&[1, 2], &[1, 2], &[4, 2]]).is_ok());
        assert!(check("x", [&[], &[], &[]]).is_ok());
        for shapes in [
            [&[1][..], &[2, 2], &[4, 2]],
            [&[2], &[1], &[4]],
            [&[1], &[5], &[4]],
        ] {
            let error = check("x", shapes).unwrap_err().to_string();
            assert!(
                error.starts_with("profile of `x`: expected smallest"),
                "{error}"
            );
        }
    }
}
