//! The blocks of models on host memory, beside the CPU backend: enqueued, captured, replayed.

use std::sync::Arc;

use tintype_backend::{Backend, Changes, CompileOptions, Executable, Tensors};
use tintype_cpu::{CpuBackend, CpuEvaluator};
use tintype_ir::{Binding, Stage, StagedGraph, TensorType, parse};
use tintype_tensor::{Tensor, TorchGenerator, relative_error};
use tintype_weights::Parameters;

use super::executable::CudaExecutable;
use crate::run::host::Host;

#[test]
fn clip() {
    check(include_str!("../../tests/files/clip_block.ir"));
}

#[test]
fn t5() {
    check(include_str!("../../tests/files/t5_block.ir"));
}

#[test]
fn flux_double_blocks() {
    check(include_str!("../../tests/files/flux_double_blocks.ir"));
}

#[test]
fn flux_single_blocks() {
    check(include_str!("../../tests/files/flux_single_blocks.ir"));
}

#[test]
fn flux_for_two_pictures() {
    check(include_str!("../../tests/files/flux_batch_2.ir"));
}

#[test]
fn vae() {
    check(include_str!("../../tests/files/vae_resnet.ir"));
}

fn check(text: &str) {
    let given = text.split("; expect:").next().unwrap();
    let staged = StagedGraph::split(&parse(given).unwrap()).unwrap();
    let sizes = sizes(given);
    let machine = Arc::new(Host::new(1 << 30));
    let host = CudaExecutable::new(machine, staged.clone(), Arc::new(CpuEvaluator));
    let options = CompileOptions::default();
    let cpu = CpuBackend::new().compile(&staged, &options).unwrap();
    let executables: [&dyn Executable; 2] = [&host, &*cpu];
    let mut sessions =
        executables.map(|executable| executable.session().unwrap_or_else(|_| panic!("a session")));
    for seed in 1..5 {
        // In place: the states of before are gone.
        let weights = parameters(&staged, &sizes, seed);
        let request = inputs(&staged, Stage::Request, &sizes, 10 * seed);
        let step = inputs(&staged, Stage::Step, &sizes, 10 * seed + 5);
        let mut results = Vec::new();
        for (executable, session) in executables.iter().zip(&mut sessions) {
            executable.refit(&Changes::all(&weights)).unwrap();
            let state = session.prepare(&request).unwrap();
            let outputs = session.step(state.as_ref(), &step).unwrap();
            results.push((state.outputs().clone(), outputs));
        }
        compare(&results[0].0, &results[1].0);
        compare(&results[0].1, &results[1].1);
    }
}

#[track_caller]
fn compare(found: &Tensors, expected: &Tensors) {
    assert_eq!(found.iter().count(), expected.iter().count());
    for (name, expected) in expected.iter() {
        let found = found.host(name).unwrap().to_f32_vec().unwrap();
        let expected = expected.to_host().unwrap().to_f32_vec().unwrap();
        let error = relative_error(&found, &expected);
        // Both round to bf16, at other places.
        assert!(error < 2e-2, "{name} is off by {error}");
    }
}

fn sizes(text: &str) -> Binding {
    let line = text.lines().find_map(|line| line.strip_prefix("; plan:"));
    let mut sizes = Binding::new();
    for part in line.unwrap().split(',') {
        if let Some((symbol, size)) = part.split_once('=') {
            sizes.set(symbol.trim(), size.trim().parse().unwrap());
        }
    }
    sizes
}

fn parameters(staged: &StagedGraph, sizes: &Binding, seed: u64) -> Parameters {
    let mut builder = Parameters::builder();
    for (index, parameter) in staged.source.parameters().iter().enumerate() {
        let columns = parameter.ty.shape(sizes).unwrap().last().copied();
        let scale = 1.0 / (columns.unwrap_or(1) as f32).sqrt();
        let tensor = noise(&parameter.ty, sizes, 1000 * seed + index as u64, scale);
        builder = builder.tensor(parameter.name.as_str(), tensor);
    }
    builder.build().unwrap()
}

fn inputs(staged: &StagedGraph, stage: Stage, sizes: &Binding, seed: u64) -> Tensors {
    let inputs = staged.inputs_of(stage).enumerate();
    inputs
        .map(|(index, input)| {
            let tensor = noise(&input.ty, sizes, 100 * seed + index as u64, 1.0);
            (input.name.clone(), tensor)
        })
        .collect()
}

/// Noise; whole numbers are 0 or 1.
fn noise(ty: &TensorType, sizes: &Binding, seed: u64, scale: f32) -> Tensor {
    let shape = ty.shape(sizes).unwrap();
    let values = TorchGenerator::new(seed).randn(&*shape).unwrap();
    let values = values.to_f32_vec().unwrap().into_iter();
    let values = values.map(|value| {
        if ty.dtype.is_float() {
            value * scale
        } else {
            f32::from(u8::from(value > 0.0))
        }
    });
    let wide = Tensor::from_f32(shape, values.collect()).unwrap();
    wide.to_dtype(ty.dtype).unwrap()
}
