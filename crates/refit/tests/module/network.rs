//! A small network, its parameters, overlays on them, and what a fresh compilation gives.

use std::sync::Arc;

use tintype_backend::Tensors;
use tintype_cpu::CpuBackend;
use tintype_ir::{Graph, Overlay, parse};
use tintype_refit::{Change, Define, MutableModule, Weights};
use tintype_tensor::{Tensor, TorchGenerator};
use tintype_weights::Parameters;

use crate::backend::{Log, Spy};

/// Two layers with all three stages; a weight that is computed of two parameters, and a
/// parameter that two weights are computed of.
pub(crate) fn network(activation: &str) -> Graph {
    parse(&TEXT.replace("ACTIVATION", activation)).unwrap()
}

const TEXT: &str = r#"graph "network" {
  dim tokens = 1..=64
  param @first.weight: f32[16, 8]
  param @first.bias: f32[16]
  param @gain: f32[16]
  param @second.weight: f32[16, 16]
  param @third.weight: f32[4, 16]
  input request %shift: f32[4]
  input step %x: f32[tokens, 8]
  %0: f32[tokens, 16] = linear %x, @first.weight, @first.bias
  %1: f32[tokens, 16] = ACTIVATION %0
  %2: f32[16, 16] = mul @second.weight, @gain
  %3: f32[tokens, 16] = linear %1, %2
  %4: f32[4, 16] = mul @third.weight, @gain
  %5: f32[tokens, 4] = linear %3, %4
  %6: f32[4] = exp %shift
  %7: f32[tokens, 4] = mul %5, %6
  output y = %7
  output factor = %6
}"#;

/// The shapes of its parameters.
pub(crate) const SHAPES: [(&str, &[usize]); 5] = [
    ("first.weight", &[16, 8]),
    ("first.bias", &[16]),
    ("gain", &[16]),
    ("second.weight", &[16, 16]),
    ("third.weight", &[4, 16]),
];

pub(crate) fn random(shape: &[usize], seed: u64) -> Tensor {
    TorchGenerator::new(seed).randn(shape.to_vec()).unwrap()
}

pub(crate) fn parameters(seed: u64) -> Parameters {
    let named = SHAPES.iter().zip(seed * 100..);
    let builder = named.fold(Parameters::builder(), |builder, ((name, shape), seed)| {
        builder.tensor(*name, random(shape, seed))
    });
    builder.build().unwrap()
}

/// A module of the network on the CPU, and what that is asked for.
pub(crate) fn module(seed: u64) -> (MutableModule, Arc<Log>) {
    let spy = Spy::new();
    let log = spy.log();
    let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(seed));
    (module.build(), log)
}

/// Inputs of a request and of a step of so many tokens.
#[derive(Clone)]
pub(crate) struct Inputs {
    pub(crate) request: Tensors,
    pub(crate) step: Tensors,
}

pub(crate) fn inputs(tokens: usize) -> Inputs {
    Inputs {
        request: Tensors::new().with("shift", random(&[4], 11)),
        step: Tensors::new().with("x", random(&[tokens, 8], 12)),
    }
}

/// Outputs to the bit, by name.
pub(crate) type Bits = Vec<(String, Vec<u8>)>;

pub(crate) fn bits(outputs: &Tensors) -> Bits {
    let mut bits: Bits = outputs
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.to_host().unwrap().bytes().to_vec()))
        .collect();
    bits.sort();
    bits
}

/// What a module gives.
pub(crate) fn outputs(module: &MutableModule, inputs: &Inputs) -> Bits {
    bits(&module.call(&inputs.request, &inputs.step).unwrap().outputs)
}

/// What a graph gives that is compiled for these weights alone.
pub(crate) fn fresh(define: impl Define + 'static, weights: &Weights, inputs: &Inputs) -> Bits {
    let none = Parameters::default();
    let module = MutableModule::builder(Arc::new(CpuBackend::new()), define, none);
    outputs(&module.weights(weights.clone()).build(), inputs)
}

/// A low-rank update with its own parameters.
#[derive(Clone)]
pub(crate) struct Lora {
    pub(crate) overlay: Overlay,
    pub(crate) own: Parameters,
}

pub(crate) fn lora(parameter: &str, name: &str, seed: u64, scale: f32) -> Lora {
    let (_, shape) = SHAPES.iter().find(|(one, _)| *one == parameter).unwrap();
    let (rows, columns) = (shape[0], shape[1]);
    let text = format!(
        "graph lora {{
           param @base: f32[{rows}, {columns}]
           param @{name}.up: f32[{rows}, 2]
           param @{name}.down: f32[2, {columns}]
           param @{name}.scale: f32[1]
           %0: f32[{rows}, {columns}] = matmul @{name}.up, @{name}.down
           %1: f32[{rows}, {columns}] = mul %0, @{name}.scale
           %2: f32[{rows}, {columns}] = add @base, %1
           output weight = %2
         }}"
    );
    let own = Parameters::builder()
        .tensor(format!("{name}.up"), random(&[rows, 2], seed))
        .tensor(format!("{name}.down"), random(&[2, columns], seed + 1))
        .tensor(
            format!("{name}.scale"),
            Tensor::from_f32([1], vec![scale]).unwrap(),
        );
    Lora {
        overlay: Overlay::new(parameter, parse(&text).unwrap()).unwrap(),
        own: own.build().unwrap(),
    }
}

/// Attaches these and no others.
pub(crate) fn attach(change: &mut Change, loras: &[Lora]) {
    let own = loras.iter().fold(Parameters::builder(), |builder, lora| {
        builder.parameters(&lora.own)
    });
    let overlays: Vec<Overlay> = loras.iter().map(|lora| lora.overlay.clone()).collect();
    change.set_overlays(overlays, own.build().unwrap());
}

/// Attaches these and no others to a module.
pub(crate) fn set_loras(module: &MutableModule, loras: &[Lora]) {
    let change = |change: &mut Change| {
        attach(change, loras);
        Ok(())
    };
    module.change(change).unwrap();
}
