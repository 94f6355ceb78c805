//! Whether contents are what they were.

use tintype_weights::Parameters;

use super::tensors::Listed;
use super::{ChangedFile, SavedModule, disk};
use crate::{Error, Result, Weights};

/// What was compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Parameters whose contents are those that were saved.
    pub equal: usize,
    /// Parameters whose contents were not known when the module was saved.
    pub unknown: usize,
    /// Files of compiled forms that are those that were saved.
    pub compiled: usize,
    /// Files of checkpoints that are others by size, time or header.
    pub changed: Vec<ChangedFile>,
}

impl SavedModule {
    /// Reads all contents and compares them with the hashes that were saved: parameters, and
    /// compiled forms.
    ///
    /// # Errors
    /// [`Error::SavedTensor`] and [`Error::Saved`] for the first that is another; a file that is
    /// missing.
    pub fn verify(&self) -> Result<Verified> {
        let without = self.manifest.weights.is_none();
        let none = Parameters::default();
        let (weights, changed) = self.weights(without.then_some(&none))?;
        let verified = self.compare(&weights)?;
        Ok(Verified {
            changed,
            ..verified
        })
    }

    /// Compares these weights, and the files of compiled forms.
    pub(super) fn compare(&self, weights: &Weights) -> Result<Verified> {
        let mut verified = Verified::default();
        if let Some(record) = &self.manifest.weights {
            for (listed, parameters) in [
                (&record.parameters, &weights.parameters),
                (&record.own, &weights.own),
            ] {
                compare(listed, parameters, &mut verified)?;
            }
        }
        let folder = Self::compiled_folder(&self.folder);
        for record in &self.manifest.compiled {
            let path = folder.join(&record.file);
            let found = disk::hash(&path)?;
            if found != (record.size, record.hash.clone()) {
                let expected = format!("{} bytes of hash {}", record.size, record.hash);
                let found = format!("{} of {}", found.0, found.1);
                return Err(Error::saved(&path, expected, found));
            }
            verified.compiled += 1;
        }
        Ok(verified)
    }
}

fn compare(listed: &Listed, parameters: &Parameters, verified: &mut Verified) -> Result<()> {
    for (name, record) in listed {
        let Some(expected) = &record.hash else {
            verified.unknown += 1;
            continue;
        };
        let found = parameters.hash(name)?.to_string();
        if found != *expected {
            return Err(Error::SavedTensor {
                file: parameters
                    .info(name)?
                    .file
                    .unwrap_or_else(|| "memory".into()),
                tensor: format!("`{}`", record.tensor.name),
                expected: format!("content of hash {expected}"),
                found,
            });
        }
        verified.equal += 1;
    }
    Ok(())
}
