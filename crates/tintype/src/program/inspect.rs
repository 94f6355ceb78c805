//! `tintype inspect`: weights, graphs and stages of a model. Reads no weights.

mod dry_run;
#[cfg(feature = "tensorrt")]
mod network;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use tintype::FluxPipeline;
use tintype_flux::ModelKind;
use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, Stage, StagedGraph};

use super::arguments::Inspect;
use super::model;
use super::precision::{Precision, Quantization};

pub(crate) fn run(arguments: &Inspect) -> Result<()> {
    if arguments.dry_run {
        return dry_run::run(arguments);
    }
    #[cfg(feature = "tensorrt")]
    if let Some(folder) = &arguments.plans {
        let (component, program) = (arguments.component.as_deref(), arguments.program.as_deref());
        return network::plans(folder, component, program);
    }
    let files = model::files(arguments.model.as_deref(), false)?;
    let precision: Precision = arguments.dtype.parse()?;
    let mut pipeline = FluxPipeline::from_files(files)?.dtype(precision.dtype);
    if precision.is_fp8 {
        let quantization = Quantization::ahead(&pipeline.architecture(), Some(&pipeline), None)?;
        pipeline.quantize(&quantization.recipe, &quantization.scales)?;
    }
    if arguments.component.is_none() {
        introduce(&pipeline)?;
    }
    let options = Options::default().with_fuse_qkv(arguments.fuse_qkv);
    for kind in ModelKind::ALL {
        let chosen = arguments
            .component
            .as_deref()
            .is_none_or(|name| name == kind.name());
        if !chosen {
            continue;
        }
        #[cfg(feature = "tensorrt")]
        if told_by_network(arguments, kind, &pipeline)? {
            continue;
        }
        let graph = optimize(&pipeline.graph(kind)?, &options, None)?;
        let staged = StagedGraph::split(&graph)?;
        match arguments.program.as_deref() {
            None => summarize(kind.name(), &staged)?,
            Some("graph") => super::write(format_args!("{graph}"))?,
            Some(stage) => {
                let program = staged.program(stage.parse::<Stage>()?);
                super::write(format_args!("{program}"))?;
            }
        }
    }
    Ok(())
}

/// Whether the question was one of networks; if so, it is answered.
#[cfg(feature = "tensorrt")]
fn told_by_network(arguments: &Inspect, kind: ModelKind, pipeline: &FluxPipeline) -> Result<bool> {
    if arguments.weights {
        network::weights(kind.name(), &graph_for_tensorrt(arguments, kind, pipeline)?)?;
    } else if arguments.lowered {
        let program = arguments.program.as_deref().context("--program")?;
        if program == "graph" {
            anyhow::bail!("--lowered: expected --program request or step, found graph");
        }
        network::lowered(
            &graph_for_tensorrt(arguments, kind, pipeline)?,
            program.parse()?,
        )?;
    }
    Ok(arguments.weights || arguments.lowered)
}

/// The graph that plans are built of.
#[cfg(feature = "tensorrt")]
fn graph_for_tensorrt(
    arguments: &Inspect,
    kind: ModelKind,
    pipeline: &FluxPipeline,
) -> Result<Graph> {
    let precision: Precision = arguments.dtype.parse()?;
    let capabilities = tintype_tensorrt::backend::capabilities();
    let architecture = pipeline.architecture().for_backend(&capabilities);
    let graph = architecture.graph(kind, precision.dtype, &tintype::Sizes::default())?;
    if !precision.is_fp8 {
        return Ok(graph);
    }
    Quantization::ahead(&architecture, Some(pipeline), None)?.apply(kind, graph)
}

/// The model, and what it is asked for by default.
fn introduce(pipeline: &FluxPipeline) -> Result<()> {
    say!("{}", pipeline.files().root().display());
    let defaults = pipeline.defaults();
    say!(
        "  defaults: {}×{} pixels, {} steps, guidance {}, {} tokens",
        defaults.width,
        defaults.height,
        defaults.steps,
        defaults.guidance_scale,
        defaults.max_sequence_length
    );
    for (name, path) in &defaults.loras {
        say!("  lora {name}: {}", path.display());
    }
    Ok(())
}

fn summarize(name: &str, staged: &StagedGraph) -> Result<()> {
    let (count, elements, bytes) = parameters(&staged.source)?;
    say!(
        "{name}: {count} tensors, {elements} parameters, {:.1} MB",
        bytes as f64 / 1e6
    );
    for input in staged.source.inputs() {
        say!("  input {} {}: {}", input.stage, input.name, input.ty);
    }
    for output in staged.source.outputs() {
        say!(
            "  output {}: {}",
            output.name,
            staged.source.type_of(output.value)
        );
    }
    for stage in Stage::ALL {
        let program = staged.program(stage);
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for node in program.nodes() {
            *kinds.entry(node.op.name()).or_default() += 1;
        }
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        say!(
            "  {stage}: {} operations: {}",
            program.nodes().len(),
            kinds.join(", ")
        );
    }
    Ok(())
}

fn parameters(graph: &Graph) -> Result<(usize, usize, usize)> {
    let (mut elements, mut bytes) = (0, 0);
    for parameter in graph.parameters() {
        let shape = parameter
            .ty
            .static_shape()
            .context("a parameter without symbols")?;
        elements += shape.element_count();
        bytes += shape.byte_len(parameter.ty.dtype)?;
    }
    Ok((graph.parameters().len(), elements, bytes))
}
