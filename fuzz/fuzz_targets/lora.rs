//! Any file as a LoRA: its names understood or listed as unknown, or refused with an error.
//!
//! The first byte chooses: even, the rest is a whole safetensors file; odd, the rest is text with
//! a tensor's name and sizes in each line, so that the fuzzer works on names and shapes at once.
#![no_main]

use std::io::Write;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tintype_ir::{Graph, Overlay};
use tintype_lora::{Adapter, Component, LoraFile, overlays};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

/// Keeps one input from asking for more memory than fuzzing has.
const MOST_VALUES: usize = 1 << 16;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    if choice % 2 == 0 {
        let mut file =
            tempfile::NamedTempFile::with_suffix(".safetensors").expect("a temporary file");
        file.write_all(rest).expect("writable");
        file.flush().expect("writable");
        if let Ok(lora) = LoraFile::open(file.path()) {
            look_at(&lora);
        }
    } else if let Some(parameters) = std::str::from_utf8(rest).ok().and_then(parameters_of)
        && let Ok(lora) = LoraFile::from_parameters(&parameters)
    {
        look_at(&lora);
    }
});

/// `name 4 8` in each line; zeros, as only names and shapes matter.
fn parameters_of(text: &str) -> Option<Parameters> {
    let mut builder = Parameters::builder();
    let mut values = 0usize;
    for line in text.lines() {
        let mut words = line.split(' ');
        let name = words.next()?;
        let sizes: Vec<usize> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let count = sizes
            .iter()
            .try_fold(1, |count: usize, size| count.checked_mul(*size))?;
        values = count.saturating_add(values);
        if values > MOST_VALUES {
            return None;
        }
        builder = builder.tensor(name, Tensor::from_f32(sizes, vec![0.0; count]).ok()?);
    }
    builder.build().ok()
}

/// The parameters of a small transformer: whatever the file says, binding gives overlays
/// that attach, or an error.
fn bind(lora: &LoraFile) {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    let graph = GRAPH.get_or_init(|| {
        let config = FluxTransformerConfig {
            num_layers: 1,
            num_single_layers: 1,
            num_attention_heads: 2,
            attention_head_dim: 6,
            axes_dims_rope: vec![2, 2, 2],
            in_channels: 4,
            out_channels: 4,
            joint_attention_dim: 8,
            pooled_projection_dim: 8,
            ..FluxTransformerConfig::dev()
        };
        config.graph(&FluxTransformerOptions::default()).expect("a small transformer")
    });
    let adapter = Adapter::new("fuzzed", lora.clone(), 0.5);
    if let Ok(bound) = overlays(Component::Transformer, graph, &[adapter]) {
        Overlay::attach(graph, &bound.overlays).expect("overlays fit the graph they were bound to");
    }
}

fn look_at(lora: &LoraFile) {
    bind(lora);
    let _ = lora.check_finite();
    let _ = lora.keys_outside(&[Component::Transformer]);
    for target in lora.targets() {
        let _ = (target.block(), target.rank(), target.shape());
        for key in &target.keys {
            assert!(
                lora.tensors().contains(key),
                "a target names what is not there"
            );
        }
    }
    for key in lora.unknown_keys() {
        assert!(
            lora.tensors().contains(key),
            "an unknown name that is not there"
        );
    }
}
