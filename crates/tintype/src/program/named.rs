//! A model as it can be compiled: by its name, without files, or with them.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use tintype::{Architecture, FluxPipeline, ModelDefaults, ModelKind};
use tintype_weights::Parameters;

use super::model;
use super::precision::{Precision, Quantization};
use super::reference::KNOWN;

/// What models compute, and the files they have.
pub(crate) struct NamedModel {
    pub(crate) architecture: Architecture,
    pub(crate) defaults: ModelDefaults,
    /// With files, if there are any.
    pipeline: Option<FluxPipeline>,
    is_inside: bool,
}

impl NamedModel {
    /// The model that `--model` names; without it, the one inside the program.
    pub(crate) fn open(model: Option<&str>, quiet: bool) -> Result<Self> {
        let without_files = |architecture| Self {
            architecture,
            defaults: ModelDefaults::default(),
            pipeline: None,
            is_inside: false,
        };
        match name(model) {
            "flux-dev" => Ok(without_files(Architecture::flux_dev())),
            "flux-schnell" => Ok(without_files(Architecture::flux_schnell())),
            name => {
                if is_no_model(name) {
                    let known = KNOWN.join(", ");
                    return Err(anyhow!(
                        "--model: expected {known}, shapes, org/name of the hub or a folder, found \
                         `{name}`"
                    ));
                }
                let pipeline = FluxPipeline::from_files(model::files(model, quiet)?)?;
                Ok(Self {
                    architecture: pipeline.architecture(),
                    defaults: pipeline.defaults().clone(),
                    pipeline: Some(pipeline),
                    is_inside: name == tintype::built_in::NAME,
                })
            }
        }
    }

    /// How the transformer is quantized for a precision, if it is: by these scales, or by what the
    /// model has.
    pub(crate) fn quantization(
        &self,
        precision: Precision,
        scales: Option<&Path>,
    ) -> Result<Option<Quantization>> {
        if !precision.is_fp8 {
            ensure!(
                scales.is_none(),
                "--scales: scales are for --dtype fp8, found {precision}"
            );
            return Ok(None);
        }
        Quantization::ahead(&self.architecture, self.pipeline.as_ref(), scales).map(Some)
    }

    /// Where parameters lie on disk, if they are at hand: what is compiled does not depend on it.
    pub(crate) fn parameters(&self, kind: ModelKind) -> Option<Parameters> {
        let pipeline = self.pipeline.as_ref().filter(|_| !self.is_inside)?;
        let parameters = pipeline.parameters(kind);
        let told = |error: &tintype::Error| {
            tracing::warn!("{}: compiled without its weights: {error}", kind.name());
        };
        parameters.inspect_err(told).ok()
    }
}

/// What the command line calls it.
pub(crate) fn name(model: Option<&str>) -> &str {
    model.unwrap_or(tintype::built_in::NAME)
}

/// Neither a folder, nor a path, nor a name of the hub.
fn is_no_model(name: &str) -> bool {
    name != tintype::built_in::NAME && !name.contains('/') && !Path::new(name).exists()
}
