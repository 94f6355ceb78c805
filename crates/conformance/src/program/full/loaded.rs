//! A transformer on a backend, with its weights.

use std::time::Instant;

use tintype_backend::{
    Backend, Changes, CompileOptions, DeviceTensor, Executable, Session, Tensors,
};
use tintype_device::{CudaTensor, Device, Staging};
use tintype_tensor::Tensor;
use tintype_weights::{Parameters, layout};

use super::super::flux::memory::{Watch, mebibytes};
use super::super::report::Report;
use super::super::{Arguments, Result};
use super::random;
use super::size::Size;

/// All parameters of the transformer: random, or those of a pipeline; and scales.
pub(super) fn parameters(
    size: &Size,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<Parameters> {
    let (graph, start) = (size.plain()?, Instant::now());
    let (what, parameters) = match &arguments.full.model {
        Some(folder) => {
            let read = Parameters::open(folder.join("transformer"))?;
            ("opened", layout::flux_transformer(&read)?.parameters)
        }
        None => ("made", random::parameters(&graph)?),
    };
    let sizes = graph.parameters().iter().map(|parameter| {
        let shape = parameter.ty.static_shape();
        shape.map_or(0, |shape| shape.byte_len(parameter.ty.dtype).unwrap_or(0))
    });
    let bytes = mebibytes(sizes.sum());
    report.figure("parameters", bytes, "MiB", None)?;
    let seconds = start.elapsed().as_secs_f64();
    report.figure(format!("parameters {what}"), seconds, "s", None)?;
    let all = Parameters::builder().parameters(&parameters);
    Ok(all.parameters(&size.scales()?).build()?)
}

/// The device's clock and memory, if a backend runs on a device.
pub(super) struct Gauge {
    device: Option<(Device, Watch)>,
}

impl Gauge {
    /// For the backend of this name.
    pub(super) fn new(backend: &str) -> Result<Self> {
        if backend == "cpu" {
            return Ok(Self { device: None });
        }
        let device = Device::open(0)?;
        let watch = Watch::new(&device);
        Ok(Self {
            device: Some((device, watch)),
        })
    }

    /// Waits for all work on the device.
    pub(super) fn settle(&self) -> Result<()> {
        if let Some((device, _)) = &self.device {
            device.synchronize()?;
        }
        Ok(())
    }

    /// Gives back what nobody uses.
    pub(super) fn trim(&self) -> Result<()> {
        self.settle()?;
        if let Some((device, _)) = &self.device {
            device.trim()?;
        }
        Ok(())
    }

    /// Leaves the driver alone, or goes on watching.
    pub(super) fn pause(&self, on: bool) {
        if let Some((_, watch)) = &self.device {
            watch.pause(on);
        }
    }

    /// Memory in use, as a figure.
    pub(super) fn say_used(&self, name: &str, report: &mut Report) -> Result<()> {
        match &self.device {
            Some((_, watch)) => report.figure(name, watch.used()?, "MiB", None),
            None => Ok(()),
        }
    }

    /// The most memory in use since it was last said, as a figure.
    pub(super) fn say_peak(&self, name: &str, report: &mut Report) -> Result<()> {
        match &self.device {
            Some((_, watch)) => report.figure(name, watch.peak()?, "MiB", None),
            None => Ok(()),
        }
    }

    /// A tensor in the device's memory, so that no upload is timed.
    pub(super) fn upload(&self, tensor: Tensor) -> Result<DeviceTensor> {
        let Some((device, _)) = &self.device else {
            return Ok(tensor.into());
        };
        let stream = device.new_stream()?;
        let uploaded = CudaTensor::upload(&tensor, &mut Staging::with_sizes(&stream, 2, 1 << 20)?)?;
        stream.synchronize()?;
        Ok(uploaded.into())
    }
}

/// A compiled transformer with a session.
pub(super) struct Loaded {
    pub(super) executable: Box<dyn Executable>,
    pub(super) session: Box<dyn Session>,
}

impl Loaded {
    /// Compiles, and gives all weights; says how long both took.
    pub(super) fn new(
        size: &Size,
        backend: &dyn Backend,
        options: &CompileOptions,
        parameters: &Parameters,
        gauge: &Gauge,
        report: &mut Report,
    ) -> Result<Self> {
        gauge.say_used("memory before loading", report)?;
        let staged = size.staged(backend)?;
        let start = Instant::now();
        let executable = backend.compile(&staged, options)?;
        report.figure("compiling", start.elapsed().as_secs_f64(), "s", None)?;
        let start = Instant::now();
        let refit = executable.refit(&Changes::all(parameters))?;
        gauge.settle()?;
        let seconds = start.elapsed().as_secs_f64();
        report.figure("loading: from parameters to weights", seconds, "s", None)?;
        report.figure("weights", mebibytes(refit.bytes), "MiB", None)?;
        let session = executable.session()?;
        gauge.say_peak("peak of memory while loading", report)?;
        Ok(Self {
            executable,
            session,
        })
    }

    /// The latents after the step of this number of a new request, in host memory.
    pub(super) fn sample(&mut self, size: &Size, seed: usize) -> Result<Tensor> {
        let state = self.session.prepare(&size.request(seed)?)?;
        let inputs = step_inputs(0, size.latents(seed)?);
        Ok(self.session.step(state.as_ref(), &inputs)?.host("sample")?)
    }

    /// A request and all its steps from the same latents; waits for nothing.
    pub(super) fn picture(
        &mut self,
        size: &Size,
        request: &Tensors,
        latents: &DeviceTensor,
        outputs: &mut Tensors,
    ) -> Result<()> {
        let state = self.session.prepare(request)?;
        for index in 0..size.steps {
            let inputs = step_inputs(index, latents.clone());
            self.session.step_into(state.as_ref(), &inputs, outputs)?;
        }
        Ok(())
    }
}

pub(super) fn step_inputs(index: usize, latents: impl Into<DeviceTensor>) -> Tensors {
    Tensors::new()
        .with("step_index", Tensor::scalar(index as i64))
        .with("hidden_states", latents)
}

/// What is wrong with a result: numbers that are none, or nothing but zeros.
pub(super) fn expect_numbers(sample: &Tensor) -> Result<String> {
    let values = sample.to_f32_vec()?;
    let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    let size = (squares / values.len().max(1) as f64).sqrt();
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let value = values[index];
        let shape = sample.shape();
        return Err(format!("sample {shape}: element {index} is {value}, expected numbers").into());
    }
    if size == 0.0 {
        return Err(format!("sample {}: all zeros", sample.shape()).into());
    }
    Ok(format!("root mean square {size:.3}"))
}
