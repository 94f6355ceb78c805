//! A model as it can be compiled: by its name, without files, or with them.

use std::path::Path;

use anyhow::{Result, anyhow};
use tintype::{Architecture, FluxPipeline, ModelDefaults, ModelKind};
use tintype_weights::Parameters;

use super::model;
use super::reference::KNOWN;

/// What models compute, and the files they have.
pub(crate) struct NamedModel {
    pub(crate) architecture: Architecture,
    pub(crate) defaults: ModelDefaults,
    /// With files on disk, if there are any.
    pipeline: Option<FluxPipeline>,
}

impl NamedModel {
    /// The model that `--model` names; without it, the one inside the program.
    pub(crate) fn open(model: Option<&str>, quiet: bool) -> Result<Self> {
        let without_files = |architecture| Self {
            architecture,
            defaults: ModelDefaults::default(),
            pipeline: None,
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
                let is_inside = name == tintype::built_in::NAME;
                Ok(Self {
                    architecture: pipeline.architecture(),
                    defaults: pipeline.defaults().clone(),
                    pipeline: (!is_inside).then_some(pipeline),
                })
            }
        }
    }

    /// Where parameters lie, if they are at hand: what is compiled does not depend on it.
    pub(crate) fn parameters(&self, kind: ModelKind) -> Option<Parameters> {
        let parameters = self.pipeline.as_ref()?.parameters(kind);
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
