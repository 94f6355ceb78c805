//! Who tells what would be done: a backend that is here, or a library for GPUs that are not.

use std::sync::Arc;

use anyhow::Result;
use tintype::{Backend, backends};
use tintype_backend::{Capabilities, CompileOptions, Forecast, programs_for};
use tintype_ir::StagedGraph;

use super::Asked;
use crate::program::arguments::Inspect;

/// Who is asked.
pub(super) enum Source {
    /// A backend that is here.
    Here(Arc<dyn Backend>),
    /// TensorRT for an architecture.
    #[cfg(feature = "tensorrt")]
    Target(Arc<tintype_tensorrt::Tensorrt>, tintype_tensorrt::Target),
}

impl Source {
    /// One for each `--target`, or the backend.
    pub(super) fn all(arguments: &Inspect) -> Result<Vec<Self>> {
        let backend = arguments.dry.backend.as_deref().unwrap_or("auto");
        #[cfg(feature = "tensorrt")]
        if !arguments.dry.target.is_empty() {
            return targets(arguments, backend);
        }
        Ok(vec![Self::Here(backends::choose(backend)?)])
    }

    /// The programs as the backend would get them, and what it would do with them.
    pub(super) fn forecast(&self, asked: &Asked<'_>) -> Result<(StagedGraph, Forecast)> {
        match self {
            Self::Here(backend) => {
                let staged = programs_for(backend.as_ref(), asked.graph)?;
                let mut options = CompileOptions::default().with_keep_weights(asked.keep_weights);
                if let Some(folder) = asked.compiled {
                    options = options.with_folder(folder);
                }
                let forecast = backend.forecast(&staged, &options, asked.sizes)?;
                Ok((staged, forecast))
            }
            #[cfg(feature = "tensorrt")]
            Self::Target(tensorrt, target) => {
                let staged = tintype::tensorrt::programs(asked.graph)?;
                let forecast = tintype::tensorrt::forecast(
                    tensorrt,
                    &staged,
                    *target,
                    asked.compiled,
                    asked.sizes,
                )?;
                Ok((staged, forecast))
            }
        }
    }

    /// How it likes its graphs.
    pub(super) fn capabilities(&self) -> Capabilities {
        match self {
            Self::Here(backend) => backend.capabilities(),
            #[cfg(feature = "tensorrt")]
            Self::Target(..) => tintype_tensorrt::backend::capabilities(),
        }
    }

    pub(super) fn backend(&self) -> &'static str {
        match self {
            Self::Here(backend) => backend.name(),
            #[cfg(feature = "tensorrt")]
            Self::Target(..) => TENSORRT,
        }
    }

    pub(super) fn target(&self) -> Option<String> {
        match self {
            Self::Here(_) => None,
            #[cfg(feature = "tensorrt")]
            Self::Target(_, target) => Some(target.to_string()),
        }
    }
}

#[cfg(feature = "tensorrt")]
fn targets(arguments: &Inspect, backend: &str) -> Result<Vec<Source>> {
    anyhow::ensure!(
        ["auto", TENSORRT].contains(&backend),
        "--target: only the backend {TENSORRT} builds for other GPUs, found --backend {backend}"
    );
    let options = tintype_tensorrt::LoadOptions::default();
    let tensorrt = Arc::new(tintype_tensorrt::Tensorrt::load(&options)?);
    let targets = arguments.dry.target.iter();
    let sources = targets.map(|&target| Source::Target(Arc::clone(&tensorrt), target));
    Ok(sources.collect())
}

#[cfg(feature = "tensorrt")]
const TENSORRT: &str = "tensorrt";
