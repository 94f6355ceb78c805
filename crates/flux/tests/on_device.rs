//! Where a backend's outputs lie on a device, steps follow each other there, and the picture is
//! the one that the scheduler makes step by step.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::PathBuf;

use tintype_backend::{Backend, Capabilities, CompileOptions, Executable};
use tintype_cpu::CpuBackend;
use tintype_flux::{FluxPipeline, Observer, Output, Request, StepEnd};
use tintype_ir::{Evaluator, Op, StagedGraph};
use tintype_tensor::DType;

/// The CPU, which says that it is a device.
struct Device(CpuBackend);

impl Backend for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities().with_device_outputs(true)
    }

    fn supports(&self, op: &Op) -> bool {
        self.0.supports(op)
    }

    fn evaluator(&self) -> Option<&dyn Evaluator> {
        self.0.evaluator()
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> tintype_backend::Result<Box<dyn Executable>> {
        self.0.compile(graph, options)
    }
}

/// Counts steps, and looks at them or not.
struct Counter {
    looks: bool,
    passed: usize,
    seen: usize,
}

impl Observer for Counter {
    fn looks(&self) -> bool {
        self.looks
    }

    fn passed(&mut self, index: usize) {
        assert_eq!(index, self.passed);
        self.passed += 1;
    }

    fn step(&mut self, _: &mut StepEnd) {
        self.seen += 1;
    }
}

fn pipeline(backend: impl Backend + 'static, dtype: DType) -> FluxPipeline {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../conformance/fixtures/pipelines/dev");
    let pipeline = FluxPipeline::from_pretrained(folder).unwrap();
    pipeline.backend(backend).dtype(dtype)
}

fn made(pipeline: &FluxPipeline, request: &Request, looks: bool) -> Output {
    let mut counter = Counter {
        looks,
        passed: 0,
        seen: 0,
    };
    let output = pipeline.generate_with(request, &mut counter).unwrap();
    assert_eq!(counter.passed, 4);
    assert_eq!(output.timings.steps.len(), 4);
    // Nobody is shown latents that did not leave the device.
    let stays = pipeline.architecture().euler_step && request.negative_prompt.is_none();
    assert_eq!(counter.seen, if stays && !looks { 0 } else { 4 });
    output
}

fn request() -> Request {
    let mut request = Request::new("a red circle")
        .size(32, 48)
        .steps(4)
        .max_sequence_length(16)
        .seed(11);
    request.prompt.push("two stars".to_owned());
    request
}

#[test]
fn in_f32_latents_are_those_of_the_scheduler_to_the_bit() {
    let host = made(&pipeline(CpuBackend::new(), DType::F32), &request(), false);
    let device = pipeline(Device(CpuBackend::new()), DType::F32);
    for looks in [false, true] {
        let other = made(&device, &request(), looks);
        assert!(other.latents.bytes() == host.latents.bytes(), "{looks}");
        let pixels = |output: &Output| output.pixels.clone().unwrap();
        assert!(pixels(&other).bytes() == pixels(&host).bytes(), "{looks}");
    }
}

/// The graph rounds the sum alone, the scheduler its product, too.
#[test]
fn in_half_precision_they_are_no_further_from_f32() {
    let exact = made(&pipeline(CpuBackend::new(), DType::F32), &request(), false);
    let exact = exact.latents.to_f32_vec().unwrap();
    let distance = |output: &Output| {
        let values = output.latents.to_f32_vec().unwrap();
        let squares = values
            .iter()
            .zip(&exact)
            .map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    for dtype in [DType::BF16, DType::F16] {
        let host = made(&pipeline(CpuBackend::new(), dtype), &request(), false);
        let device = made(
            &pipeline(Device(CpuBackend::new()), dtype),
            &request(),
            false,
        );
        let (host, device) = (distance(&host), distance(&device));
        assert!(
            host > 0.0 && device <= 1.1 * host,
            "{dtype}: {device} against {host}"
        );
    }
}

#[test]
fn with_two_prompts_each_step_comes_to_the_host() {
    let mut request = request();
    request.negative_prompt = Some(vec!["blue".to_owned(), "green".to_owned()]);
    request.true_cfg_scale = Some(2.0);
    let host = made(&pipeline(CpuBackend::new(), DType::F32), &request, false);
    let device = pipeline(Device(CpuBackend::new()), DType::F32);
    let other = made(&device, &request, false);
    assert!(other.latents.bytes() == host.latents.bytes());
}
