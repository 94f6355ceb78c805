//! What TensorRT makes of a model: networks, weights, plans.
//!
//! Networks and weights are told without the library. Layers of a plan are told by the library
//! alone, which reads plans on a GPU that can run them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tintype::backends::Options;
use tintype_ir::{Graph, Stage, StagedGraph, Value};
use tintype_tensorrt::lower::{Layers, LowerOptions, PlacedWeight};
use tintype_tensorrt::plan::{PlanCache, PlanKey};

use crate::program::folder::{PipelineFolder, PlanRecord, told_sizes};

/// The network of a program, a layer a line.
pub(super) fn lowered(graph: &Graph, stage: Stage) -> Result<()> {
    let programs = tintype::tensorrt::programs(graph)?.canonical()?;
    if stage == Stage::Weight {
        bail!(
            "--lowered: expected --program request or step, found weight: weights are computed \
             beside the engines"
        );
    }
    let program = programs.program(stage);
    if program.outputs().is_empty() {
        bail!("{} has no {stage} program", graph.name());
    }
    let layers = Layers::of(program, &LowerOptions::default())?;
    crate::program::write(format_args!("{}", layers.describe()))
}

/// From parameters through the weight program to the names that engines know.
pub(super) fn weights(name: &str, graph: &Graph) -> Result<()> {
    let programs = tintype::tensorrt::programs(graph)?.canonical()?;
    for stage in [Stage::Request, Stage::Step] {
        let program = programs.program(stage);
        if program.outputs().is_empty() {
            continue;
        }
        let layers = Layers::of(program, &LowerOptions::default())?;
        let placed = || layers.weights().iter().filter(|weight| !weight.is_size);
        let given = placed().filter(|weight| weight.is_placeholder());
        let literals = placed().count() - given.clone().count();
        say!(
            "{name} {stage}: {} weights, {literals} constants of the network",
            given.clone().count()
        );
        for weight in given {
            say!("  {}", weight_line(&programs, weight));
        }
    }
    Ok(())
}

/// `name: bf16[9216, 3072] = concat of @a, @b, @c`.
fn weight_line(programs: &StagedGraph, weight: &PlacedWeight) -> String {
    let sizes: Vec<String> = weight.sizes.iter().map(ToString::to_string).collect();
    let head = format!("{}: {}[{}]", weight.name, weight.dtype, sizes.join(", "));
    let mut outputs = programs.weight.outputs().iter();
    let Some(output) = outputs.find(|output| output.name == weight.name) else {
        return head;
    };
    let (operations, parameters) = origin(&programs.weight, output.value);
    let parameters: Vec<String> = parameters.iter().map(|name| format!("@{name}")).collect();
    let parameters = parameters.join(", ");
    if operations.is_empty() {
        return format!("{head} = {parameters}");
    }
    let operations: Vec<&str> = operations.into_iter().collect();
    format!("{head} = {} of {parameters}", operations.join(", "))
}

/// The operations that make a value, and the parameters they read, each once and in order.
fn origin(program: &Graph, value: Value) -> (Vec<&'static str>, Vec<&str>) {
    let (mut operations, mut parameters) = (Vec::new(), Vec::new());
    let (mut seen, mut open) = (BTreeSet::new(), vec![value]);
    while let Some(value) = open.pop() {
        match value {
            Value::Parameter(index) => {
                let name = program.parameters()[index].name.as_str();
                if !parameters.contains(&name) {
                    parameters.push(name);
                }
            }
            Value::Node(index) if seen.insert(index) => {
                let node = &program.nodes()[index];
                if !operations.contains(&node.op.name()) {
                    operations.push(node.op.name());
                }
                open.extend(node.operands.iter().rev());
            }
            Value::Node(_) | Value::Input(_) => {}
        }
    }
    operations.reverse();
    (operations, parameters)
}

/// What is in a folder that was compiled; of one program, the layers of its plans.
pub(super) fn plans(folder: &Path, component: Option<&str>, program: Option<&str>) -> Result<()> {
    let folder = PipelineFolder::open(folder)?;
    let is_asked = |plan: &&PlanRecord| {
        component.is_none_or(|component| plan.component == component)
            && program.is_none_or(|program| plan.program == program)
    };
    let list = &folder.list;
    let plans: Vec<_> = list.plans.iter().filter(is_asked).collect();
    if program.is_none() {
        say!(
            "{}: {} in {}, {}",
            folder.path().display(),
            list.model,
            list.dtype,
            told_sizes(&list.sizes)
        );
        for record in &list.components {
            if component.is_none_or(|component| record.component == component) {
                say!("  {} for {}", record.component, record.backend);
            }
        }
        for plan in plans {
            say!("  {}", plan_line(plan));
        }
        return Ok(());
    }
    if plans.is_empty() {
        bail!(
            "{}: no plan there is of this program",
            folder.path().display()
        );
    }
    for plan in plans {
        say!("{}", plan_line(plan));
        layers(&folder.compiled(&plan.component), plan)?;
    }
    Ok(())
}

fn plan_line(plan: &PlanRecord) -> String {
    let PlanRecord {
        component,
        program,
        target,
        library,
        weights,
        ..
    } = plan;
    format!(
        "{component} {program} for {target} by {library}: {:.1} MiB, {weights} weights, {}",
        plan.bytes as f64 / f64::from(1 << 20),
        plan.file
    )
}

/// The layers as the library tells them.
fn layers(folder: &Path, plan: &PlanRecord) -> Result<()> {
    let backend = tintype::tensorrt::open(&Options::default()).with_context(
        || "the layers of a plan are told by the library, on a GPU that can run it",
    )?;
    let own = backend.tensorrt().tag();
    if own != plan.library {
        bail!(
            "{}: expected a plan of {own}, found one of {}",
            plan.file,
            plan.library
        );
    }
    let key = plan.file.strip_suffix(".plan").and_then(PlanKey::from_hex);
    let key = key.with_context(|| format!("`{}` is no name of a plan", plan.file))?;
    let entry = PlanCache::new(folder).with_limit(u64::MAX).get(&key);
    let path = folder.join(&plan.file);
    let entry = entry.with_context(|| format!("{}: not there, or damaged", path.display()))?;
    let runtime = backend.tensorrt().runtime(backend.device())?;
    let engine = runtime.engine_from(entry)?;
    let inspector = engine.inspector()?;
    for layer in 0..engine.layer_count()? {
        say!("  {}", inspector.layer_json(layer)?.trim());
    }
    Ok(())
}
