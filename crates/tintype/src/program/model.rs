//! Opening the model that the command line names.

use std::path::Path;
use std::sync::{Arc, Once};

use anyhow::{Context as _, Result, anyhow, bail};
use tintype::backends::{Building, Follow, Options};
use tintype::{
    AdapterReport, Backend, FluxPipeline, KeepWeights, ModelFiles, Request, Sizes, backends,
    built_in, hub,
};

use super::arguments::{Lora, ModelArguments};
use super::folder::PipelineFolder;
use super::precision::{self, OWN_SCALES, Precision, Quantization};

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

/// The pipeline, with its backend, dtype and LoRAs, ready for requests like this one. `follow` is
/// told how far builds are.
pub(crate) fn open(
    arguments: &ModelArguments,
    request: &Request,
    quiet: bool,
    follow: Option<Follow>,
) -> Result<FluxPipeline> {
    let plans = plans_of(arguments)?;
    let backend = choose(arguments, plans.as_ref(), follow)?;
    let precision: Precision = arguments.dtype.parse()?;
    let plans = plans.filter(|plans| plans.backends().contains(&backend.name()));
    if let Some(plans) = &plans {
        plans.expect_precision(precision)?;
    }
    let files = files(model_of(arguments, plans.as_ref())?.as_deref(), quiet)?;
    let plans_ahead = backend.name() == PLANNER;
    let keep_weights: Result<KeepWeights, String> = arguments.keep_weights.parse();
    let keep_weights = keep_weights.map_err(|error| anyhow!("--keep-weights: {error}"))?;
    let mut pipeline = FluxPipeline::from_files(files)?
        .shared_backend(backend)
        .dtype(precision.dtype)
        .keep_weights(keep_weights)
        .low_memory(arguments.low_memory);
    if let Some(plans) = plans {
        pipeline = plans.apply(pipeline, keep_weights);
    } else if plans_ahead {
        // One size makes faster plans than all of them.
        let sizes = Sizes::of_request(request, pipeline.defaults());
        pipeline = pipeline.sizes(sizes);
    }
    if let Some(file) = &arguments.transformer {
        pipeline = pipeline.transformer_file(file);
    }
    if let Some(file) = &arguments.vae {
        pipeline = pipeline.vae_file(file);
    }
    for lora in &arguments.lora {
        load_lora(&pipeline, lora).map_err(not_yet_a_change)?;
    }
    if precision.is_fp8 {
        quantize(&mut pipeline, arguments.scales.as_deref())?;
    } else if arguments.scales.is_some() {
        bail!(
            "--scales: scales are for --dtype fp8, found {}",
            arguments.dtype
        );
    }
    Ok(pipeline)
}

/// The transformer in fp8, with the scales of this file or of the model.
fn quantize(pipeline: &mut FluxPipeline, scales: Option<&Path>) -> Result<()> {
    let quantization = if let Some((origin, table)) = precision::table(Some(pipeline), scales)? {
        let graph = pipeline.transformer_graph()?;
        table.check(&origin, &pipeline.transformer_identity()?, &graph)?;
        Quantization::of_table(&origin, &table)?
    } else {
        Quantization::imported(pipeline)?.ok_or_else(|| {
            anyhow!(
                "--dtype fp8: {} has no {OWN_SCALES}, and weights that are not in fp8; measure \
                 scales with `tintype quantize` and give them by --scales",
                pipeline.files().root().display()
            )
        })?
    };
    pipeline.quantize(&quantization.recipe, &quantization.scales)?;
    Ok(())
}

/// What `--model` says; without it, what `--plans` was compiled for.
fn model_of(arguments: &ModelArguments, plans: Option<&PipelineFolder>) -> Result<Option<String>> {
    match plans.filter(|_| arguments.plans.is_some() && arguments.model.is_none()) {
        Some(plans) => plans.list.model.argument(plans.path()).map(Some),
        None => Ok(arguments.model.clone()),
    }
}

/// The folder that the command line or `TINTYPE_PLANS` names. Only the former is an error where
/// it is for another backend.
fn plans_of(arguments: &ModelArguments) -> Result<Option<PipelineFolder>> {
    let is_auto = arguments.backend == "auto";
    if let Some(path) = &arguments.plans {
        let folder = PipelineFolder::open(path)?;
        let backends = folder.backends();
        if backends.is_empty() || !(is_auto || backends.contains(&&*arguments.backend)) {
            let found = match &*backends {
                [] => "nothing".to_owned(),
                backends => backends.join(", "),
            };
            bail!(
                "--plans: {}: expected models compiled for {}, found {found}",
                path.display(),
                if is_auto {
                    "a backend"
                } else {
                    &arguments.backend
                }
            );
        }
        return Ok(Some(folder));
    }
    match std::env::var_os("TINTYPE_PLANS") {
        Some(path) if !path.is_empty() && (is_auto || arguments.backend == PLANNER) => {
            PipelineFolder::open(path.as_ref())
                .context("TINTYPE_PLANS")
                .map(Some)
        }
        _ => Ok(None),
    }
}

fn choose(
    arguments: &ModelArguments,
    plans: Option<&PipelineFolder>,
    follow: Option<Follow>,
) -> Result<Arc<dyn Backend>> {
    let mut options = Options::default();
    // A build in spite of plans means that they are for another model, library or GPU.
    let folder = plans.map(|plans| plans.path().to_owned());
    let is_told = Once::new();
    options = options.with_follow(Arc::new(move |building: Building<'_>| {
        if let Some(folder) = &folder {
            is_told.call_once(|| {
                tracing::warn!(
                    "{}: no plan there is for this model, library and GPU; it is built now",
                    folder.display()
                );
            });
        }
        if let Some(follow) = &follow {
            follow(building);
        }
    }));
    // Who names plans wants them used, and wants to know why they cannot be.
    let named = plans.filter(|_| arguments.plans.is_some());
    let name = match named {
        Some(plans) if arguments.backend == "auto" => best_of(&plans.backends()),
        _ => &arguments.backend,
    };
    Ok(backends::choose_with(name, &options)?)
}

/// The first of these in the order of the list of backends.
fn best_of<'a>(names: &[&'a str]) -> &'a str {
    let mut entries = backends::ENTRIES.iter();
    let best = entries.find_map(|entry| names.iter().find(|name| **name == entry.name));
    best.or(names.first()).expect("a folder has some")
}

/// The backend that plans ahead.
const PLANNER: &str = "tensorrt";

/// Loads a LoRA under the name of its file; tells what of it is left out.
pub(crate) fn load_lora(pipeline: &FluxPipeline, lora: &Lora) -> Result<(String, AdapterReport)> {
    let name = free_name(pipeline, lora);
    let report = pipeline.load_lora_with(&lora.file, &name, lora.scale)?;
    let file = lora.file.display();
    for key in &report.unknown_keys {
        tracing::warn!("{file}: tensor `{key}` is not understood, and left out");
    }
    for key in &report.unmatched_keys {
        tracing::warn!("{file}: tensor `{key}` has no counterpart in the model, and is left out");
    }
    if report.applied.iter().all(|(_, count)| *count == 0) {
        pipeline.unload_lora(&name)?;
        bail!("{file}: expected updates of this model, found none in the file's tensors");
    }
    Ok((name, report))
}

/// Before the first picture there are no weights from before that could be told of.
fn not_yet_a_change(error: anyhow::Error) -> anyhow::Error {
    match error.downcast() {
        Ok(tintype::Error::Refused { source }) => anyhow::Error::new(*source),
        Ok(other) => anyhow::Error::new(other),
        Err(error) => error,
    }
}

/// The file's name without folder and extension, with a number if there is one like it. Blanks
/// would end the name in a command.
fn free_name(pipeline: &FluxPipeline, lora: &Lora) -> String {
    let stem = lora.file.file_stem().unwrap_or_default().to_string_lossy();
    let stem = stem.replace(char::is_whitespace, "_");
    let taken = pipeline.adapters();
    let is_free = |name: &String| taken.iter().all(|(other, _)| other != name);
    let numbered = (2..).map(|number| format!("{stem}-{number}"));
    let mut names = std::iter::once(stem.clone()).chain(numbered);
    names.find(is_free).expect("some number is free")
}
