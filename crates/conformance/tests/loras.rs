//! LoRA files merged by the CPU's weight programs, against sums in f64.
//!
//! Not a test of pictures: it looks at single parameters. The recorded pipelines
//! are small enough that every one of them can be compared.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use tintype_ir::{Graph, GraphBuilder, Overlay, TensorType};
use tintype_lora::{Adapter, Component, LoraFile, LoraOverlays, Update, overlays};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_weights::Parameters;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn pipeline_parameters(component: Component) -> Parameters {
    let folder = fixtures().join("pipelines/dev");
    Parameters::open(folder.join(component.name())).unwrap()
}

fn lora(name: &str) -> LoraFile {
    LoraFile::open(fixtures().join(format!("loras/{name}.safetensors"))).unwrap()
}

/// A graph that gives each parameter back in `dtype`, so that overlays show.
fn identity(parameters: &Parameters, dtype: DType) -> Graph {
    let mut b = GraphBuilder::new("identity");
    for name in parameters.names() {
        let shape = parameters.shape(name).unwrap().to_vec();
        let value = b.parameter(name, TensorType::new(dtype, shape));
        b.output(name, value);
    }
    b.finish().unwrap()
}

fn run(graph: &Graph, parameters: &Parameters, bound: &LoraOverlays) -> BTreeMap<String, Tensor> {
    let attached = Overlay::attach(graph, &bound.overlays).unwrap();
    tintype_ir::verify(&attached).unwrap();
    let all = Parameters::builder()
        .parameters(parameters)
        .parameters(&bound.parameters)
        .build()
        .unwrap();
    let outputs = tintype_cpu::run(&attached, &all, &[]).unwrap();
    let outputs = outputs.iter();
    outputs
        .map(|(name, value)| (name.to_owned(), value.to_host().unwrap()))
        .collect()
}

/// The parameters with the adapters merged, in f32.
fn merged(component: Component, adapters: &[Adapter]) -> BTreeMap<String, Vec<f32>> {
    let parameters = pipeline_parameters(component);
    let graph = identity(&parameters, DType::F32);
    let bound = overlays(component, &graph, adapters).unwrap();
    run(&graph, &parameters, &bound)
        .into_iter()
        .map(|(name, value)| (name, value.to_f32_vec().unwrap()))
        .collect()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let square = |sum: f64, value: f64| sum + value * value;
    let difference = found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - b);
    let error = difference.fold(0.0, square).sqrt();
    let norm = expected.iter().copied().fold(0.0, square).sqrt();
    assert!(error <= 1e-6 * norm.max(1e-3), "{what}: {error} of {norm}");
}

/// A small matrix in f64, for references.
#[derive(Debug, Clone)]
struct Matrix {
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn read(parameters: &Parameters, name: &str) -> Self {
        Self::of(&parameters.get(name).unwrap())
    }

    fn of(tensor: &Tensor) -> Self {
        let columns = tensor.shape().last().copied().unwrap_or(1);
        let values = tensor
            .to_f32_vec()
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect();
        Self { columns, values }
    }

    fn rows(&self, start: usize, end: usize) -> Self {
        let values = self.values[start * self.columns..end * self.columns].to_vec();
        Self {
            columns: self.columns,
            values,
        }
    }

    fn row_count(&self) -> usize {
        self.values.len() / self.columns
    }

    fn product(&self, other: &Self) -> Self {
        let mut values = Vec::new();
        for row in self.values.chunks(self.columns) {
            for column in 0..other.columns {
                let terms = row.iter().enumerate();
                values.push(
                    terms
                        .map(|(k, a)| a * other.values[k * other.columns + column])
                        .sum(),
                );
            }
        }
        Self {
            columns: other.columns,
            values,
        }
    }

    fn combined(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        let pairs = self.values.iter().zip(&other.values);
        Self {
            columns: self.columns,
            values: pairs.map(|(&a, &b)| f(a, b)).collect(),
        }
    }

    fn plus(&self, factor: f64, other: &Self) -> Self {
        self.combined(other, |a, b| a + factor * b)
    }
}

const COMPLETE: [&str; 20] = [
    "peft_all",
    "peft_alpha",
    "peft_base_model",
    "transformer_down_up",
    "lora_transformer",
    "kohya_double",
    "kohya_full",
    "kohya_no_alpha",
    "kohya_te1",
    "kohya_te2",
    "kohya_te3",
    "kohya_unet_and_te1",
    "diffusion_model_lora_a",
    "diffusion_model_lora_down",
    "base_model_original",
    "xlabs",
    "bfl_control_64",
    "text_encoder_peft",
    "text_encoder_2_peft",
    "clip_l_lora_down",
];

#[test]
fn every_key_of_every_recorded_file_is_applied() {
    for name in COMPLETE {
        let file = lora(name);
        assert_eq!(file.unknown_keys(), [""; 0], "{name}");
        let mut applied = 0;
        for component in file.components() {
            let graph = identity(&pipeline_parameters(component), DType::F32);
            let adapter = Adapter::new("a", file.clone(), 1.0);
            let bound = overlays(component, &graph, &[adapter]).unwrap();
            assert!(bound.report.is_complete(), "{name}: {}", bound.report);
            applied += bound.report.adapters[0].applied;
        }
        assert_eq!(applied, file.targets().len(), "{name}");
    }
    let files = std::fs::read_dir(fixtures().join("loras")).unwrap();
    assert_eq!(
        files.count(),
        COMPLETE.len() + 1,
        "files that no test names"
    );
}

#[test]
fn fused_rows_of_the_original_names_land_on_their_modules() {
    let file = lora("kohya_full");
    let base = pipeline_parameters(Component::Transformer);
    let found = merged(
        Component::Transformer,
        &[Adapter::new("a", file.clone(), -0.75)],
    );
    let size = 32;
    for (module, rows, parameter) in [
        (
            "double_blocks_1_img_attn_qkv",
            (size, 2 * size),
            "transformer_blocks.1.attn.to_k",
        ),
        (
            "double_blocks_0_txt_attn_qkv",
            (2 * size, 3 * size),
            "transformer_blocks.0.attn.add_v_proj",
        ),
        (
            "single_blocks_1_linear1",
            (0, size),
            "single_transformer_blocks.1.attn.to_q",
        ),
        (
            "single_blocks_0_linear1",
            (3 * size, 7 * size),
            "single_transformer_blocks.0.proj_mlp",
        ),
        (
            "single_blocks_0_linear2",
            (0, size),
            "single_transformer_blocks.0.proj_out",
        ),
        (
            "guidance_in_in_layer",
            (0, size),
            "time_text_embed.guidance_embedder.linear_1",
        ),
        ("img_in", (0, size), "x_embedder"),
    ] {
        let read = |end: &str| Matrix::read(file.tensors(), &format!("lora_unet_{module}.{end}"));
        let (down, up) = (read("lora_down.weight"), read("lora_up.weight"));
        let alpha = file
            .tensors()
            .get(&format!("lora_unet_{module}.alpha"))
            .unwrap();
        let factor = f64::from(alpha.to_f32_vec().unwrap()[0]) / down.row_count() as f64;
        let name = format!("{parameter}.weight");
        let delta = up.rows(rows.0, rows.1).product(&down);
        let expected = Matrix::read(&base, &name).plus(-0.75 * factor, &delta);
        assert_close(&found[&name], &expected.values, &name);
    }
}

#[test]
fn the_final_modulation_changes_its_halves() {
    let file = lora("base_model_original");
    let base = pipeline_parameters(Component::Transformer);
    let found = merged(
        Component::Transformer,
        &[Adapter::new("a", file.clone(), 1.0)],
    );
    let module = "base_model.model.final_layer.adaLN_modulation.1";
    let down = Matrix::read(file.tensors(), &format!("{module}.lora_A.weight"));
    let up = Matrix::read(file.tensors(), &format!("{module}.lora_B.weight"));
    let mut delta = up.rows(32, 64).product(&down);
    delta.values.extend(up.rows(0, 32).product(&down).values);
    let expected = Matrix::read(&base, "norm_out.linear.weight").plus(1.0, &delta);
    assert_close(
        &found["norm_out.linear.weight"],
        &expected.values,
        "norm_out",
    );
}

#[test]
fn control_files_bring_biases_and_norms() {
    let file = lora("bfl_control_64");
    let base = pipeline_parameters(Component::Transformer);
    let found = merged(
        Component::Transformer,
        &[Adapter::new("a", file.clone(), 0.5)],
    );
    let bias = Matrix::read(file.tensors(), "double_blocks.0.img_attn.qkv.lora_B.bias");
    let name = "transformer_blocks.0.attn.to_v.bias";
    let part = Matrix {
        columns: 32,
        values: bias.values[64..].to_vec(),
    };
    let expected = Matrix::read(&base, name).plus(0.5, &part);
    assert_close(&found[name], &expected.values, name);
    // A norm is replaced, whatever the scale.
    let norm = Matrix::read(file.tensors(), "single_blocks.1.norm.key_norm.scale");
    let name = "single_transformer_blocks.1.attn.norm_k.weight";
    assert_close(&found[name], &norm.values, name);
}

#[test]
fn a_control_file_for_more_channels_names_them() {
    let parameters = pipeline_parameters(Component::Transformer);
    let graph = identity(&parameters, DType::F32);
    let adapter = Adapter::new("a", lora("bfl_control_128"), 1.0);
    let error = overlays(Component::Transformer, &graph, &[adapter]).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("img_in.lora_A.weight"), "{message}");
    assert!(
        message.contains("for a model with 128 input channels"),
        "{message}"
    );
}

#[test]
fn a_plain_file_on_a_model_with_more_channels_changes_the_first() {
    let mut generator = TorchGenerator::new(4);
    let weight = generator.randn([32, 128]).unwrap();
    let parameters = Parameters::builder()
        .tensor("x_embedder.weight", weight.clone())
        .build()
        .unwrap();
    let graph = identity(&parameters, DType::F32);
    let file = lora("peft_all");
    let bound = overlays(
        Component::Transformer,
        &graph,
        &[Adapter::new("a", file.clone(), 1.0)],
    )
    .unwrap();
    let found = run(&graph, &parameters, &bound)["x_embedder.weight"]
        .to_f32_vec()
        .unwrap();
    let down = Matrix::read(file.tensors(), "transformer.x_embedder.lora_A.weight");
    let up = Matrix::read(file.tensors(), "transformer.x_embedder.lora_B.weight");
    let delta = up.product(&down);
    let mut expected = Matrix::of(&weight);
    for (row, added) in expected.values.chunks_mut(128).zip(delta.values.chunks(64)) {
        row.iter_mut()
            .zip(added)
            .for_each(|(value, added)| *value += added);
    }
    assert_close(&found, &expected.values, "x_embedder");
}

/// One random LoRA on a double block's attention, written in each format.
fn same_in_each_format() -> Vec<(&'static str, LoraFile)> {
    let mut generator = TorchGenerator::new(7);
    let down = generator.randn([4, 32]).unwrap();
    let up = generator.randn([96, 4]).unwrap();
    let pair = |module: &str, ends: [&str; 2]| {
        vec![
            (format!("{module}{}", ends[0]), down.clone()),
            (format!("{module}{}", ends[1]), up.clone()),
        ]
    };
    let split = |modules: [&str; 3], ends: [&str; 2]| {
        let parts = modules.iter().enumerate().flat_map(|(part, module)| {
            let rows = up.rows(32 * part, 32 * (part + 1)).unwrap();
            [
                (format!("{module}{}", ends[0]), down.clone()),
                (format!("{module}{}", ends[1]), rows),
            ]
        });
        parts.collect::<Vec<_>>()
    };
    let kohya = [".lora_down.weight", ".lora_up.weight"];
    let peft = [".lora_A.weight", ".lora_B.weight"];
    let files = [
        (
            "kohya",
            pair("lora_unet_double_blocks_1_img_attn_qkv", kohya),
        ),
        (
            "original, down and up",
            pair("diffusion_model.double_blocks.1.img_attn.qkv", kohya),
        ),
        (
            "original, PEFT",
            pair("diffusion_model.double_blocks.1.img_attn.qkv", peft),
        ),
        ("BFL", pair("double_blocks.1.img_attn.qkv", peft)),
        (
            "XLabs",
            pair(
                "double_blocks.1.processor.qkv_lora1",
                [".down.weight", ".up.weight"],
            ),
        ),
        (
            "PEFT",
            split(
                [
                    "transformer.transformer_blocks.1.attn.to_q",
                    "transformer.transformer_blocks.1.attn.to_k",
                    "transformer.transformer_blocks.1.attn.to_v",
                ],
                peft,
            ),
        ),
        (
            "PEFT, wrapped, named",
            split(
                [
                    "base_model.model.transformer_blocks.1.attn.to_q",
                    "base_model.model.transformer_blocks.1.attn.to_k",
                    "base_model.model.transformer_blocks.1.attn.to_v",
                ],
                [".lora_A.default.weight", ".lora_B.default.weight"],
            ),
        ),
        (
            "flat",
            split(
                [
                    "lora_transformer_transformer_blocks_1_attn_to_q",
                    "lora_transformer_transformer_blocks_1_attn_to_k",
                    "lora_transformer_transformer_blocks_1_attn_to_v",
                ],
                kohya,
            ),
        ),
    ];
    let open = |tensors: Vec<(String, Tensor)>| {
        let mut builder = Parameters::builder();
        for (name, tensor) in tensors {
            builder = builder.tensor(name, tensor);
        }
        LoraFile::from_parameters(&builder.build().unwrap()).unwrap()
    };
    files.map(|(name, tensors)| (name, open(tensors))).into()
}

#[test]
fn one_lora_in_each_format_gives_the_same_weights() {
    let files = same_in_each_format();
    let first = merged(
        Component::Transformer,
        &[Adapter::new("a", files[0].1.clone(), 0.6)],
    );
    let base = pipeline_parameters(Component::Transformer);
    let tensors = files[0].1.tensors();
    let down = Matrix::read(
        tensors,
        "lora_unet_double_blocks_1_img_attn_qkv.lora_down.weight",
    );
    let up = Matrix::read(
        tensors,
        "lora_unet_double_blocks_1_img_attn_qkv.lora_up.weight",
    );
    for (part, name) in ["to_q", "to_k", "to_v"].iter().enumerate() {
        let name = format!("transformer_blocks.1.attn.{name}.weight");
        let delta = up.rows(32 * part, 32 * (part + 1)).product(&down);
        let expected = Matrix::read(&base, &name).plus(0.6, &delta);
        assert_close(&first[&name], &expected.values, &name);
    }
    for (name, file) in &files[1..] {
        let other = merged(
            Component::Transformer,
            &[Adapter::new("a", file.clone(), 0.6)],
        );
        assert!(first == other, "{name}");
    }
}

#[test]
fn adapters_add_up_with_any_scales_and_round_once() {
    let (first, second) = (lora("peft_all"), lora("xlabs"));
    let parameters = pipeline_parameters(Component::Transformer);
    let graph = identity(&parameters, DType::BF16);
    let adapters = [
        Adapter::new("first", first.clone(), 0.7),
        Adapter::new("second", second.clone(), -0.4),
    ];
    let mut bound = overlays(Component::Transformer, &graph, &adapters).unwrap();
    let name = "transformer_blocks.0.attn.to_out.0.weight";
    let base = parameters.read_as(name, DType::BF16).unwrap();
    let read = |file: &LoraFile, module: &str, ends: [&str; 2]| {
        let [down, up] = ends.map(|end| Matrix::read(file.tensors(), &format!("{module}{end}")));
        up.product(&down)
    };
    let one = read(
        &first,
        "transformer.transformer_blocks.0.attn.to_out.0",
        [".lora_A.weight", ".lora_B.weight"],
    );
    let two = read(
        &second,
        "double_blocks.0.processor.proj_lora1",
        [".down.weight", ".up.weight"],
    );
    for scales in [(0.7f32, -0.4f32), (0.0, 1.5), (0.0, 0.0)] {
        bound.set_scale("first", scales.0).unwrap();
        bound.set_scale("second", scales.1).unwrap();
        let found = run(&graph, &parameters, &bound)[name].clone();
        assert_eq!(found.dtype(), DType::BF16);
        let sum = Matrix::of(&base)
            .plus(f64::from(scales.0), &one)
            .plus(f64::from(scales.1), &two);
        let ulps = found.to_f32_vec().unwrap().into_iter().zip(&sum.values);
        // Half a unit in the last place of bf16, and a little for the sum in f32.
        assert!(
            ulps.clone()
                .all(|(a, &b)| (f64::from(a) - b).abs() <= b.abs() * 0.00391 + 1e-7)
        );
        let exact = ulps
            .filter(|&(a, &b)| DType::BF16.round(b as f32) == a)
            .count();
        assert!(exact * 100 >= sum.values.len() * 99, "{exact}");
    }
}

#[test]
fn scales_of_zero_give_the_base_back_and_the_graph_stays() {
    let parameters = pipeline_parameters(Component::Transformer);
    let graph = identity(&parameters, DType::F32);
    let mut bound = overlays(
        Component::Transformer,
        &graph,
        &[Adapter::new("a", lora("peft_all"), 1.0)],
    )
    .unwrap();
    let before = bound.clone();
    let snapshot = bound.parameters.snapshot();
    let names = bound.set_scale("a", 0.0).unwrap();
    assert_eq!(before.overlays, bound.overlays);
    let changes = bound.parameters.changes_since(&snapshot);
    assert_eq!(changes.names().collect::<Vec<_>>(), names);
    for (name, value) in run(&graph, &parameters, &bound) {
        assert_eq!(
            value.to_f32_vec().unwrap(),
            parameters.get(&name).unwrap().to_f32_vec().unwrap()
        );
    }
}

#[test]
fn scales_may_differ_between_blocks() {
    let file = lora("peft_all");
    let by_block = Adapter::new("a", file.clone(), 2.0)
        .with_scales(|target| if target.block() == Some(1) { 0.5 } else { 0.0 });
    let base = pipeline_parameters(Component::Transformer);
    let found = merged(Component::Transformer, &[by_block]);
    let whole = merged(Component::Transformer, &[Adapter::new("a", file, 1.0)]);
    let name = |block: usize| format!("transformer_blocks.{block}.attn.to_q.weight");
    assert_eq!(
        found[&name(0)],
        base.get(&name(0)).unwrap().to_f32_vec().unwrap()
    );
    assert_eq!(found[&name(1)], whole[&name(1)]);
    assert_ne!(
        found[&name(1)],
        base.get(&name(1)).unwrap().to_f32_vec().unwrap()
    );
}

/// A file of LyCORIS for one module, and the parameter's base.
fn lycoris(tensors: &[(&str, &[usize])]) -> (LoraFile, Parameters) {
    let mut generator = TorchGenerator::new(11);
    let mut builder = Parameters::builder();
    for (end, shape) in tensors {
        let tensor = generator.randn(shape.to_vec()).unwrap();
        builder = builder.tensor(
            format!("lycoris_transformer_blocks_0_ff_net_2.{end}"),
            tensor,
        );
    }
    let builder = builder.tensor(
        "lycoris_transformer_blocks_0_ff_net_2.alpha",
        Tensor::scalar(1.0f32),
    );
    let file = LoraFile::from_parameters(&builder.build().unwrap()).unwrap();
    let base = generator.randn([6, 8]).unwrap();
    let base = Parameters::builder().tensor("transformer_blocks.0.ff.net.2.weight", base);
    (file, base.build().unwrap())
}

fn merged_one(file: &LoraFile, base: &Parameters, scale: f32) -> Vec<f32> {
    let graph = identity(base, DType::F32);
    let bound = overlays(
        Component::Transformer,
        &graph,
        &[Adapter::new("a", file.clone(), scale)],
    )
    .unwrap();
    let outputs = run(&graph, base, &bound);
    outputs.values().next().unwrap().to_f32_vec().unwrap()
}

const LYCORIS: &str = "lycoris_transformer_blocks_0_ff_net_2";
const LYCORIS_BASE: &str = "transformer_blocks.0.ff.net.2.weight";

#[test]
fn hadamard_products() {
    let (file, base) = lycoris(&[
        ("hada_w1_a", &[6, 2]),
        ("hada_w1_b", &[2, 8]),
        ("hada_w2_a", &[6, 2]),
        ("hada_w2_b", &[2, 8]),
    ]);
    let read = |end: &str| Matrix::read(file.tensors(), &format!("{LYCORIS}.{end}"));
    let first = read("hada_w1_a").product(&read("hada_w1_b"));
    let delta = first.combined(&read("hada_w2_a").product(&read("hada_w2_b")), |a, b| a * b);
    let expected = Matrix::read(&base, LYCORIS_BASE).plus(0.8 * 0.5, &delta);
    assert_close(&merged_one(&file, &base, 0.8), &expected.values, "LoHa");
}

#[test]
fn kronecker_products() {
    let whole: &[(&str, &[usize])] = &[("lokr_w1", &[2, 4]), ("lokr_w2", &[3, 2])];
    let parts: &[(&str, &[usize])] = &[
        ("lokr_w1", &[2, 4]),
        ("lokr_w2_a", &[3, 2]),
        ("lokr_w2_b", &[2, 2]),
    ];
    for (tensors, factor) in [(whole, 1.0), (parts, 0.5)] {
        let (file, base) = lycoris(tensors);
        let read = |end: &str| Matrix::read(file.tensors(), &format!("{LYCORIS}.{end}"));
        let left = read("lokr_w1");
        let right = if factor == 1.0 {
            read("lokr_w2")
        } else {
            read("lokr_w2_a").product(&read("lokr_w2_b"))
        };
        let mut delta = Matrix {
            columns: 8,
            values: vec![0.0; 48],
        };
        for (row, values) in delta.values.chunks_mut(8).enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                *value =
                    left.values[row / 3 * 4 + column / 2] * right.values[row % 3 * 2 + column % 2];
            }
        }
        let expected = Matrix::read(&base, LYCORIS_BASE).plus(-1.5 * factor, &delta);
        assert_close(&merged_one(&file, &base, -1.5), &expected.values, "LoKr");
    }
}

#[test]
fn lengths_of_rows_and_columns() {
    for (shape, of_rows) in [(&[6usize, 1] as &[usize], true), (&[1, 8], false)] {
        let (file, base) = lycoris(&[
            ("lora_down.weight", &[2, 8]),
            ("lora_up.weight", &[6, 2]),
            ("dora_scale", shape),
        ]);
        let read = |end: &str| Matrix::read(file.tensors(), &format!("{LYCORIS}.{end}"));
        let base_values = Matrix::read(&base, LYCORIS_BASE);
        let sum = base_values.plus(
            0.5,
            &read("lora_up.weight").product(&read("lora_down.weight")),
        );
        let lengths = read("dora_scale").values;
        let mut stretched = sum.clone();
        for (index, value) in stretched.values.iter_mut().enumerate() {
            let line = if of_rows { index / 8 } else { index % 8 };
            let of_line = |other: &usize| line == if of_rows { other / 8 } else { other % 8 };
            let squares = (0..48)
                .filter(of_line)
                .map(|other| sum.values[other].powi(2));
            *value *= lengths[line] / squares.sum::<f64>().sqrt();
        }
        assert_close(&merged_one(&file, &base, 1.0), &stretched.values, "DoRA");
        let delta = stretched.plus(-1.0, &base_values);
        let half = base_values.plus(0.5, &delta);
        assert_close(&merged_one(&file, &base, 0.5), &half.values, "half of DoRA");
        assert_close(
            &merged_one(&file, &base, 0.0),
            &base_values.values,
            "none of DoRA",
        );
    }
}

#[test]
fn fused_products_are_taken_apart() {
    let mut generator = TorchGenerator::new(13);
    let module = "lora_unet_single_blocks_0_linear1";
    let mut builder = Parameters::builder();
    // 3 · 32 rows of attention and 128 of the MLP are 224 = 7 · 32.
    for (end, shape) in [("lokr_w1", [7, 4]), ("lokr_w2", [32, 8])] {
        builder = builder.tensor(format!("{module}.{end}"), generator.randn(shape).unwrap());
    }
    let file = LoraFile::from_parameters(&builder.build().unwrap()).unwrap();
    assert!(matches!(file.targets()[0].update, Update::Kronecker { .. }));
    let found = merged(
        Component::Transformer,
        &[Adapter::new("a", file.clone(), 1.0)],
    );
    let base = pipeline_parameters(Component::Transformer);
    let left = Matrix::read(file.tensors(), &format!("{module}.lokr_w1"));
    let right = Matrix::read(file.tensors(), &format!("{module}.lokr_w2"));
    for (start, rows, name) in [(32, 32, "attn.to_k"), (96, 128, "proj_mlp")] {
        let name = format!("single_transformer_blocks.0.{name}.weight");
        let element = |index: usize| {
            let (row, column) = (start + index / 32, index % 32);
            left.values[row / 32 * 4 + column / 8] * right.values[row % 32 * 8 + column % 8]
        };
        let delta = Matrix {
            columns: 32,
            values: (0..rows * 32).map(element).collect(),
        };
        let expected = Matrix::read(&base, &name).plus(1.0, &delta);
        assert_close(&found[&name], &expected.values, &name);
    }
}
