//! Weights in the weight program: their scales, what overlays make of them, exact rounding.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod support;

use support::{example, examples, flux, parameters, samples, staged, with};
use tintype_cpu::CpuBackend;
use tintype_ir::{Overlay, Stage, StagedGraph, parse};
use tintype_quant::{Granularity, Method, Recipe, Rule, Scales, calibrate, quantize};
use tintype_tensor::{DType, Tensor, TorchGenerator, f8e4m3_from_f32, relative_error};
use tintype_weights::Parameters;

/// One linear of 6 rows and 8 columns.
fn linear() -> tintype_ir::Graph {
    parse(
        "graph g { param @proj.weight: bf16[6, 8] param @proj.bias: bf16[6] \
         input step %x: bf16[3, 8] \
         %0: bf16[3, 6] = linear %x, @proj.weight, @proj.bias  # proj\n output y = %0 }",
    )
    .unwrap()
}

fn noise(shape: &[usize], seed: u64) -> Vec<f32> {
    let noise = TorchGenerator::new(seed).randn(shape).unwrap();
    noise.to_f32_vec().unwrap()
}

/// The weights of a quantized linear by name.
fn weights_of(
    recipe: &Recipe,
    scales: &Scales,
    weight: &[f32],
    overlays: &[Overlay],
    own: &Parameters,
) -> Vec<(String, Tensor)> {
    let quantized = quantize(&linear(), recipe, scales).unwrap();
    let programs = StagedGraph::split(&quantized.graph).unwrap();
    let weight = Tensor::from_f32([6, 8], weight.to_vec()).unwrap();
    let bias = Tensor::from_f32([6], vec![0.0; 6]).unwrap();
    let given = Parameters::builder()
        .tensor("proj.weight", weight)
        .tensor("proj.bias", bias)
        .parameters(own)
        .parameters(&quantized.parameters)
        .build()
        .unwrap();
    let program = programs.weight_with(overlays).unwrap();
    let results = tintype_cpu::run(&program, &given, &[]).unwrap();
    let results = results.iter();
    results
        .map(|(name, tensor)| (name.to_owned(), tensor.to_host().unwrap()))
        .collect()
}

fn find<'t>(weights: &'t [(String, Tensor)], name: &str) -> &'t Tensor {
    let found = weights.iter().find(|(other, _)| other == name);
    &found.unwrap_or_else(|| panic!("{name} in {weights:?}")).1
}

fn recipe(granularity: Granularity) -> Recipe {
    Recipe::new([Rule::linears(["proj"], granularity)])
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |a, b| a.max(b.abs()))
}

#[test]
fn codes_are_the_weight_over_its_scale_rounded_once() {
    let values = noise(&[6, 8], 11);
    let none = Parameters::default();
    let weights = weights_of(
        &recipe(Granularity::WeightOnly),
        &Scales::new(),
        &values,
        &[],
        &none,
    );
    let scale = greatest(&values) / 448.0;
    assert_eq!(
        find(&weights, "proj.weight_scale").to_f32_vec().unwrap(),
        [scale]
    );
    let expected: Vec<u8> = values.iter().map(|v| f8e4m3_from_f32(v / scale)).collect();
    assert_eq!(find(&weights, "proj.weight").bytes(), expected);
    let by_row = weights_of(
        &recipe(Granularity::PerRow),
        &Scales::new(),
        &values,
        &[],
        &none,
    );
    let scales = find(&by_row, "proj.weight_scale");
    assert_eq!(scales.shape().to_vec(), [6, 1]);
    let codes = find(&by_row, "proj.weight").bytes();
    for (row, scale) in scales.to_f32_vec().unwrap().into_iter().enumerate() {
        let part = &values[8 * row..8 * (row + 1)];
        assert_eq!(scale, greatest(part) / 448.0);
        let expected: Vec<u8> = part.iter().map(|v| f8e4m3_from_f32(v / scale)).collect();
        assert_eq!(codes[8 * row..8 * (row + 1)], expected);
    }
}

#[test]
fn every_code_comes_back() {
    // All finite codes as a weight that was made with this scale: 254 of them, and zeros.
    let scale = 0.0371f32;
    let codes: Vec<u8> = (0..=255u8).filter(|code| code & 0x7f != 0x7f).collect();
    for part in codes.chunks(48) {
        let mut part = part.to_vec();
        part.resize(48, 0);
        let stored = Tensor::from_bytes(DType::F8E4M3, [48], part.clone()).unwrap();
        let values: Vec<f32> = stored
            .to_f32_vec()
            .unwrap()
            .iter()
            .map(|v| v * scale)
            .collect();
        let mut scales = Scales::new();
        scales.insert("proj.weight", scale).unwrap();
        let none = Parameters::default();
        let weights = weights_of(
            &recipe(Granularity::WeightOnly),
            &scales,
            &values,
            &[],
            &none,
        );
        let found = find(&weights, "proj.weight");
        assert_eq!(found.bytes(), part);
        let used = find(&weights, "proj.weight_scale").to_f32_vec().unwrap()[0];
        assert!((used / scale - 1.0).abs() < 2e-7, "{used}");
    }
}

#[test]
fn zeros_have_a_scale_too() {
    let none = Parameters::default();
    for granularity in [Granularity::WeightOnly, Granularity::PerRow] {
        let weights = weights_of(&recipe(granularity), &Scales::new(), &[0.0; 48], &[], &none);
        assert!(
            find(&weights, "proj.weight")
                .bytes()
                .iter()
                .all(|&code| code == 0)
        );
        let scales = find(&weights, "proj.weight_scale").to_f32_vec().unwrap();
        assert!(scales.iter().all(|&scale| scale == f32::MIN_POSITIVE));
    }
}

/// `base + 4 · up · down` as an overlay, with its parameters.
fn overlay() -> (Overlay, Parameters) {
    let fragment = parse(
        "graph lora { param @base: f32[6, 8] param @up: f32[6, 1] param @down: f32[1, 8] \
         %0: f32[6, 8] = matmul @up, @down %1: f32[6, 8] = add @base, %0 output value = %1 }",
    )
    .unwrap();
    let up: Vec<f32> = noise(&[6], 21).iter().map(|v| 4.0 * v).collect();
    let own = Parameters::builder()
        .tensor("up", Tensor::from_f32([6, 1], up).unwrap())
        .tensor("down", Tensor::from_f32([1, 8], noise(&[8], 22)).unwrap())
        .build()
        .unwrap();
    (Overlay::new("proj.weight", fragment).unwrap(), own)
}

#[test]
fn an_overlay_is_merged_in_f32_and_gets_a_scale_of_its_own() {
    let values = noise(&[6, 8], 23);
    let (overlay, own) = overlay();
    let [up, down] = ["up", "down"].map(|name| own.get(name).unwrap().to_f32_vec().unwrap());
    let merged: Vec<f32> = (0..48)
        .map(|i| values[i] + up[i / 8] * down[i % 8])
        .collect();
    let scale = greatest(&merged) / 448.0;
    assert!(greatest(&merged) > 2.0 * greatest(&values));
    // A scale that came with the checkpoint is a lower bound: it does not cut the merged off.
    let mut imported = Scales::new();
    imported
        .insert("proj.weight", greatest(&values) / 448.0)
        .unwrap();
    for scales in [Scales::new(), imported] {
        let overlays = [overlay.clone()];
        let weights = weights_of(
            &recipe(Granularity::WeightOnly),
            &scales,
            &values,
            &overlays,
            &own,
        );
        assert_eq!(
            find(&weights, "proj.weight_scale").to_f32_vec().unwrap(),
            [scale]
        );
        let codes_of = |merged: &[f32], scale: f32| -> Vec<u8> {
            let codes = merged.iter().map(|v| f8e4m3_from_f32(v / scale));
            codes.collect()
        };
        let found = find(&weights, "proj.weight");
        assert_eq!(found.bytes(), codes_of(&merged, scale));
        // Were they made from codes that the weight had before, they would be others.
        let before = greatest(&values) / 448.0;
        let stored = values.iter().zip(&merged).map(|(value, merged)| {
            let stored = DType::F8E4M3.round(value / before) * before;
            stored + (merged - value)
        });
        let stored: Vec<f32> = stored.collect();
        assert_ne!(found.bytes(), codes_of(&stored, scale));
    }
}

#[test]
fn a_fresh_scale_is_nearer_than_a_stale_one() {
    let graph = flux(DType::F32);
    let weights = parameters(&graph, 31);
    let name = "single_transformer_blocks.0.proj_out.weight";
    let backend = CpuBackend::new();
    let recipe = Recipe::flux();
    let mut feed = examples(&backend, &graph, &weights, 1);
    let scales = calibrate(&mut feed, &recipe, Method::Max)
        .unwrap()
        .scales()
        .unwrap();
    let quantized = quantize(&graph, &recipe, &scales).unwrap();
    // A change of some rows that makes the weight's range much greater.
    let mut change = vec![0.0f32; 64 * 320];
    for (value, noise) in change.iter_mut().zip(noise(&[8 * 320], 32)) {
        *value = 0.4 * noise;
    }
    let fragment = parse(
        "graph d { param @base: f32[64, 320] param @delta: f32[64, 320] \
         %0: f32[64, 320] = add @base, @delta output value = %0 }",
    )
    .unwrap();
    let overlays = [Overlay::new(name, fragment).unwrap()];
    let delta = Parameters::builder()
        .tensor(
            "delta",
            Tensor::from_f32([64, 320], change.clone()).unwrap(),
        )
        .build()
        .unwrap();
    let given = example(&graph, 100);
    let expected = samples(
        &staged(&graph, false),
        &with(&weights, &delta),
        &overlays,
        &given,
    );
    let all = with(&with(&weights, &quantized.parameters), &delta);
    let fresh = samples(&staged(&quantized.graph, false), &all, &overlays, &given);
    // The stale scale: codes of the merged weight are cut off where the old range ends.
    let base = weights.get(name).unwrap().to_f32_vec().unwrap();
    let end = greatest(&base);
    let cut = base
        .iter()
        .zip(&change)
        .map(|(a, b)| (a + b).clamp(-end, end));
    let mut stale = weights.clone();
    let cut: Vec<f32> = cut.collect();
    stale
        .edit(name, |values| values.copy_from_slice(&cut))
        .unwrap();
    let stale = with(&stale, &quantized.parameters);
    let stale = samples(&staged(&quantized.graph, false), &stale, &[], &given);
    let error = |found: &[Vec<f32>]| relative_error(&found.concat(), &expected.concat());
    let (fresh, stale) = (error(&fresh), error(&stale));
    assert!(fresh < 0.1 && stale > 1.5 * fresh, "{fresh} {stale}");
}

#[test]
fn scales_that_came_part_by_part_keep_projections_apart() {
    let graph = flux(DType::BF16);
    let recipe = Recipe::new([Rule::linears(
        ["transformer_blocks.0.attn.*"],
        Granularity::PerTensor,
    )]);
    let mut scales = Scales::new();
    for part in [
        "to_q",
        "to_k",
        "to_v",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    ] {
        let name = format!("transformer_blocks.0.attn.{part}");
        scales
            .insert(format!("{name}.input"), 0.1 + part.len() as f32)
            .unwrap();
        if part.starts_with("to") {
            scales.keep_separate(name);
        }
    }
    let quantized = quantize(&graph, &recipe, &scales).unwrap();
    let programs = staged(&quantized.graph, true);
    let has = |name: &str| {
        programs
            .step
            .parameter(&format!("transformer_blocks.0.attn.{name}.weight"))
            .is_some()
    };
    assert!(has("to_q") && has("to_k") && has("to_v"));
    assert!(has("add_q_proj_add_k_proj_add_v_proj"));
    // The projections of the text have the greatest of their scales.
    let weight = &programs.weight;
    let name = "transformer_blocks.0.attn.add_q_proj.input.right";
    assert!(
        weight.outputs().iter().any(|output| output.name == name),
        "{weight}"
    );
    let stages = weight.stages();
    assert!(stages.iter().all(|stage| *stage == Stage::Weight));
}
