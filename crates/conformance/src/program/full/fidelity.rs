//! What a backend makes of some inputs, for a peer that compares it with its own f32 and bf16.
//!
//! `benches/peers/flux_torch.py fidelity` computes the same weights and inputs, runs them in f32
//! and in the small dtype, and says whose error is larger.

use std::time::Instant;

use serde_json::json;
use tintype_backend::{Backend, CompileOptions};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use super::super::machine::{Found, Machine};
use super::super::report::{Label, Report};
use super::super::{Arguments, Result, on_each};
use super::loaded::{Gauge, Loaded, expect_numbers, parameters};
use super::size::Size;

pub(in super::super) fn run(
    machine: &Machine,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    on_each(machine, report, 1, |name, found: &Found, report| {
        write(name, found.backend.as_ref(), arguments, report)
    })
}

fn write(
    on: &'static str,
    backend: &dyn Backend,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let size = Size {
        steps: 1,
        ..Size::new(arguments)
    };
    let gauge = Gauge::new(on)?;
    let parameters = parameters(&size, arguments, report)?;
    let options = CompileOptions::default();
    let mut loaded = Loaded::new(&size, backend, &options, &parameters, &gauge, report)?;
    let mut samples = Vec::new();
    for seed in 0..arguments.full.seeds {
        let start = Instant::now();
        let sample = loaded.sample(&size, seed)?;
        let case = format!("sample of seed {seed}");
        let label = Label::new(&case, on).of(size.dtype);
        report.check(label, start.elapsed(), expect_numbers(&sample));
        samples.push((format!("sample.{seed}"), sample));
    }
    if let Some(path) = &arguments.full.tensors {
        std::fs::write(path, safetensors(&samples)?)?;
        println!("        written to {}", path.display());
    }
    Ok(())
}

/// A file of these parameters, as f32.
pub(super) fn safetensors_of(parameters: &Parameters) -> Result<Vec<u8>> {
    let tensors = parameters
        .names()
        .map(|name| Ok((name.to_owned(), parameters.get(name)?)));
    safetensors(&tensors.collect::<Result<Vec<_>>>()?)
}

/// A file of f32 tensors.
fn safetensors(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let start = data.len();
        let values = tensor.to_f32_vec()?;
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = json!({
            "dtype": "F32",
            "shape": tensor.shape().to_vec(),
            "data_offsets": [start, data.len()],
        });
        header.insert(name.clone(), entry);
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text);
    file.extend(data);
    Ok(file)
}
