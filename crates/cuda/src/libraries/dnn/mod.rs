//! Attention and convolutions by cuDNN's backend API.
//!
//! A call becomes a graph as plain data (`graph`), which can be looked at and computed without
//! the library; then descriptors (`build`), an engine (`choose`, `prepare`, kept on disk by
//! `choices`), and at last a [`Prepared`] step that is enqueued in microseconds (`stage`).
//!
//! | module | holds |
//! |---|---|
//! | `attention`, `narrow` | which forms of attention there are, and their graphs; those of codes |
//! | `convolution` | the graphs of convolutions |
//! | `library`, `search` | the library's functions, and where it may lie |
//! | `descriptor`, `handle` | its objects |
//! | `numbers` | scales on the device |
//!
//! What cuDNN does not take (a bias in an old version, heads of 512) is
//! [`Error::Unsupported`], and a kernel of this crate is to be taken instead. What is not here:
//! dropout, the backward pass.
//!
//! ```ignore
//! let dnn = Dnn::with(&device, DnnOptions::default())?;
//! let attention = dnn.attention("single_transformer_blocks.0.attn", &call)?;
//! let scratch = DeviceBuffer::allocate(&stream, attention.scratch_bytes())?;
//! ```

mod attention;
mod build;
mod choices;
mod choose;
mod convolution;
mod descriptor;
#[cfg(test)]
mod fake;
mod graph;
mod handle;
#[cfg(test)]
mod interpret;
mod library;
mod narrow;
mod numbers;
mod prepare;
mod search;
mod stage;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tintype_device::{Device, Error as DeviceError, KernelCache, SavedFolders, Stream};

use self::attention::{Path, form_of};
use self::choices::Choices;
use self::convolution::{Candidate, candidates_of};
use self::handle::Handle;
pub(crate) use self::library::Version;
use self::library::{Failure, Library};
use self::numbers::Numbers;
use self::prepare::Preparation;
use crate::plan::{AttentionCall, Convolution};
use crate::run::{Addresses, Prepared};
use crate::{Error, Result, View};

/// cuDNN on one device. A cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Dnn {
    preparation: Arc<Preparation>,
}

/// How engines are chosen.
#[derive(Debug, Clone)]
pub(crate) struct DnnOptions {
    /// How many engines of a graph are timed at most; with 0 the library's first is taken.
    pub(crate) attempts: usize,
    /// Where choices are kept; nowhere with `None`.
    pub(crate) folder: Option<PathBuf>,
    /// Folders whose choices come first.
    pub(crate) saved: SavedFolders,
}

impl Default for DnnOptions {
    fn default() -> Self {
        let kernels = KernelCache::of_user();
        Self {
            attempts: 4,
            folder: Some(kernels.folder().with_file_name("engines")),
            saved: SavedFolders::default(),
        }
    }
}

/// An attention, ready to be enqueued.
#[derive(Debug)]
pub(crate) struct PreparedAttention(PreparedGraphs);

/// A convolution, ready to be enqueued.
#[derive(Debug)]
pub(crate) struct PreparedConvolution(PreparedGraphs);

#[derive(Debug)]
struct PreparedGraphs {
    /// The step, for errors.
    step: String,
    prepared: prepare::Prepared,
    /// The keys of all candidates, whose choices say which of these is the fastest.
    keys: Vec<String>,
    choices: Option<Choices>,
}

impl Dnn {
    /// Opens the library for a device.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no library, or it is older than 9.0; [`Error::Dnn`] if it
    /// cannot be used with the device.
    pub(crate) fn with(device: &Device, options: DnnOptions) -> Result<Self> {
        let library = Library::load()?;
        device.bind()?;
        let handle = Handle::new(device, library).map_err(|failure| Error::Dnn {
            step: device.name().to_string(),
            action: failure.action,
            message: failure.message,
        })?;
        Ok(Self {
            preparation: Arc::new(Preparation {
                device: device.clone(),
                handle: Arc::new(handle),
                choices: options
                    .folder
                    .map(|folder| Choices::new(folder).with_saved(&options.saved)),
                attempts: options.attempts,
                plans: Mutex::default(),
                numbers: Numbers::new(device),
            }),
        })
    }

    /// The version of the library.
    pub(crate) fn version(&self) -> Version {
        self.preparation.handle.library().version
    }

    /// Makes an attention ready; it may take seconds.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the form and why, if cuDNN does not take it;
    /// [`Error::Dnn`] if it failed at what it takes.
    pub(crate) fn attention(&self, step: &str, call: &AttentionCall) -> Result<PreparedAttention> {
        let step = named(step, "attention", &views_of_attention(call));
        let paths = self
            .paths(call)
            .map_err(|why| self.refused("attention", &step, &why))?;
        let candidate = |path: Path| Candidate {
            name: path.name(),
            stages: vec![attention::graph_of(call, path)],
        };
        let candidates = paths.into_iter().map(candidate).collect();
        let graphs = self.prepare("attention", step, candidates, true)?;
        Ok(PreparedAttention(graphs))
    }

    /// Makes a convolution ready; it may take seconds.
    ///
    /// # Errors
    /// As [`Self::attention`].
    pub(crate) fn convolution(
        &self,
        step: &str,
        call: &Convolution,
    ) -> Result<PreparedConvolution> {
        let step = named(step, "conv2d", &views_of_convolution(call));
        let candidates = candidates_of(call).map_err(|why| self.refused("conv2d", &step, &why))?;
        // The first rounds least, so the others are not compared with it.
        let graphs = self.prepare("conv2d", step, candidates, false)?;
        Ok(PreparedConvolution(graphs))
    }

    /// Whether cuDNN takes an attention of this form, or why not.
    pub(crate) fn judge_attention(&self, call: &AttentionCall) -> std::result::Result<(), String> {
        self.paths(call).map(|_| ())
    }

    /// The same of a convolution.
    pub(crate) fn judge_convolution(call: &Convolution) -> std::result::Result<(), String> {
        candidates_of(call).map(|_| ())
    }

    fn paths(&self, call: &AttentionCall) -> std::result::Result<Vec<Path>, String> {
        let capability = self.preparation.device.info().compute_capability;
        form_of(call).paths(self.version(), capability.major * 10 + capability.minor)
    }

    fn prepare(
        &self,
        op: &str,
        step: String,
        candidates: Vec<Candidate>,
        compares: bool,
    ) -> Result<PreparedGraphs> {
        self.preparation.device.bind()?;
        let keys = self.preparation.keys(&candidates);
        match self.preparation.choose(candidates, compares) {
            Ok(prepared) => {
                let stages = prepared.stages.iter().map(|stage| stage.plan().origin);
                let origins: Vec<_> = stages.collect();
                tracing::debug!("{step}: {} by {origins:?}", prepared.name);
                Ok(PreparedGraphs {
                    step,
                    prepared,
                    keys,
                    choices: self.preparation.choices.clone(),
                })
            }
            Err(failures) => Err(self.failed(op, step, &failures)),
        }
    }

    /// What is left when no candidate can run.
    fn failed(&self, op: &str, step: String, failures: &[(&'static str, Failure)]) -> Error {
        let broken = failures.iter().find(|(_, failure)| !failure.is_refusal());
        if let Some((_, failure)) = broken {
            return Error::Dnn {
                step,
                action: failure.action.clone(),
                message: failure.message.clone(),
            };
        }
        let texts = failures
            .iter()
            .map(|(name, failure)| format!("{name}: {failure}"));
        self.refused(op, &step, &texts.collect::<Vec<_>>().join("; "))
    }

    fn refused(&self, op: &str, step: &str, why: &str) -> Error {
        Error::unsupported(op, format!("{step}: cuDNN {}: {why}", self.version()))
    }
}

impl PreparedGraphs {
    fn scratch_bytes(&self) -> usize {
        let stages = self.prepared.stages.iter();
        let bytes = stages.map(stage::Stage::scratch_bytes);
        bytes.max().unwrap_or(0)
    }

    fn save(&self, folder: &std::path::Path) -> Result<Vec<String>> {
        let Some(choices) = &self.choices else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for key in &self.keys {
            let saved = choices.save(key, folder);
            names.extend(saved.map_err(|source| DeviceError::Cache {
                path: folder.to_owned(),
                source,
            })?);
        }
        Ok(names)
    }

    /// # Safety
    /// As of [`Prepared::enqueue`].
    unsafe fn enqueue(&self, stream: &Stream, addresses: &Addresses<'_>) -> Result<()> {
        stream.device().bind()?;
        for stage in &self.prepared.stages {
            // SAFETY: the device is current; the caller vouches for the memory.
            let enqueued = unsafe { stage.enqueue(stream, addresses) };
            enqueued.map_err(|failure| Error::Dnn {
                step: self.step.clone(),
                action: failure.action,
                message: failure.message,
            })?;
        }
        Ok(())
    }
}

impl PreparedAttention {
    /// What computes it: `unified`, `composite` or `narrow`.
    pub(crate) fn path(&self) -> &'static str {
        self.0.prepared.name
    }
}

impl PreparedConvolution {
    /// What computes it: `fused`, `two passes` or `plain`.
    pub(crate) fn path(&self) -> &'static str {
        self.0.prepared.name
    }
}

impl Prepared for PreparedAttention {
    fn save(&self, folder: &std::path::Path) -> Result<Vec<String>> {
        self.0.save(folder)
    }

    fn scratch_bytes(&self) -> usize {
        self.0.scratch_bytes()
    }

    unsafe fn enqueue(&self, stream: &Stream, addresses: &Addresses<'_>) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.enqueue(stream, addresses) }
    }
}

impl Prepared for PreparedConvolution {
    fn save(&self, folder: &std::path::Path) -> Result<Vec<String>> {
        self.0.save(folder)
    }

    fn scratch_bytes(&self) -> usize {
        self.0.scratch_bytes()
    }

    unsafe fn enqueue(&self, stream: &Stream, addresses: &Addresses<'_>) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.enqueue(stream, addresses) }
    }
}

fn views_of_attention(call: &AttentionCall) -> Vec<&View> {
    let reads = call.query_key_value.iter().chain(&call.bias);
    let reads = reads.chain(&call.output_factor);
    reads.chain([&call.output]).collect()
}

fn views_of_convolution(call: &Convolution) -> Vec<&View> {
    let reads = [&call.input, &call.weight].into_iter().chain(&call.bias);
    reads.chain([&call.output]).collect()
}

/// A step with the dtypes and places of what it reads and writes, the last being written.
fn named(step: &str, op: &str, views: &[&View]) -> String {
    let texts = views.iter().map(|view| format!("{} {view}", view.dtype));
    let texts = texts.collect::<Vec<_>>().join(", ");
    let step = if step.is_empty() { op } else { step };
    format!("{step} ({texts})")
}
