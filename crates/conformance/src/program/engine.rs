//! The safe layer of TensorRT on a GPU: loading, running, refitting, caches, and what bad input
//! gets. On a GPU that is not in the library's list, the engine is built for the target that is
//! known to run there.

mod refits;
mod refusals;
mod runs;

use std::io::Cursor;
use std::time::Instant;

use tintype_device::{CudaTensor, Device, Staging, Stream};
use tintype_tensor::{DType, Tensor, TorchGenerator, relative_error};
use tintype_tensorrt::engine::ContextOptions;
use tintype_tensorrt::{Engine, Flag, Runtime, Target, Tensorrt};

use super::machine::Machine;
use super::report::{Label, Report};
use super::{Arguments, Result};

type Check = (&'static str, fn(&Bench) -> Result<String>);

const CHECKS: [Check; 18] = [
    (
        "a plan is loaded from memory and from a stream",
        runs::loading,
    ),
    ("a plan's header is valid", runs::validity),
    ("the inspector tells layers", runs::inspector),
    ("runs of two sizes give what the cpu gives", runs::sizes),
    ("outputs go where they are told", runs::outputs),
    ("a context runs in the caller's memory", runs::memory),
    ("contexts of two threads do not meet", runs::threads),
    ("a run waits for another stream's input", runs::streams),
    ("a context outlives all handles", runs::drops),
    ("kernels are kept in a file", runs::runtime_cache),
    (
        "cuda graphs and specialization change nothing",
        runs::options,
    ),
    (
        "the engine lists all weights with dtype and count",
        refits::list,
    ),
    (
        "one weight is changed and changed back to the bit",
        refits::one_weight,
    ),
    ("weights come from host memory too", refits::host),
    (
        "refits and runs of two streams keep their order",
        refits::order,
    ),
    (
        "a refit without weights says what is missing",
        refits::missing,
    ),
    ("bad plans are refused", refusals::plans),
    ("bad inputs and weights are refused", refusals::tensors),
];

/// What all checks work with.
struct Bench {
    device: Device,
    runtime: Runtime,
    plan: Vec<u8>,
    /// `[HIDDEN, WIDTH]` and `[WIDTH, HIDDEN]`, bf16.
    weights: [Tensor; 2],
}

const WIDTH: usize = 256;
const HIDDEN: usize = 512;

/// Names of the weights.
const NAMES: [&str; 2] = ["up", "down"];

/// The fewest, the usual and the most rows of `x`.
const ROWS: [i64; 3] = [1, 64, 256];

pub(super) fn run(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    let Some(entry) = machine.entry("tensorrt") else {
        return Ok(());
    };
    let (library, target) = match (&entry.found, &machine.tensorrt) {
        (Ok(_), Ok(library)) => (library, machine.target),
        (Err(reason), _) | (_, Err(reason)) => {
            report.skip(Label::new("all", entry.name), CHECKS.len(), reason);
            return Ok(());
        }
    };
    let bench = Bench::new(library, target, report)?;
    for (name, check) in CHECKS {
        if report.wants(name) {
            let start = Instant::now();
            let result = check(&bench);
            report.check(Label::new(name, entry.name), start.elapsed(), result);
        }
    }
    Ok(())
}

impl Bench {
    fn new(tensorrt: &Tensorrt, target: Option<Target>, report: &mut Report) -> Result<Self> {
        let probe = tensorrt.probe();
        let device = Device::open(0)?;
        let gpu = Target::try_from(device.info().compute_capability)?;
        let support = probe.support(gpu);
        report.machine("support", format!("compute capability {gpu}: {support}"));
        let start = Instant::now();
        device.bind()?;
        let plan = plan(tensorrt, target.or(support.target()))?;
        let note = format!("{} bytes", plan.len());
        report.check(
            Label::new("a plan is built", "tensorrt"),
            start.elapsed(),
            Ok(note),
        );
        Ok(Self {
            runtime: tensorrt.runtime(&device)?,
            device,
            plan,
            weights: [random(1, [HIDDEN, WIDTH])?, random(2, [WIDTH, HIDDEN])?],
        })
    }

    /// An engine with its weights, and the stream that they were set in.
    fn engine(&self) -> Result<(Engine, Stream)> {
        let engine = self
            .runtime
            .engine_from(Cursor::new(self.plan.as_slice()))?;
        let stream = self.device.new_stream()?;
        let mut refitter = engine.refitter()?;
        for (name, weights) in NAMES.into_iter().zip(&self.weights) {
            refitter.set(name, &upload(weights, &stream)?)?;
        }
        refitter.refit(&stream)?;
        Ok((engine, stream))
    }

    /// What the output must be.
    fn expected(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = product(x, &self.weights[0])?;
        product(&hidden, &self.weights[1])
    }
}

/// `y = (x · upᵀ) · downᵀ` in bf16.
fn plan(tensorrt: &Tensorrt, target: Option<Target>) -> Result<Vec<u8>> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    let width = WIDTH as i64;
    let x = network.input("x", DType::BF16, &[-1, width])?;
    let up = network.placeholder(NAMES[0], DType::BF16, &[HIDDEN, WIDTH])?;
    let down = network.placeholder(NAMES[1], DType::BF16, &[WIDTH, HIDDEN])?;
    let hidden = network.matrix_multiply([x, up], [false, true])?;
    let y = network.matrix_multiply([hidden, down], [false, true])?;
    network.mark_output("y", y)?;
    let mut config = builder.config()?;
    match target {
        Some(target) => config.set_targets(&[target])?,
        None => config.set_target_of_this_gpu()?,
    }
    config.set_flag(Flag::StripPlan, true)?;
    let refit = if tensorrt.takes_placeholders() {
        Flag::RefitIndividual
    } else {
        Flag::Refit
    };
    config.set_flag(refit, true)?;
    let mut profile = builder.profile()?;
    let [fewest, usual, most] = ROWS.map(|rows| [rows, width]);
    profile.set_shape("x", &fewest, &usual, &most)?;
    config.add_profile(&profile)?;
    let mut plan = Vec::new();
    builder.build(&network, &config, &mut plan)?;
    Ok(plan)
}

/// The output for `x`, of a new context.
fn y_of(engine: &Engine, x: &Tensor, stream: &Stream) -> Result<Tensor> {
    let mut context = engine.context(&ContextOptions::default())?;
    context.set_input("x", &upload(x, stream)?)?;
    Ok(context.enqueue(stream)?["y"].download(stream)?)
}

fn upload(tensor: &Tensor, stream: &Stream) -> Result<CudaTensor> {
    let mut staging = Staging::with_sizes(stream, 2, 1 << 20)?;
    Ok(CudaTensor::upload(tensor, &mut staging)?)
}

/// Normal numbers in bf16, small enough for sums not to grow.
fn random(seed: u64, sizes: [usize; 2]) -> Result<Tensor> {
    let mut generator = TorchGenerator::new(seed);
    let values = generator.randn(sizes)?.to_f32_vec()?;
    let values = values.into_iter().map(|value| value / 16.0).collect();
    Ok(Tensor::from_f32_as(DType::BF16, sizes, values)?)
}

/// `a · bᵀ`, rounded to bf16.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, inner, columns) = (a.shape()[0], a.shape()[1], b.shape()[0]);
    let (a, b) = (a.to_f32_vec()?, b.to_f32_vec()?);
    let entry = |index: usize| {
        let row = &a[index / columns * inner..][..inner];
        let column = &b[index % columns * inner..][..inner];
        row.iter().zip(column).map(|(a, b)| a * b).sum::<f32>()
    };
    let values = (0..rows * columns).map(entry).collect();
    Ok(Tensor::from_f32_as(DType::BF16, [rows, columns], values)?)
}

/// Fails unless both agree within bf16.
fn expect_close(found: &Tensor, expected: &Tensor) -> Result<f64> {
    if found.shape() != expected.shape() {
        return Err(format!("found {}, expected {}", found.shape(), expected.shape()).into());
    }
    let error = relative_error(&found.to_f32_vec()?, &expected.to_f32_vec()?);
    if error <= 1e-2 {
        Ok(error)
    } else {
        Err(format!("relative error {error:.1e}").into())
    }
}

/// Fails unless both are the same to the bit, or differ, as wanted.
fn expect_same(found: &Tensor, expected: &Tensor, same: bool) -> Result<()> {
    if (found.bytes() == expected.bytes()) == same {
        return Ok(());
    }
    Err(if same { "it differs" } else { "it is the same" }.into())
}

/// The text of an error that must be, and what it must contain.
fn expect_error<T>(result: tintype_tensorrt::Result<T>, part: &str) -> Result<()> {
    match result {
        Ok(_) => Err(format!("expected an error with `{part}`").into()),
        Err(error) if error.to_string().contains(part) => Ok(()),
        Err(error) => Err(format!("expected `{part}` in: {error}").into()),
    }
}
