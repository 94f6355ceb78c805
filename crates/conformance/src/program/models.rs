//! Every model of the pipelines, fed on each backend what the CPU was fed.
//!
//! A pipeline runs on the CPU through a [`Recorder`], which keeps what each model was compiled
//! from, its weights, inputs and outputs. Another backend then gets the same, one call after
//! another, so that nothing but the call itself can differ: each step gets the CPU's latents.

mod fp8;
mod recorder;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tintype_backend::{Backend, Changes, CompileOptions, Executable, Tensors};
use tintype_conformance::Tolerance;
use tintype_cpu::CpuBackend;
use tintype_flux::{FluxPipeline, Request, Sizes};
use tintype_ir::StagedGraph;
use tintype_tensor::{DType, Tensor, relative_error};

use super::machine::Machine;
use super::picture::shapes;
use super::report::{Label, Measured, Report};
use super::{Arguments, Result, on_each};
use recorder::{Call, Recorded, Recorder};

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Text encoders, the transformer's steps, both ways of the autoencoder.
const ROWS: usize = 5;

/// A pipeline to be run, by name, and how many steps it takes.
type Pipeline = (&'static str, usize, fn(&Path) -> Result<FluxPipeline>);

/// The two that are recorded have random weights, the third is inside the program.
const PIPELINES: [Pipeline; 3] = [
    ("dev", 4, |fixtures| {
        let folder = fixtures.join("pipelines/dev");
        Ok(FluxPipeline::from_pretrained(folder)?)
    }),
    ("schnell", 4, |fixtures| {
        let folder = fixtures.join("pipelines/schnell");
        Ok(FluxPipeline::from_pretrained(folder)?)
    }),
    ("shapes", 20, |_| shapes()),
];

pub(super) fn run(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    let is_there = |name: &str| name == "shapes" || machine.fixtures.is_some();
    for (name, _, _) in PIPELINES.iter().filter(|(name, _, _)| !is_there(name)) {
        let reason = "no folder of recorded cases: name it with --fixtures";
        report.skip(Label::new(name, ""), ROWS * DTYPES.len(), reason);
    }
    let fixtures = machine.fixtures.clone().unwrap_or_default();
    let count = PIPELINES
        .iter()
        .filter(|(name, _, _)| is_there(name))
        .count();
    on_each(
        machine,
        report,
        count * (ROWS * DTYPES.len() + 1),
        |on, found, report| {
            // It is compared with itself in rehearsals only.
            if on == "cpu" && !machine.is_rehearsal {
                return Ok(());
            }
            let backend = &found.backend;
            for (name, steps, open) in PIPELINES.iter().filter(|(name, _, _)| is_there(name)) {
                if !report.wants(name) {
                    continue;
                }
                // What the smaller dtypes cost is seen by what f32 makes of the same inputs.
                let exact = record(open(&fixtures)?, *steps, backend, DType::F32)?;
                for dtype in DTYPES {
                    let models = match dtype {
                        DType::F32 => exact.clone(),
                        _ => record(open(&fixtures)?, *steps, backend, dtype)?,
                    };
                    for (model, exact) in models.iter().zip(&exact) {
                        replay(
                            Label::new(name, on).of(dtype),
                            backend,
                            [model, exact],
                            report,
                        )?;
                    }
                }
                let open = || open(&fixtures);
                let model = fp8::record(&open, (*steps).min(4), &found.for_f8)?;
                let same = |exact: &&Recorded| exact.is_same(&model);
                let exact = exact.iter().find(same).ok_or("no transformer in f32")?;
                let label = Label::new(name, on).of(fp8::DTYPE);
                replay(label, &found.for_f8, [&model, exact], report)?;
            }
            Ok(())
        },
    )
}

/// Runs a request on the CPU, with graphs as `like` wants them, of this request's sizes.
fn record(
    pipeline: FluxPipeline,
    steps: usize,
    like: &Arc<dyn Backend>,
    dtype: DType,
) -> Result<Vec<Recorded>> {
    let recorder = Arc::new(Recorder::new(Arc::clone(like)));
    let backend: Arc<dyn Backend> = recorder.clone();
    let request = Request::new("a red circle").seed(3).steps(steps);
    let sizes = Sizes::of_request(&request, pipeline.defaults());
    let pipeline = pipeline.shared_backend(backend).dtype(dtype).sizes(sizes);
    let defaults = pipeline.generate(&request)?;
    let image = defaults.pixels.ok_or("no picture")?;
    // The encoder alone; the other models have been recorded.
    let request = Request::new("a red circle")
        .seed(4)
        .steps(4)
        .pixels(image, 0.5);
    pipeline.generate(&request)?;
    Ok(recorder.recorded())
}

/// Compares one model with the CPU's; `exact` is the same model in f32.
fn replay(
    label: Label<'_>,
    backend: &Arc<dyn Backend>,
    [model, exact]: [&Recorded; 2],
    report: &mut Report,
) -> Result<()> {
    let (pipeline, graph) = (label.case, model.graph.source.name());
    let dtype = label.dtype.unwrap_or(DType::F32);
    let start = Instant::now();
    let loaded = load(backend.as_ref(), &model.graph, model);
    let executable = match loaded {
        Ok(executable) => executable,
        Err(error) => {
            let case = format!("{pipeline}: {graph}");
            report.check(label.called(&case), start.elapsed(), Err(error));
            return Ok(());
        }
    };
    let note = format!("loaded in {:.1} s", start.elapsed().as_secs_f64());
    let costs = match dtype {
        DType::F32 => None,
        _ => Some(load(&CpuBackend::new(), &exact.graph, exact)?),
    };
    for is_step in [false, true] {
        let calls = model.calls.iter().filter(|call| call.has_outputs(is_step));
        let calls: Vec<&Call> = calls.collect();
        if calls.is_empty() {
            continue;
        }
        let part = if is_step { "steps" } else { "request" };
        let case = format!("{pipeline}: {graph}, {part}");
        let start = Instant::now();
        let result = compare(
            executable.as_ref(),
            costs.as_deref(),
            &calls,
            is_step,
            dtype,
        );
        let took = start.elapsed() / calls.len().max(1) as u32;
        let result = result.map(|measured| with_note(measured, &note, calls.len()));
        report.compare(label.called(&case), took, result);
    }
    Ok(())
}

fn with_note(mut measured: Measured, note: &str, calls: usize) -> Measured {
    measured.note = format!("{calls} calls, {note}{}", measured.note);
    measured
}

fn load(
    backend: &dyn Backend,
    graph: &StagedGraph,
    model: &Recorded,
) -> Result<Box<dyn Executable>> {
    let executable = backend.compile(graph, &CompileOptions::default())?;
    executable.refit(&Changes::all(&model.parameters))?;
    Ok(executable)
}

/// The error of the call that comes nearest to what it is allowed, which is more where the CPU's
/// own error in this dtype is larger.
fn compare(
    executable: &dyn Executable,
    exact: Option<&dyn Executable>,
    calls: &[&Call],
    is_step: bool,
    dtype: DType,
) -> Result<Measured> {
    let mut nearest: Option<Measured> = None;
    for call in calls {
        let expected = call.outputs(is_step);
        let error = worst(&outputs(executable, call, is_step)?, expected)?;
        let own = match exact {
            Some(exact) => worst(&outputs(exact, call, is_step)?, expected)?,
            None => 0.0,
        };
        let note = match exact {
            Some(_) => format!(", the CPU's own from f32 {own:.1e}"),
            None => String::new(),
        };
        let found = Measured {
            error,
            allowed: Tolerance::of_model(dtype, own),
            note,
        };
        // A NaN is not below anything, and must not be lost.
        let is_farther = |last: &Measured| found.share() <= last.share() || last.error.is_nan();
        if !nearest.as_ref().is_some_and(is_farther) {
            nearest = Some(found);
        }
    }
    nearest.ok_or_else(|| "it was not called".into())
}

/// What an executable makes of recorded inputs, in the dtypes that it wants.
fn outputs(executable: &dyn Executable, call: &Call, is_step: bool) -> Result<Tensors> {
    let graph = executable.graph();
    let inputs = |recorded: &Tensors| -> Result<Tensors> {
        let mut inputs = Tensors::new();
        for (name, _) in recorded.iter() {
            let mut known = graph.source.inputs().iter();
            let known = known
                .find(|input| input.name == name)
                .ok_or("another input")?;
            let tensor = recorded.host(name)?;
            inputs.insert(name.to_owned(), tensor.to_dtype(known.ty.dtype)?);
        }
        Ok(inputs)
    };
    let mut session = executable.session()?;
    let state = session.prepare(&inputs(&call.request)?)?;
    match &call.step {
        Some((step, _)) if is_step => Ok(session.step(state.as_ref(), &inputs(step)?)?),
        _ => Ok(state.outputs().clone()),
    }
}

fn worst(found: &Tensors, expected: &Tensors) -> Result<f64> {
    let mut worst = 0.0_f64;
    for (name, _) in expected.iter() {
        let (found, expected): (Tensor, Tensor) = (found.host(name)?, expected.host(name)?);
        if found.shape() != expected.shape() {
            return Err(format!(
                "{name}: expected {}, found {}",
                expected.shape(),
                found.shape()
            )
            .into());
        }
        let error = relative_error(&found.to_f32_vec()?, &expected.to_f32_vec()?);
        // `max` ignores a NaN, which must not pass.
        worst = if error.is_nan() || worst.is_nan() {
            f64::NAN
        } else {
            worst.max(error)
        };
    }
    Ok(worst)
}
