//! Products by cuBLASLt.
//!
//! | module | holds |
//! |---|---|
//! | `layout`, `loops` | what a product is to cuBLASLt; pure |
//! | `survey` | which products of a plan have a layout; tests ask that |
//! | `search`, `library` | where the library lies; a handle of it |
//! | `descriptors` | its descriptors, and its functions on them |
//! | `tuner` | times algorithms |
//! | `choices` | the fastest, on disk |
//! | `prepared` | a product ready to be enqueued |
//!
//! What has no layout, or no algorithm, is [`Error::Unsupported`]: another kernel must be taken,
//! or the epilogue left to one.
//!
//! ```text
//! let blas = Blas::with(&device, BlasOptions::default())?;
//! let product = blas.product(&step.label, &product)?;
//! unsafe { product.enqueue(&stream, &addresses)? };
//! ```

mod choices;
mod descriptors;
pub(crate) mod layout;
mod library;
mod loops;
#[cfg(test)]
mod on_device;
#[cfg(test)]
mod on_device_codes;
mod prepared;
#[cfg(test)]
mod reference;
mod search;
#[cfg(test)]
mod survey;
mod tuner;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tintype_device::{ComputeCapability, Device, Error as DeviceError, SavedFolders, Stream};

use self::choices::{ChoiceFile, Entry, SavedChoices};
use self::descriptors::{Algorithm, Matrices, Operation, Preference};
use self::layout::{ProductLayout, Scaling};
use self::library::Library;
pub(crate) use self::library::Version;
pub(crate) use self::prepared::PreparedProduct;
use self::tuner::Trial;
use crate::{Error, Product, Result};

/// How algorithms are chosen.
#[derive(Debug, Clone)]
pub(crate) struct BlasOptions {
    /// Whether algorithms are timed, once for each layout. Otherwise the library's first guess is
    /// taken, where no file says better.
    pub(crate) tunes: bool,
    /// The file that keeps what was timed; by default one of the user's.
    pub(crate) choices: Option<PathBuf>,
    /// Folders whose choices come first.
    pub(crate) saved: SavedFolders,
}

impl Default for BlasOptions {
    fn default() -> Self {
        Self {
            tunes: true,
            choices: None,
            saved: SavedFolders::default(),
        }
    }
}

/// cuBLASLt on one device. A cheap handle.
#[derive(Clone)]
pub(crate) struct Blas {
    shared: Arc<Shared>,
}

struct Shared {
    library: Library,
    tunes: bool,
    file: ChoiceFile,
    saved: SavedChoices,
    /// Begins each key: the device and the library.
    prefix: String,
    /// Held while algorithms are timed too, so that nothing else of this disturbs it.
    state: Mutex<State>,
}

struct State {
    /// From the file, for this device and library.
    entries: HashMap<String, Entry>,
    /// In this program.
    chosen: HashMap<ProductLayout, Algorithm>,
    /// To time in; made when it is needed.
    stream: Option<Stream>,
}

impl Blas {
    /// Opens the library for a device.
    ///
    /// # Errors
    /// [`tintype_device::Error::Unavailable`] where there is no library, or a too old one.
    pub(crate) fn with(device: &Device, options: BlasOptions) -> Result<Self> {
        let library = Library::open(device)?;
        let file = options
            .choices
            .map_or_else(ChoiceFile::of_user, ChoiceFile::new);
        let info = device.info();
        let prefix = prefix(&info.name, info.multiprocessors, library.version);
        let own = file.read().into_iter();
        let entries = own.filter(|(key, _)| key.starts_with(&prefix)).collect();
        Ok(Self {
            shared: Arc::new(Shared {
                library,
                tunes: options.tunes,
                file,
                saved: SavedChoices::new(options.saved),
                prefix,
                state: Mutex::new(State {
                    entries,
                    chosen: HashMap::new(),
                    stream: None,
                }),
            }),
        })
    }

    /// The library's version.
    pub(crate) fn version(&self) -> Version {
        self.shared.library.version
    }

    /// Whether cuBLASLt can be asked for a product, or why not; whether it has an algorithm is seen
    /// when the product is made ready.
    pub(crate) fn judge(&self, product: &Product) -> std::result::Result<(), String> {
        self.shared.layout(product).map(|_| ())
    }

    /// Makes a product ready; `step` is for messages. The first of its layout may take some tenths
    /// of a second, while algorithms are timed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for views or dtypes that cuBLASLt cannot express, and where it has
    /// no algorithm: then perhaps without GELU or bias. [`Error::Blas`] if the library fails.
    pub(crate) fn product(&self, step: &str, product: &Product) -> Result<PreparedProduct> {
        PreparedProduct::new(self, step, product)
    }

    /// Writes the algorithm of a layout into a folder, if it was timed; gives the file's name.
    pub(crate) fn save(&self, layout: &ProductLayout, folder: &Path) -> Result<Vec<String>> {
        let key = self.shared.key(layout);
        let entry = self.shared.saved.get(&key);
        let entry = entry.or_else(|| self.shared.state().entries.get(&key).cloned());
        let Some(entry) = entry else {
            return Ok(Vec::new());
        };
        let file = ChoiceFile::in_folder(folder);
        let added = file.add(&key, entry);
        added.map_err(|source| DeviceError::Cache {
            path: file.path().to_owned(),
            source,
        })?;
        Ok(vec![choices::NAME.to_owned()])
    }

    fn library(&self) -> &Library {
        &self.shared.library
    }

    /// The algorithm for a layout: chosen before, from the file, timed, or guessed.
    fn choose(
        &self,
        step: &str,
        layout: &ProductLayout,
        matrices: &Matrices,
        operation: &mut Operation,
    ) -> Result<Algorithm> {
        let mut state = self.shared.state();
        if let Some(algorithm) = state.chosen.get(layout) {
            return Ok(*algorithm);
        }
        let choice = Choosing {
            blas: &self.shared,
            step,
            layout,
            matrices,
            operation,
        };
        let algorithm = choice.algorithm(&mut state)?;
        state.chosen.insert(layout.clone(), algorithm);
        Ok(algorithm)
    }
}

impl fmt::Debug for Blas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.library.fmt(f)
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the library is asked for, or why it is not.
    fn layout(&self, product: &Product) -> std::result::Result<ProductLayout, String> {
        let layout = ProductLayout::new(product);
        let layout = layout.ok_or_else(|| prepared::inexpressible(product))?;
        if let Some(scaling) = layout.scaling {
            let capability = self.library.device.info().compute_capability;
            has_codes(capability, self.library.version, scaling)?;
        }
        Ok(layout)
    }

    /// By what choices are kept.
    fn key(&self, layout: &ProductLayout) -> String {
        format!("{}{layout}", self.prefix)
    }

    /// The most scratch memory of a product, in bytes: what the library's makers advise.
    fn workspace_limit(&self) -> usize {
        match self.library.device.info().compute_capability.major {
            9.. => 32 << 20,
            _ => 4 << 20,
        }
    }
}

/// The choice of an algorithm for a layout.
struct Choosing<'a> {
    blas: &'a Shared,
    step: &'a str,
    layout: &'a ProductLayout,
    matrices: &'a Matrices,
    operation: &'a mut Operation,
}

impl Choosing<'_> {
    fn algorithm(mut self, state: &mut State) -> Result<Algorithm> {
        let key = self.blas.key(self.layout);
        for entry in [self.blas.saved.get(&key).as_ref(), state.entries.get(&key)] {
            if let Some(algorithm) = self.restored(entry) {
                return Ok(algorithm);
            }
        }
        let algorithms = self.algorithms()?;
        let Some(first) = algorithms.first().copied() else {
            let message = format!("{} has no algorithm", self.blas.library.version);
            return Err(Error::unsupported(self.step, format!("cuBLASLt {message}")));
        };
        if !self.blas.tunes || algorithms.len() == 1 {
            return Ok(first);
        }
        let stream = match &state.stream {
            Some(stream) => stream.clone(),
            None => self.blas.library.device.new_stream()?,
        };
        state.stream = Some(stream.clone());
        let timed = match self.timed(&algorithms, &stream) {
            Err(Error::Device(error @ DeviceError::OutOfMemory { .. })) => {
                tracing::warn!("{} is not timed: {error}", self.step);
                return Ok(first);
            }
            other => other?,
        };
        let Some((algorithm, nanoseconds)) = timed else {
            let message = "cuBLASLt runs none of the algorithms that it names";
            return Err(Error::unsupported(self.step, message));
        };
        let entry = Entry::new(algorithm.raw.data, algorithm.workspace, nanoseconds);
        if let Err(error) = self.blas.file.add(&key, entry.clone()) {
            tracing::warn!("cannot write {}: {error}", self.blas.file.path().display());
        }
        state.entries.insert(key, entry);
        Ok(algorithm)
    }

    /// The algorithm of an entry, if the library still takes it.
    fn restored(&self, entry: Option<&Entry>) -> Option<Algorithm> {
        let entry = entry?;
        let algorithm = Algorithm {
            raw: cudarc::cublaslt::sys::cublasLtMatmulAlgo_t {
                data: entry.words()?,
            },
            workspace: entry.workspace,
        };
        let library = &self.blas.library;
        match self.matrices.check(library, self.operation, &algorithm) {
            Ok(algorithm) if algorithm.workspace <= self.blas.workspace_limit() => Some(algorithm),
            Ok(_) => None,
            Err(failure) => {
                tracing::info!("{}; it is chosen again", failure.of(self.step));
                None
            }
        }
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>> {
        let limit = self.blas.workspace_limit();
        let found = Preference::new(limit, self.layout.alignments).and_then(|preference| {
            let library = &self.blas.library;
            self.matrices
                .algorithms(library, self.operation, &preference)
        });
        let mut algorithms = found.map_err(|failure| failure.of(self.step))?;
        algorithms.retain(|algorithm| algorithm.workspace <= limit);
        Ok(algorithms)
    }

    fn timed(
        &mut self,
        algorithms: &[Algorithm],
        stream: &Stream,
    ) -> Result<Option<(Algorithm, u64)>> {
        let workspaces = algorithms.iter().map(|algorithm| algorithm.workspace);
        let workspace = workspaces.max().unwrap_or_default();
        let operation = (self.matrices, &mut *self.operation);
        let mut trial = Trial::new(
            &self.blas.library,
            operation,
            self.layout,
            workspace,
            stream,
        )?;
        let Some(fastest) = trial.fastest(algorithms)? else {
            return Ok(None);
        };
        let nanoseconds = fastest.nanoseconds;
        let operations = self.layout.operations() / self.layout.calls();
        tracing::debug!(
            "{}: algorithm {} of {} takes {:.4} ms ({:.0} TFLOP/s), the first {:.4} ms",
            self.step,
            fastest.place,
            algorithms.len(),
            nanoseconds as f64 / 1e6,
            operations as f64 / nanoseconds.max(1) as f64 / 1e3,
            fastest.first.map_or(f64::NAN, |first| first as f64 / 1e6),
        );
        Ok(Some((algorithms[fastest.place], nanoseconds)))
    }
}

/// Whether a GPU and a version of the library multiply codes of 8 bits, or why not.
fn has_codes(
    capability: ComputeCapability,
    version: Version,
    scaling: Scaling,
) -> std::result::Result<(), String> {
    let ComputeCapability { major, minor } = capability;
    if (major, minor) < (8, 9) {
        return Err(format!(
            "a GPU of compute capability {major}.{minor} has no products of 8-bit floats, 8.9 has"
        ));
    }
    if scaling.are_vectors && version < WITH_VECTORS {
        return Err(format!(
            "cuBLASLt {version} has no scales for each row, {WITH_VECTORS} has"
        ));
    }
    Ok(())
}

/// The first version with a scale for each row.
const WITH_VECTORS: Version = Version::new(12, 9);

/// Two GPUs of one name may have different numbers of multiprocessors enabled.
fn prefix(device: &str, multiprocessors: usize, version: Version) -> String {
    format!("{device} ({multiprocessors}) | {version} | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_need_a_gpu_that_multiplies_them() {
        let of = |are_vectors| Scaling {
            are_vectors,
            has_output: false,
            addend: tintype_tensor::DType::BF16,
        };
        let has = |major, minor, version, are_vectors| {
            has_codes(ComputeCapability { major, minor }, version, of(are_vectors))
        };
        let new = Version::new(13, 1);
        assert_eq!(has(9, 0, new, true), Ok(()));
        assert_eq!(has(8, 9, new, false), Ok(()));
        let reason = has(8, 6, new, false).unwrap_err();
        assert!(
            reason.contains("8.6 has no products of 8-bit floats"),
            "{reason}"
        );
        let reason = has(9, 0, Version::new(12, 8), true).unwrap_err();
        assert!(
            reason.contains("12.8.0 has no scales for each row"),
            "{reason}"
        );
        assert_eq!(has(9, 0, Version::new(12, 8), false), Ok(()));
    }
}
