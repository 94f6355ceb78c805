//! Opening the model that the command line names.

use anyhow::{Context as _, Result, bail};
use tintype::{DType, FluxPipeline, ModelFiles, backends, built_in, hub};

use super::arguments::ModelArguments;

/// The files of the model that `--model` names; without it, those inside the program.
///
/// `shapes` is always the model inside the program, also where a folder of that name lies:
/// the same command then draws the same picture wherever it runs.
pub(crate) fn files(model: Option<&str>, quiet: bool) -> Result<ModelFiles> {
    match model {
        Some(model) if model != built_in::NAME => Ok(hub::resolve(model, quiet)?.into()),
        _ => built_in::files().with_context(|| {
            let name = built_in::NAME;
            format!(
                "this build has no model inside: give one with --model DIR or --model org/name \
                 (./{name} for a folder named {name}), or build with the feature `{name}`"
            )
        }),
    }
}

/// The pipeline, with its backend, dtype and LoRAs.
pub(crate) fn open(arguments: &ModelArguments, quiet: bool) -> Result<FluxPipeline> {
    let backend = backends::choose(&arguments.backend)?;
    let dtype = dtype(&arguments.dtype, backend.name())?;
    let files = files(arguments.model.as_deref(), quiet)?;
    let mut pipeline = FluxPipeline::from_files(files)?
        .shared_backend(backend)
        .dtype(dtype)
        .low_memory(arguments.low_memory);
    if let Some(file) = &arguments.transformer {
        pipeline = pipeline.transformer_file(file);
    }
    if let Some(file) = &arguments.vae {
        pipeline = pipeline.vae_file(file);
    }
    load_loras(&mut pipeline, arguments)?;
    Ok(pipeline)
}

fn dtype(name: &str, backend: &str) -> Result<DType> {
    if name == "fp8" {
        bail!("backend `{backend}` does not compute in fp8; use --dtype bf16");
    }
    name.parse().context("--dtype")
}

fn load_loras(pipeline: &mut FluxPipeline, arguments: &ModelArguments) -> Result<()> {
    let mut scales = Vec::new();
    for (index, lora) in arguments.lora.iter().enumerate() {
        let name = format!("lora{}", index + 1);
        let report = pipeline.load_lora(&lora.file, &name)?;
        let file = lora.file.display();
        for key in &report.unknown_keys {
            tracing::warn!("{file}: tensor `{key}` is not understood, and left out");
        }
        for key in &report.unmatched_keys {
            tracing::warn!(
                "{file}: tensor `{key}` has no counterpart in the model, and is left out"
            );
        }
        if report.applied.iter().all(|(_, count)| *count == 0) {
            bail!("{file}: expected updates of this model, found none in the file's tensors");
        }
        scales.push((name, lora.scale));
    }
    if !scales.is_empty() {
        let scales: Vec<(&str, f32)> = scales
            .iter()
            .map(|(name, scale)| (name.as_str(), *scale))
            .collect();
        pipeline.set_adapters(&scales)?;
    }
    Ok(())
}
