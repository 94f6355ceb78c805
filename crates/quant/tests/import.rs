//! FP8 checkpoints of others, as small files.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod support;

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use support::{example, flux, parameters, samples, staged, with};
use tintype_ir::Graph;
use tintype_quant::{Granularity, import, layer_names, quantize};
use tintype_tensor::{DType, Tensor, relative_error};
use tintype_weights::Parameters;

/// How a checkpoint says its scales.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    ModelOpt,
    Scaled,
    Raw,
    Rows,
}

/// The codes of a weight and their scales: one, or one for each row.
fn codes(weight: &Tensor, kind: Kind) -> (Vec<u8>, Vec<f32>) {
    let values = weight.to_f32_vec().unwrap();
    let columns = weight.shape()[1];
    let length = if kind == Kind::Rows {
        columns
    } else {
        values.len()
    };
    let scale = |part: &[f32]| match kind {
        Kind::Raw => 1.0,
        _ => part.iter().fold(0.0f32, |a, b| a.max(b.abs())) / 448.0,
    };
    let scales: Vec<f32> = values.chunks(length).map(scale).collect();
    let scaled = values.chunks(length).zip(&scales);
    let scaled: Vec<f32> = scaled
        .flat_map(|(part, scale)| part.iter().map(move |value| value / scale))
        .collect();
    let codes = Tensor::from_f32_as(DType::F8E4M3, [values.len()], scaled).unwrap();
    (codes.bytes().to_vec(), scales)
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A checkpoint of `graph` with the linears of blocks in FP8.
fn write(folder: &Path, graph: &Graph, weights: &Parameters, kind: Kind) -> PathBuf {
    let (linears, _) = layer_names(graph);
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for parameter in graph.parameters() {
        let tensor = weights.get(&parameter.name).unwrap();
        let module = parameter.name.strip_suffix(".weight").unwrap_or("");
        let in_block = module.contains("transformer_blocks.");
        let shape = tensor.shape().to_vec();
        if !in_block || !linears.iter().any(|name| name == module) {
            let values = bytes(&tensor.to_f32_vec().unwrap());
            tensors.push((parameter.name.clone(), Dtype::F32, shape, values));
            continue;
        }
        let (codes, scales) = codes(&tensor, kind);
        let rows = if scales.len() > 1 {
            vec![scales.len()]
        } else {
            Vec::new()
        };
        tensors.push((parameter.name.clone(), Dtype::F8_E4M3, shape, codes));
        let suffix = match kind {
            Kind::Raw => continue,
            Kind::Scaled => "scale_weight",
            Kind::ModelOpt | Kind::Rows => "weight_scale",
        };
        tensors.push((
            format!("{module}.{suffix}"),
            Dtype::F32,
            rows,
            bytes(&scales),
        ));
        if kind == Kind::ModelOpt {
            let scale = bytes(&[0.02 + module.len() as f32 * 1e-4]);
            tensors.push((
                format!("{module}.input_scale"),
                Dtype::F32,
                Vec::new(),
                scale,
            ));
        }
    }
    let path = folder.join("model.safetensors");
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    serialize_to_file(views, None, &path).unwrap();
    path
}

#[test]
fn codes_of_a_file_come_out_of_the_weight_program() {
    let graph = flux(DType::BF16);
    let weights = parameters(&graph, 41);
    for (kind, granularity) in [
        (Kind::ModelOpt, Granularity::PerTensor),
        (Kind::Scaled, Granularity::WeightOnly),
        (Kind::Raw, Granularity::WeightOnly),
        (Kind::Rows, Granularity::PerRow),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = Parameters::open(write(folder.path(), &graph, &weights, kind)).unwrap();
        let imported = import(&graph, &file).unwrap().expect("weights in FP8");
        assert_eq!(imported.recipe.rules.len(), 1);
        assert_eq!(imported.recipe.rules[0].granularity, granularity);
        assert_eq!(imported.recipe.rules[0].linears.len(), 20);
        let quantized = quantize(&graph, &imported.recipe, &imported.scales).unwrap();
        let all = with(&file, &quantized.parameters);
        for fuse in [false, true] {
            let programs = staged(&quantized.graph, fuse);
            // Parts with scales of their own stay apart.
            let part = "transformer_blocks.0.attn.to_k.weight";
            let is_apart = programs.step.parameter(part).is_some();
            assert_eq!(
                is_apart,
                !fuse || matches!(kind, Kind::ModelOpt | Kind::Scaled)
            );
            let outputs = tintype_cpu::run(&programs.weight, &all, &[]).unwrap();
            if is_apart {
                let found = outputs.host(part).unwrap();
                let (expected, _) = codes(&weights.get(part).unwrap(), kind);
                assert_eq!(found.dtype(), DType::F8E4M3);
                assert!(found.bytes() == expected);
            }
            let given = example(&graph, 7);
            let plain = samples(&staged(&graph, false), &file, &[], &given).concat();
            let narrow = samples(&programs, &all, &[], &given).concat();
            let error = relative_error(&narrow, &plain);
            assert!(error < 0.15, "{error}");
            if granularity == Granularity::WeightOnly {
                // Nothing but roundings to bf16 is new.
                assert!(error < 0.02, "{error}");
            }
        }
    }
}

#[test]
fn what_is_not_in_fp8_is_not_imported() {
    let graph = flux(DType::F32);
    assert!(import(&graph, &parameters(&graph, 42)).unwrap().is_none());
}

#[test]
fn a_scale_that_cannot_be_is_told_with_file_and_tensor() {
    let graph = flux(DType::F32);
    let weights = parameters(&graph, 43);
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &graph, &weights, Kind::ModelOpt);
    let good = Parameters::open(&path).unwrap();
    let name = "transformer_blocks.0.attn.to_q.input_scale";
    for wrong in [0.0, f32::NAN, f32::INFINITY] {
        let broken = Parameters::builder()
            .parameters(&good)
            .tensor(name, Tensor::scalar(wrong))
            .build()
            .unwrap();
        let message = import(&graph, &broken).unwrap_err().to_string();
        let expected = format!("{name}: expected a finite scale above 0, found {wrong}");
        assert!(message.ends_with(&expected), "{message}");
        assert!(message.contains("model.safetensors"), "{message}");
    }
}
