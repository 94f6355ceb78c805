//! Takes an all-in-one file apart into the models of a pipeline.
//!
//! Works as well on a file of one model: the others are `None` then. It does
//! not say whether what it finds is enough for a pipeline.
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_weights::Error> {
//! use tintype_weights::{Parameters, layout};
//! let components = layout::components(&Parameters::open("all-in-one.safetensors")?)?;
//! println!("has a T5 encoder: {}", components.t5.is_some());
//! # Ok(())
//! # }
//! ```

use super::{
    Converted, Layout, ORIGINAL_AUTOENCODER, ORIGINAL_TRANSFORMER,
    autoencoder_original_to_diffusers, flux_original_to_diffusers, prefix_of,
};
use crate::{Parameters, Result};

/// The models found in one set of parameters, under diffusers' and
/// transformers' names.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Components {
    /// The FLUX transformer.
    pub transformer: Option<Parameters>,
    /// The autoencoder.
    pub autoencoder: Option<Parameters>,
    /// The CLIP text encoder.
    pub clip: Option<Parameters>,
    /// The T5 encoder.
    pub t5: Option<Parameters>,
    /// Names that are understood and not needed.
    pub ignored: Vec<String>,
    /// Names that are not understood; a caller reports them.
    pub unknown: Vec<String>,
}

/// Finds the models by the prefixes that all-in-one files use.
pub fn components(parameters: &Parameters) -> Result<Components> {
    let mut components = Components::default();
    match Layout::detect(parameters) {
        Layout::FluxDiffusers => components.transformer = Some(parameters.clone()),
        Layout::AutoencoderDiffusers => components.autoencoder = Some(parameters.clone()),
        Layout::ClipText => components.clip = Some(parameters.clone()),
        Layout::T5Encoder => components.t5 = Some(parameters.clone()),
        _ => return take_apart(parameters),
    }
    Ok(components)
}

fn take_apart(parameters: &Parameters) -> Result<Components> {
    let transformer_prefix = prefix_of(parameters, ORIGINAL_TRANSFORMER);
    let autoencoder_prefix = prefix_of(parameters, ORIGINAL_AUTOENCODER);
    let prefixes = [
        transformer_prefix,
        autoencoder_prefix,
        Some(CLIP.into()),
        Some(T5.into()),
    ];
    // The longest prefix of a name is its model's: an empty one fits all names.
    let owner = |name: &str| {
        let fitting = (0..prefixes.len()).filter(|&index| {
            prefixes[index]
                .as_ref()
                .is_some_and(|prefix| name.starts_with(prefix.as_str()))
        });
        fitting.max_by_key(|&index| prefixes[index].as_ref().map_or(0, String::len))
    };
    let part = |index: usize| {
        parameters.renamed(|name| (owner(name) == Some(index)).then(|| name.to_owned()))
    };
    let mut components = Components::default();
    if prefixes[0].is_some() {
        let converted = flux_original_to_diffusers(&part(0)?)?;
        components.transformer = Some(components.account(converted));
    }
    if prefixes[1].is_some() {
        let converted = autoencoder_original_to_diffusers(&part(1)?)?;
        components.autoencoder = Some(components.account(converted));
    }
    components.clip = non_empty(part(2)?.subset(CLIP));
    components.t5 = non_empty(part(3)?.subset(T5));
    let orphans = parameters.names().filter(|name| owner(name).is_none());
    components.unknown.extend(orphans.map(str::to_owned));
    components.sort_out_text_encoders();
    Ok(components)
}

impl Components {
    fn account(&mut self, converted: Converted) -> Parameters {
        self.ignored.extend(converted.ignored);
        self.unknown.extend(converted.unknown);
        converted.parameters
    }

    /// Text encoders come with a temperature that only training uses.
    fn sort_out_text_encoders(&mut self) {
        let is_needless =
            |name: &str| name.starts_with("text_encoders.") && name.ends_with(".logit_scale");
        let unknown = std::mem::take(&mut self.unknown);
        let (needless, unknown): (Vec<_>, _) =
            unknown.into_iter().partition(|name| is_needless(name));
        self.ignored.extend(needless);
        self.unknown = unknown;
    }
}

fn non_empty(parameters: Parameters) -> Option<Parameters> {
    (!parameters.is_empty()).then_some(parameters)
}

const CLIP: &str = "text_encoders.clip_l.transformer.";
const T5: &str = "text_encoders.t5xxl.transformer.";
