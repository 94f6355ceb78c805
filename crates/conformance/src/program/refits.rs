//! How long refits take.

use std::fmt::Write;
use std::time::Instant;

use tintype_backend::{Backend, Changes, CompileOptions, Executable, Tensors};
use tintype_ir::{StagedGraph, parse};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use super::machine::{Found, Machine};
use super::report::{Label, Report};
use super::{Arguments, Result, on_each};

/// Weights of 32 MiB each, 1 GiB in all on a GPU.
const SIZE: usize = 4096;

/// How many rows there are on a backend.
const COUNT: usize = 3 + 2 * ROUNDS;

/// How often one weight is changed and changed back.
const ROUNDS: usize = 4;

pub(super) fn run(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    on_each(machine, report, COUNT, |name, found: &Found, report| {
        measure(name, found.backend.as_ref(), report)
    })
}

fn measure(on: &str, backend: &dyn Backend, report: &mut Report) -> Result<()> {
    let layers = if on == "cpu" { 2 } else { 32 };
    let graph = parse(&chain(layers))?;
    let start = Instant::now();
    let executable = backend.compile(&StagedGraph::split(&graph)?, &CompileOptions::default())?;
    let note = format!("{layers} weights of 32 MiB");
    report.check(Label::new("compile", on), start.elapsed(), Ok(note));
    let parameters = parameters(layers, 0)?;
    for name in ["first refit of all weights", "refit of all weights again"] {
        let refit = executable.refit(&Changes::all(&parameters))?;
        report.check(Label::new(name, on), refit.duration, Ok(shown(refit.bytes)));
    }
    let x = Tensor::from_f32([1, SIZE], vec![0.5; SIZE])?.to_dtype(DType::BF16)?;
    let inputs = Tensors::new().with("x", x);
    let before = y_of(executable.as_ref(), &inputs)?;
    for round in 1..=ROUNDS {
        let mut changed = parameters.clone();
        let changes = changed.set("w1", weight(round)?)?;
        let one = executable.refit(&Changes::all(&changed).only(&changes))?;
        let is_same = || -> Result<bool> {
            Ok(y_of(executable.as_ref(), &inputs)?.bytes() == before.bytes())
        };
        let result = if is_same()? {
            Err("nothing changed".into())
        } else {
            Ok(shown(one.bytes))
        };
        let name = format!("refit of one weight, round {round}");
        report.check(Label::new(&name, on), one.duration, result);
        let back = executable.refit(&Changes::all(&parameters).only(&changes))?;
        let result = if is_same()? {
            Ok("to the bit".to_owned())
        } else {
            Err("the bits differ".into())
        };
        let name = format!("the old weight again, round {round}");
        report.check(Label::new(&name, on), back.duration, result);
    }
    Ok(())
}

fn shown(bytes: usize) -> String {
    format!("{} MiB from the host", bytes >> 20)
}

fn y_of(executable: &dyn Executable, inputs: &Tensors) -> Result<Tensor> {
    let mut session = executable.session()?;
    let state = session.prepare(&Tensors::new())?;
    Ok(session.step(state.as_ref(), inputs)?.host("y")?)
}

/// Products one after another.
fn chain(layers: usize) -> String {
    let mut text = "graph \"chain\" {\n".to_owned();
    for layer in 0..layers {
        let _ = writeln!(text, "param @w{layer}: bf16[{SIZE}, {SIZE}]");
    }
    let _ = writeln!(text, "input step %x: bf16[1, {SIZE}]");
    for layer in 0..layers {
        let from = if layer == 0 {
            "x".to_owned()
        } else {
            (layer - 1).to_string()
        };
        let _ = writeln!(
            text,
            "%{layer}: bf16[1, {SIZE}] = linear %{from}, @w{layer}"
        );
    }
    let _ = writeln!(text, "output y = %{}\n}}", layers - 1);
    text
}

/// Weights that keep what they multiply at its size, in no simple pattern.
fn weight(seed: usize) -> Result<Tensor> {
    let value = |index: usize| {
        let mixed = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ (seed << 17)) >> 40;
        (mixed % 2001) as f32 / 1000.0 - 1.0
    };
    let scale = 1.7 / (SIZE as f32).sqrt();
    let values = (0..SIZE * SIZE).map(|index| value(index) * scale).collect();
    Ok(Tensor::from_f32([SIZE, SIZE], values)?.to_dtype(DType::BF16)?)
}

fn parameters(layers: usize, seed: usize) -> Result<Parameters> {
    let mut builder = Parameters::builder();
    let one = weight(seed)?;
    for layer in 0..layers {
        builder = builder.tensor(format!("w{layer}"), one.clone());
    }
    Ok(builder.build()?)
}
