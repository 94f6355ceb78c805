//! The whole of FLUX.1-dev on a GPU: random weights made there, all of them set by refit.
//!
//! Twenty steps are run and timed; then weights are changed and changed back. Each part is left
//! out when time is up, and figures are written as they come.

pub(super) mod build;
mod engine;
pub(super) mod inputs;
pub(super) mod memory;
mod weights;

use std::time::{Duration, Instant};

use tintype_device::{CudaTensor, Device, Stream};
use tintype_ir::Graph;
use tintype_tensor::Tensor;
use tintype_tensorrt::lower::{Layers, LowerOptions, REVISION};
use tintype_tensorrt::plan::{PlanKey, Recipe};
use tintype_tensorrt::{Runtime, Target, Tensorrt};

use self::engine::Loaded;
use self::memory::{Watch, mebibytes};
use self::weights::Maker;
use super::full::median;
use super::machine::Machine;
use super::report::{Label, Report};
use super::{Arguments, Result};

/// What one changed weight and what one gigabyte of them may take after the first time.
const ONE_MILLISECONDS: f64 = 10.0;
const GIGABYTE_MILLISECONDS: f64 = 50.0;

/// How often something is measured.
const ROUNDS: usize = 7;

pub(super) fn run(machine: &Machine, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let label = Label::new("FLUX.1-dev", "tensorrt");
    let Some(entry) = machine.entry("tensorrt") else {
        return Ok(());
    };
    if let Err(reason) = &entry.found {
        report.skip(label, 1, reason);
        return Ok(());
    }
    let library = machine.tensorrt.as_ref().map_err(String::as_str)?;
    let limit = Duration::from_secs(arguments.flux_limit);
    let bench = Bench::new(library, machine, Instant::now() + limit)?;
    let shape = build::Shape::new(arguments.flux_tokens);
    let staged = shape.staged()?;
    let plans = [
        bench.plan(&staged.request, "request", report)?,
        bench.plan(&staged.step, "step", report)?,
    ];
    if arguments.flux_plans {
        return Ok(());
    }
    let state = bench.request(&shape, &staged.request, &plans[0], report)?;
    let mut step = bench.first_refit(&staged.step, &plans[1], report)?;
    let noise = inputs::noise(&shape, &step.layers)?;
    let before = bench.steps(&shape, &mut step, &state, &noise, report)?;
    let reference = Reference {
        state,
        noise,
        before,
    };
    bench.all_again(&mut step, &reference, report)?;
    let names = step.largest_first();
    bench.change(
        "one weight",
        &names[..1],
        ONE_MILLISECONDS,
        &mut step,
        &reference,
        report,
    )?;
    let count = gigabyte(&step, &names);
    bench.change(
        "1 GB",
        &names[..count],
        GIGABYTE_MILLISECONDS,
        &mut step,
        &reference,
        report,
    )?;
    drop(step);
    bench.groups(&staged.step, &plans[1], &reference, report)
}

/// What the first step gives with the first weights, and from what.
struct Reference {
    state: Vec<(String, CudaTensor)>,
    noise: Tensor,
    before: Tensor,
}

/// What all parts work with.
struct Bench<'l> {
    library: &'l Tensorrt,
    runtime: Runtime,
    device: Device,
    stream: Stream,
    target: Option<Target>,
    plans: std::path::PathBuf,
    maker: Maker,
    watch: Watch,
    deadline: Instant,
}

impl<'l> Bench<'l> {
    fn new(library: &'l Tensorrt, machine: &Machine, deadline: Instant) -> Result<Self> {
        let device = Device::open(0)?;
        device.bind()?;
        let own = Target::try_from(device.info().compute_capability)?;
        let support = library.probe().support(own);
        let stream = device.new_stream()?;
        Ok(Self {
            library,
            runtime: library.runtime(&device)?,
            target: machine.target.or(support.target()),
            plans: machine.plans.folder().to_owned(),
            maker: Maker::new(&stream)?,
            watch: Watch::new(&device),
            deadline,
            device,
            stream,
        })
    }

    /// Whether something new may begin; says so if not.
    fn has_time(&self, what: &str, report: &mut Report) -> bool {
        let has_time = Instant::now() < self.deadline;
        if !has_time {
            let label = Label::new(what, "tensorrt");
            report.skip(label, 1, "time is up: --flux-limit");
        }
        has_time
    }

    /// A plan, from an earlier run if there is one.
    fn plan(&self, program: &Graph, name: &str, report: &mut Report) -> Result<Vec<u8>> {
        let target = self
            .target
            .map_or("own".to_owned(), |target| target.to_string());
        let recipe = Recipe::new(self.library.abi(), target)
            .with("library", self.library.tag())
            .with("lowering", REVISION)
            .with("section", "flux")
            .with(
                "tf32",
                std::env::var("NVIDIA_TF32_OVERRIDE").unwrap_or_default(),
            );
        let path = self
            .plans
            .join(format!("{}.flux", PlanKey::new(program, &recipe)));
        if let Ok(plan) = std::fs::read(&path) {
            println!("        the plan of {name} is that of {}", path.display());
            return Ok(plan);
        }
        let built = build::plan(self.library, program, self.target, Some(self.deadline))?;
        report.figure(format!("build of {name}"), built.seconds, "s", None)?;
        let size = mebibytes(built.plan.len());
        report.figure(format!("plan of {name}"), size, "MiB", None)?;
        std::fs::create_dir_all(&self.plans)?;
        std::fs::write(&path, &built.plan)?;
        Ok(built.plan)
    }

    /// Loads an engine that has no weights yet.
    fn load(&self, program: &Graph, plan: &[u8]) -> Result<Loaded> {
        let layers = Layers::of(program, &LowerOptions::default())?;
        Loaded::new(self.runtime.engine(plan)?, layers)
    }

    /// Runs what a request needs once; its results stay on the device, its engine does not.
    fn request(
        &self,
        shape: &build::Shape,
        program: &Graph,
        plan: &[u8],
        report: &mut Report,
    ) -> Result<Vec<(String, CudaTensor)>> {
        let mut loaded = self.load(program, plan)?;
        let names = loaded.names();
        let refitted = loaded.refit(&names, 0, &self.maker)?;
        report.figure("request: first refit", refitted.milliseconds, "ms", None)?;
        let inputs = inputs::of_request(shape, &loaded.layers, &self.stream)?;
        let start = Instant::now();
        let outputs = loaded.run(&inputs, &self.stream)?;
        self.stream.synchronize()?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        report.figure("request: run, with its kernels", took, "ms", None)?;
        Ok(outputs)
    }

    /// Gives the step's engine all of its weights.
    fn first_refit(&self, program: &Graph, plan: &[u8], report: &mut Report) -> Result<Loaded> {
        self.settle()?;
        let empty = self.watch.used()?;
        let start = Instant::now();
        let mut loaded = self.load(program, plan)?;
        let seconds = start.elapsed().as_secs_f64();
        report.figure("step: engine loaded", seconds, "s", None)?;
        let engine = self.watch.used()? - empty;
        report.figure("step: memory of the engine", engine, "MiB", None)?;
        let result = match loaded.not_taken().as_slice() {
            [] => Ok(format!("{} weights", loaded.names().len())),
            lost => Err(format!("it does not take {}", lost.join(", ")).into()),
        };
        let label = Label::new("the engine takes every weight", "tensorrt");
        report.check(label, start.elapsed(), result);
        let names = loaded.names();
        let bytes: usize = names.iter().map(|name| loaded.needed.bytes_of(name)).sum();
        let weights = mebibytes(bytes);
        report.figure("step: weights", weights, "MiB", None)?;
        self.watch.peak()?;
        let refitted = loaded.refit(&names, 0, &self.maker)?;
        let peak = self.watch.peak()? - empty;
        report.figure("step: first refit", refitted.milliseconds, "ms", None)?;
        report.figure(
            "step: peak of the first refit, weights included",
            peak,
            "MiB",
            None,
        )?;
        self.settle()?;
        let after = self.watch.used()? - empty;
        report.figure(
            "step: memory of the engine with weights",
            after,
            "MiB",
            None,
        )?;
        Ok(loaded)
    }

    /// Twenty steps from noise, each timed on the device; gives the result of the first.
    fn steps(
        &self,
        shape: &build::Shape,
        step: &mut Loaded,
        state: &[(String, CudaTensor)],
        noise: &Tensor,
        report: &mut Report,
    ) -> Result<Tensor> {
        self.watch.peak()?;
        let (mut latents, mut times, mut first) = (noise.clone(), Vec::new(), None);
        let start = Instant::now();
        for index in 0..shape.steps {
            let (sample, took) = step.timed_run(state, &latents, index, &self.stream)?;
            latents = inputs::moved(&latents, &sample, shape.steps)?;
            times.push(took);
            println!("        step {index}: {took:.2} ms");
            first.get_or_insert(sample);
        }
        let seconds = start.elapsed().as_secs_f64();
        report.figure("steps: all with the host's work", seconds, "s", None)?;
        report.figure("steps: the first, with its kernels", times[0], "ms", None)?;
        report.figure("steps: median", median(&times), "ms", None)?;
        let peak = self.watch.peak()?;
        report.figure("steps: peak of memory", peak, "MiB", None)?;
        let values = latents.to_f32_vec()?;
        let is_finite = values.iter().all(|value| value.is_finite());
        let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        let size = (squares / values.len() as f64).sqrt();
        let result = if is_finite && latents.bytes() != noise.bytes() {
            Ok(format!("root mean square {size:.2}"))
        } else {
            Err("they are not finite, or nothing happened".into())
        };
        let label = Label::new("latents after the steps are numbers", "tensorrt");
        report.check(label, start.elapsed(), result);
        Ok(first.ok_or("no steps")?)
    }

    /// The same weights again, three times.
    fn all_again(
        &self,
        step: &mut Loaded,
        reference: &Reference,
        report: &mut Report,
    ) -> Result<()> {
        if !self.has_time("all weights again", report) {
            return Ok(());
        }
        let (mut times, names) = (Vec::new(), step.names());
        for _ in 0..3 {
            times.push(step.refit(&names, 0, &self.maker)?.milliseconds);
        }
        report.figure("all weights again: median", median(&times), "ms", None)?;
        self.expect("all weights again", true, step, reference, report)
    }

    /// Changes weights and changes them back, some rounds long.
    fn change(
        &self,
        what: &str,
        names: &[String],
        allowed: f64,
        step: &mut Loaded,
        reference: &Reference,
        report: &mut Report,
    ) -> Result<()> {
        if !self.has_time(what, report) {
            return Ok(());
        }
        let bytes: usize = names.iter().map(|name| step.needed.bytes_of(name)).sum();
        let (mut times, mut first, mut added) = (Vec::new(), 0.0, 0);
        self.watch.pause(true);
        for round in 1..=ROUNDS {
            for version in [round, 0] {
                let refitted = step.refit(names, version, &self.maker)?;
                added = added.max(refitted.added);
                match (round, version) {
                    (1, 1) => {
                        first = refitted.milliseconds;
                        let (set, asked) = (refitted.setting, refitted.asking);
                        println!("        {what}: {set:.2} ms to name them, {asked:.2} ms to ask");
                    }
                    _ => times.push(refitted.milliseconds),
                }
                if round == ROUNDS {
                    self.expect(what, version == 0, step, reference, report)?;
                }
            }
        }
        self.watch.pause(false);
        report.figure(format!("{what}: size"), mebibytes(bytes), "MiB", None)?;
        report.figure(format!("{what}: weights"), names.len() as f64, "", None)?;
        report.figure(format!("{what}: weights besides"), added as f64, "", None)?;
        report.figure(format!("{what}: the first time"), first, "ms", None)?;
        let median = median(&times);
        report.figure(format!("{what}: median"), median, "ms", Some(allowed))
    }

    /// Whether the first refit of an engine can come in two parts, so that its weights need not
    /// all lie beside it.
    fn groups(
        &self,
        program: &Graph,
        plan: &[u8],
        reference: &Reference,
        report: &mut Report,
    ) -> Result<()> {
        if !self.has_time("a first refit in two parts", report) {
            return Ok(());
        }
        self.settle()?;
        let empty = self.watch.used()?;
        let mut loaded = self.load(program, plan)?;
        self.watch.peak()?;
        let names = loaded.names();
        let (start, mut result) = (Instant::now(), Ok(String::new()));
        for (number, half) in names.chunks(names.len().div_ceil(2)).enumerate() {
            match loaded.refit_alone(half, &self.maker) {
                Ok(took) => {
                    let name = format!("two parts: refit of part {}", number + 1);
                    report.figure(name, took, "ms", None)?;
                }
                Err(error) => result = Err(format!("part {}: {error}", number + 1)),
            }
            self.settle()?;
        }
        let peak = self.watch.peak()? - empty;
        report.figure("two parts: peak of memory", peak, "MiB", None)?;
        // Either answer is good to know; a wrong result after a refit that was taken is not.
        let label = Label::new("a first refit in two parts", "tensorrt");
        let is_taken = result.is_ok();
        let said = match result {
            Ok(_) => "it is taken".to_owned(),
            Err(error) => format!("it is refused: {error}"),
        };
        report.check(label, start.elapsed(), Ok(said));
        report.figure("two parts: taken", f64::from(u8::from(is_taken)), "", None)?;
        if is_taken {
            self.expect("two parts", true, &mut loaded, reference, report)?;
        }
        Ok(())
    }

    /// Whether the first step gives what it gave at first, or something else.
    fn expect(
        &self,
        what: &str,
        is_same: bool,
        step: &mut Loaded,
        reference: &Reference,
        report: &mut Report,
    ) -> Result<()> {
        let start = Instant::now();
        let Reference {
            state,
            noise,
            before,
        } = reference;
        let (found, _) = step.timed_run(state, noise, 0, &self.stream)?;
        let result = match (found.bytes() == before.bytes(), is_same) {
            (true, true) => Ok("to the bit".to_owned()),
            (false, false) => Ok("another result".to_owned()),
            (true, false) => Err("the new weights are not seen".into()),
            (false, true) => Err("the bits differ".into()),
        };
        let kind = if is_same {
            "the first result"
        } else {
            "changed"
        };
        let case = format!("{what}: {kind}");
        report.check(Label::new(&case, "tensorrt"), start.elapsed(), result);
        Ok(())
    }

    /// Waits, and gives back what nobody uses.
    fn settle(&self) -> Result<()> {
        self.stream.synchronize()?;
        Ok(self.device.trim()?)
    }
}

/// How many of the largest weights are a gigabyte.
fn gigabyte(step: &Loaded, names: &[String]) -> usize {
    let sizes = names.iter().map(|name| step.needed.bytes_of(name));
    let sums = sizes.scan(0, |sum, size| {
        *sum += size;
        Some(*sum)
    });
    let before = sums.take_while(|&sum| sum < 1_000_000_000).count();
    names.len().min(before + 1)
}
