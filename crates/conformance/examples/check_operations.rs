//! Checks every operation on TensorRT on a GPU against the CPU, in every dtype that it has.
//!
//! ```text
//! cargo build --release -p tintype-conformance --example check_operations
//! TINTYPE_TENSORRT=libtensorrt_rtx.so.1 target/release/examples/check_operations --require-gpu
//! ```
//!
//! The program stands alone; the cases are in it. Where there is no GPU it runs the CPU backend
//! against itself, and ends with 0, or with 1 under `--require-gpu`. `--target sm80` builds for
//! another architecture than the GPU's (f8 needs sm89); `--only TEXT` takes the cases whose line
//! has that text.

#[path = "../tests/lowering/cases.rs"]
mod cases;

use std::process::ExitCode;
use std::sync::Arc;

use tintype_backend::{Backend, Changes, CompileOptions, Tensors};
use tintype_cpu::{CpuBackend, CpuEvaluator};
use tintype_ir::{Stage, StagedGraph, decompose};
use tintype_tensorrt::backend::{BuildOptions, TensorrtBackend, TensorrtOptions};
use tintype_tensorrt::plan::PlanCache;

use cases::{Case, FILES, Result, difference, dtypes};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("check_operations: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all cases; whether all passed.
fn run() -> Result<bool> {
    let (mut require_gpu, mut target, mut only) = (false, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--require-gpu" => require_gpu = true,
            "--target" => target = Some(arguments.next().ok_or("--target needs a value")?.parse()?),
            "--only" => only = Some(arguments.next().ok_or("--only needs a value")?),
            other => return Err(format!("unknown argument `{other}`").into()),
        }
    }
    let plans = tempfile::tempdir()?;
    let build = BuildOptions::new(PlanCache::new(plans.path()));
    let mut options = TensorrtOptions::new(Arc::new(CpuEvaluator), build);
    if let Some(target) = target {
        options = options.with_target(target);
    }
    match TensorrtBackend::new(options) {
        Ok(backend) => {
            println!("{}", backend.description());
            check(&backend, only.as_deref())
        }
        Err(error) if require_gpu => Err(error.into()),
        Err(error) => {
            println!("nothing was run on a GPU: {error}");
            check(&CpuBackend::new(), only.as_deref())
        }
    }
}

fn check(backend: &dyn Backend, only: Option<&str>) -> Result<bool> {
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (file, text) in FILES {
        for dtype in dtypes(text) {
            for case in cases::cases(text, dtype)? {
                let name = format!("{file} {dtype} {}", case.graph.name());
                if only.is_some_and(|only| !name.contains(only)) {
                    continue;
                }
                match error_of(backend, &case) {
                    Ok(error) if error <= case.limit() => {
                        println!("ok      {name:<60} {error:.1e}");
                        passed += 1;
                    }
                    Ok(error) => {
                        println!("FAILED  {name:<60} off by {error:.1e}");
                        failed += 1;
                    }
                    Err(error) if is_unsupported(error.as_ref()) => {
                        println!("skipped {name:<60} {error}");
                        skipped += 1;
                    }
                    Err(error) => {
                        println!("FAILED  {name:<60} {error}");
                        failed += 1;
                    }
                }
            }
        }
    }
    println!("{passed} passed; {failed} failed; {skipped} skipped");
    Ok(failed == 0)
}

/// Whether the backend says that it does not run this.
fn is_unsupported(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref::<tintype_backend::Error>(),
        Some(tintype_backend::Error::Unsupported { .. })
    )
}

/// The greatest relative error of an output.
fn error_of(backend: &dyn Backend, case: &Case) -> Result<f64> {
    let graph = decompose(&case.graph, &|op| backend.supports(op))?;
    let staged = StagedGraph::split(&graph)?;
    let executable = backend.compile(&staged, &CompileOptions::default())?;
    executable.refit(&Changes::all(&case.parameters))?;
    let inputs = |stage: Stage| -> Tensors {
        let mut inputs = Tensors::new();
        for (name, tensor) in &case.inputs {
            if staged.inputs_of(stage).any(|input| input.name == *name) {
                inputs.insert(name.clone(), tensor.clone());
            }
        }
        inputs
    };
    let mut session = executable.session()?;
    let state = session.prepare(&inputs(Stage::Request))?;
    let found = if staged.step.outputs().is_empty() {
        Tensors::new()
    } else {
        session.step(state.as_ref(), &inputs(Stage::Step))?
    };
    let (expected, mut worst) = (case.expected()?, 0.0_f64);
    for output in staged.source.outputs() {
        let name = &output.name;
        let found = match found.get(name) {
            Some(_) => found.host(name)?,
            None => state.outputs().host(name)?,
        };
        let error = difference(&found, &expected.host(name)?);
        worst = worst.max(error.map_err(|error| format!("{name}: {error}"))?);
    }
    Ok(worst)
}
