//! Puts parameters together from layers of files, tensors and views.
//!
//! A later layer wins over an earlier one. Nothing is read here.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tintype_tensor::Tensor;
//! use tintype_weights::Parameters;
//! let parameters = Parameters::builder()
//!     .file("all-in-one.safetensors")?
//!     .prefix_strip("model.diffusion_model.")
//!     .tensor("img_in.bias", Tensor::from_f32([2], vec![0.0, 1.0])?)
//!     .build()?;
//! # Ok(())
//! # }
//! ```

use std::path::Path;
use std::sync::Arc;

use tintype_tensor::Tensor;

use crate::entry::{Entries, Entry};
use crate::parameters::insert_new;
use crate::source::{Base, Source};
use crate::{Checkpoint, Parameters, Result, View, scaled};

/// Collects layers; see [`Parameters::builder`].
#[derive(Debug, Default)]
pub struct ParametersBuilder {
    layers: Vec<Layer>,
}

#[derive(Debug)]
enum Layer {
    Entries {
        entries: Entries,
        strip: String,
    },
    View {
        name: String,
        of: String,
        view: View,
    },
}

impl ParametersBuilder {
    /// A layer of all tensors of a file, an index or a folder.
    pub fn file(self, path: impl AsRef<Path>) -> Result<Self> {
        self.checkpoint(&Checkpoint::open(path)?)
    }

    /// A layer of all tensors of an open checkpoint.
    pub fn checkpoint(self, checkpoint: &Checkpoint) -> Result<Self> {
        let sources = scaled::sources_of(checkpoint.files())?.into_iter();
        let entries = sources.map(|(name, source)| (name.into(), Entry::new(source)));
        Ok(self.entries(entries.collect()))
    }

    /// A layer of existing parameters, which keep their generations.
    #[must_use]
    pub fn parameters(self, parameters: &Parameters) -> Self {
        self.entries((*parameters.entries).clone())
    }

    /// A layer of one parameter of others, which keeps its name and its generation.
    ///
    /// # Errors
    /// A name that is not there.
    pub fn parameter(self, parameters: &Parameters, name: &str) -> Result<Self> {
        let entry = Arc::clone(parameters.entry(name)?);
        Ok(self.entries(Entries::from([(name.into(), entry)])))
    }

    /// A layer of one tensor in memory.
    #[must_use]
    pub fn tensor(self, name: impl Into<String>, tensor: Tensor) -> Self {
        let entry = Entry::new(Source::new(Base::Memory(tensor)));
        self.entry(name.into(), entry)
    }

    /// A layer of one view of the tensor `of` in the layers so far.
    #[must_use]
    pub fn view(mut self, name: impl Into<String>, of: impl Into<String>, view: View) -> Self {
        self.layers.push(Layer::View {
            name: name.into(),
            of: of.into(),
            view,
        });
        self
    }

    /// Takes `prefix` off the names of the last layer that have it; without
    /// effect on a view, whose name is given.
    #[must_use]
    pub fn prefix_strip(mut self, prefix: impl Into<String>) -> Self {
        if let Some(Layer::Entries { strip, .. }) = self.layers.last_mut() {
            *strip = prefix.into();
        }
        self
    }

    /// The parameters; an error if stripping gave two tensors of a layer one
    /// name, or if a view names no tensor or does not fit it.
    pub fn build(self) -> Result<Parameters> {
        let mut parameters = Parameters::default();
        for layer in self.layers {
            let entries = match layer {
                Layer::Entries { entries, strip } if strip.is_empty() => entries,
                Layer::Entries { entries, strip } => stripped(entries, &strip)?,
                Layer::View { name, of, view } => {
                    let entry = parameters.entry(&of)?.viewed(&of, view)?;
                    Entries::from([(name.into(), entry)])
                }
            };
            if parameters.is_empty() {
                parameters = Parameters::from_entries(entries);
            } else {
                parameters.replace_all(entries);
            }
        }
        Ok(parameters)
    }

    pub(crate) fn entry(self, name: String, entry: Arc<Entry>) -> Self {
        self.entries(Entries::from([(name.into(), entry)]))
    }

    fn entries(mut self, entries: Entries) -> Self {
        let strip = String::new();
        self.layers.push(Layer::Entries { entries, strip });
        self
    }
}

fn stripped(entries: Entries, prefix: &str) -> Result<Entries> {
    let mut stripped = Entries::new();
    for (name, entry) in entries {
        let short = name.strip_prefix(prefix).map(Arc::from);
        insert_new(&mut stripped, short.unwrap_or(name), entry)?;
    }
    Ok(stripped)
}
