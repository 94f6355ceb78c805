//! Changing parameters: checked whole, then replaced, each under a new generation.
//!
//! A change that is refused leaves everything as it was. Other clones of the
//! parameters, and views derived earlier, do not see it.
//!
//! ```
//! use tintype_tensor::Tensor;
//! use tintype_weights::{ChangeOptions, Parameters};
//! let mut parameters = Parameters::builder()
//!     .tensor("scale", Tensor::from_f32([2], vec![1.0, 2.0])?)
//!     .build()?;
//! let broken = Tensor::from_f32([2], vec![f32::NAN, 0.0])?;
//! let options = ChangeOptions { finite: true, ..ChangeOptions::default() };
//! assert!(parameters.set_with("scale", broken, options).is_err());
//! assert_eq!(parameters.get("scale")?.to_f32_vec()?, [1.0, 2.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::Path;
use std::sync::Arc;

use tintype_tensor::{DType, Tensor};

use crate::entry::Entry;
use crate::error::shown;
use crate::parameters::insert_new;
use crate::source::{Base, Source};
use crate::{ChangeSet, Error, Parameters, Result};

/// What is looked at before a change is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeOptions {
    /// Refuse NaN and infinities; reads the new values.
    pub finite: bool,
    /// Keep what has the same content already; hashes the old and new values.
    pub compare_content: bool,
}

impl Parameters {
    /// Replaces a parameter by a tensor of the same shape. The tensor keeps its
    /// dtype, which must be a float where the old one is and an integer where it is.
    pub fn set(&mut self, name: &str, tensor: Tensor) -> Result<ChangeSet> {
        self.set_with(name, tensor, ChangeOptions::default())
    }

    /// The same with further checks.
    pub fn set_with(
        &mut self,
        name: &str,
        tensor: Tensor,
        options: ChangeOptions,
    ) -> Result<ChangeSet> {
        let entry = Entry::new(Source::new(Base::Memory(tensor)));
        self.replace(vec![(name.into(), entry)], options)
    }

    /// Adds a parameter under a name that is free.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Result<()> {
        let entry = Entry::new(Source::new(Base::Memory(tensor)));
        let name: String = name.into();
        insert_new(Arc::make_mut(&mut self.entries), name, entry)
    }

    /// Replaces the parameters that a checkpoint holds, all of which must exist
    /// here. Nothing is replaced if one of them is refused.
    pub fn replace_from(
        &mut self,
        path: impl AsRef<Path>,
        options: ChangeOptions,
    ) -> Result<ChangeSet> {
        self.replace_with(&Self::open(path)?, options)
    }

    /// Replaces the parameters that `other` holds, all of which must exist here.
    /// Each gets a new generation and keeps what is known of its hash.
    pub fn replace_with(&mut self, other: &Self, options: ChangeOptions) -> Result<ChangeSet> {
        let entries = other.entries.iter();
        let changes = entries.map(|(name, entry)| (Arc::clone(name), Arc::clone(entry)));
        self.replace(changes.collect(), options)
    }

    /// Lets `change` edit a copy of the values as f32, then puts it back in the
    /// dtype that the parameter had.
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut [f32])) -> Result<ChangeSet> {
        self.edit_with(name, change, ChangeOptions::default())
    }

    /// The same with further checks. Integers beyond 2^24 would lose digits as
    /// f32, so only floats can be edited.
    pub fn edit_with(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut [f32]),
        options: ChangeOptions,
    ) -> Result<ChangeSet> {
        let entry = self.entry(name)?;
        let wrong = |source| entry.source.base().value_error(name, source);
        let tensor = entry.source.read(name)?;
        if !tensor.dtype().is_float() {
            let found = tensor.dtype();
            return Err(wrong(tintype_tensor::Error::DType {
                expected: DType::F32,
                found,
            }));
        }
        let mut values = tensor.to_f32_vec().map_err(wrong)?;
        change(&mut values);
        if options.finite {
            // Before rounding: FP8 would turn an infinity into its largest value.
            check_values(name, "the edit", &values, 0)?;
        }
        let shape = tensor.shape().clone();
        let tensor = Tensor::from_f32_as(tensor.dtype(), shape, values).map_err(wrong)?;
        self.set_with(name, tensor, options)
    }

    /// Reads a parameter, and refuses NaN and infinities; what was found finite is not read
    /// again.
    pub fn expect_finite(&self, name: &str) -> Result<()> {
        let entry = self.entry(name)?;
        if entry.finite.get().is_none() {
            check_finite(name, entry)?;
            // Another thread may have found the same.
            let _ = entry.finite.set(());
        }
        Ok(())
    }

    fn replace(
        &mut self,
        changes: Vec<(Arc<str>, Arc<Entry>)>,
        options: ChangeOptions,
    ) -> Result<ChangeSet> {
        let mut accepted = Vec::with_capacity(changes.len());
        for (name, entry) in changes {
            let old = self.entry(&name)?;
            if old.is_same(entry.generation, entry.source.views()) {
                continue;
            }
            check_replacement(&name, old, &entry)?;
            if options.finite {
                check_finite(&name, &entry)?;
            }
            let equal =
                options.compare_content && old.content_hash(&name)? == entry.content_hash(&name)?;
            if !equal {
                accepted.push((name, entry.renewed()));
            }
        }
        let changes = ChangeSet {
            changed: accepted.iter().map(|(name, _)| name.to_string()).collect(),
            ..ChangeSet::default()
        };
        self.replace_entries(accepted);
        Ok(changes)
    }
}

/// Same shape, and a dtype of the same kind.
fn check_replacement(name: &str, old: &Entry, new: &Entry) -> Result<()> {
    let origin = || new.source.base().origin();
    if old.source.shape() != new.source.shape() {
        return Err(Error::Shape {
            origin: origin(),
            tensor: shown(name),
            expected: old.source.shape().clone(),
            found: new.source.shape().clone(),
        });
    }
    let found = new.source.dtype()?;
    // What cannot be read may be replaced by anything that can.
    if let Ok(expected) = old.source.dtype()
        && expected.is_float() != found.is_float()
    {
        return Err(Error::Parameter {
            origin: origin(),
            tensor: shown(name),
            expected: format!("a dtype that converts to {expected}"),
            found: found.to_string(),
        });
    }
    Ok(())
}

fn check_finite(name: &str, entry: &Entry) -> Result<()> {
    let tensor = entry.source.read(name)?;
    if !tensor.dtype().is_float() {
        return Ok(());
    }
    let mut values = vec![0.0; CHUNK.min(tensor.element_count())];
    let mut start = 0;
    while start < tensor.element_count() {
        let part = values.len().min(tensor.element_count() - start);
        let read = tensor.read_f32(start, &mut values[..part]);
        read.map_err(|source| entry.source.base().value_error(name, source))?;
        check_values(name, &entry.source.base().origin(), &values[..part], start)?;
        start += part;
    }
    Ok(())
}

/// Values of a tensor from position `start` on.
fn check_values(name: &str, origin: &str, values: &[f32], start: usize) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::Parameter {
            origin: origin.to_owned(),
            tensor: shown(name),
            expected: "finite values".to_owned(),
            found: format!("{} at position {}", values[index], start + index),
        }),
    }
}

/// Elements that are looked at together, so that no second copy is held.
const CHUNK: usize = 1 << 16;
