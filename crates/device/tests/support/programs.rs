//! Weight programs as a backend runs them: a small FLUX transformer with joined projections and
//! every kind of update. Shared by the tests, which need no device, and by `check_device`.

use std::sync::Arc;

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, StagedGraph};
use tintype_lora::{Adapter, Component, LoraFile, overlays};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_weights::Parameters;

/// A weight program and what it reads.
pub(crate) struct Program {
    /// The program.
    pub(crate) graph: Arc<Graph>,
    /// All parameters, those of updates included.
    pub(crate) parameters: Parameters,
}

type Error = Box<dyn std::error::Error>;

/// Widths of a FLUX transformer with two blocks of each kind.
pub(crate) fn config() -> FluxTransformerConfig {
    FluxTransformerConfig {
        num_layers: 2,
        num_single_layers: 2,
        attention_head_dim: 16,
        num_attention_heads: 4,
        joint_attention_dim: 48,
        pooled_projection_dim: 24,
        axes_dims_rope: vec![4, 6, 6],
        ..FluxTransformerConfig::dev()
    }
}

/// The weight program of `config` in `dtype`, with the updates of `adapters`. Parameters are
/// random and stored as bf16.
pub(crate) fn transformer(
    config: &FluxTransformerConfig,
    dtype: DType,
    adapters: &[Adapter],
    generator: &mut TorchGenerator,
) -> Result<Program, Error> {
    let options = FluxTransformerOptions {
        dtype,
        ..FluxTransformerOptions::default()
    };
    let graph = config.graph(&options)?;
    let graph = optimize(&graph, &Options::default().with_fuse_qkv(true), None)?;
    let staged = StagedGraph::split(&graph)?;
    let bound = overlays(Component::Transformer, &staged.weight, adapters)?;
    let mut builder = Parameters::builder();
    for parameter in staged.weight.parameters() {
        let shape = parameter.ty.static_shape().ok_or("a static type")?;
        let tensor = generator.randn(shape)?.to_dtype(DType::BF16)?;
        builder = builder.tensor(&parameter.name, tensor);
    }
    Ok(Program {
        graph: Arc::new(staged.weight_with(&bound.overlays)?),
        parameters: builder.parameters(&bound.parameters).build()?,
    })
}

/// Two adapters that overlap: plain low rank, Hadamard, Kronecker (whole and factored), stretched
/// rows and columns, and joined products of the original layout that are taken apart.
pub(crate) fn adapters(
    config: &FluxTransformerConfig,
    generator: &mut TorchGenerator,
) -> Result<Vec<Adapter>, Error> {
    let width = config.attention_head_dim * config.num_attention_heads;
    let joined = 7 * width;
    let first: Tensors = vec![
        (
            "double_blocks_0_img_attn_qkv",
            low_rank(3 * width, width, 4),
        ),
        ("double_blocks_0_img_mlp_0", low_rank(4 * width, width, 4)),
        ("double_blocks_1_img_mod_lin", low_rank(6 * width, width, 2)),
        ("single_blocks_0_linear2", low_rank(width, 5 * width, 3)),
        (
            "double_blocks_0_txt_mlp_2",
            vec![
                ("hada_w1_a", vec![width, 2]),
                ("hada_w1_b", vec![2, 4 * width]),
                ("hada_w2_a", vec![width, 2]),
                ("hada_w2_b", vec![2, 4 * width]),
            ],
        ),
        (
            "single_blocks_1_linear1",
            vec![
                ("lokr_w1", vec![7, 4]),
                ("lokr_w2", vec![joined / 7, width / 4]),
            ],
        ),
    ];
    let mut stretched = low_rank(4 * width, width, 2);
    stretched.push(("dora_scale", vec![4 * width, 1]));
    let mut columns = low_rank(width, width, 2);
    columns.push(("dora_scale", vec![1, width]));
    let second: Tensors = vec![
        (
            "double_blocks_0_img_attn_qkv",
            low_rank(3 * width, width, 5),
        ),
        ("double_blocks_1_txt_mlp_0", stretched),
        ("double_blocks_1_img_attn_proj", columns),
        (
            "double_blocks_1_txt_mlp_2",
            vec![
                ("lokr_w1", vec![2, 4]),
                ("lokr_w2_a", vec![width / 2, 2]),
                ("lokr_w2_b", vec![2, width]),
            ],
        ),
    ];
    let mut result = Vec::new();
    for (name, tensors, scale) in [("first", first, 0.75), ("second", second, -0.5)] {
        let file = LoraFile::from_parameters(&random(&tensors, generator)?)?;
        result.push(Adapter::new(name, file, scale));
    }
    Ok(result)
}

/// Names of modules with the ends and shapes of their tensors.
type Tensors = Vec<(&'static str, Vec<(&'static str, Vec<usize>)>)>;

fn low_rank(rows: usize, columns: usize, rank: usize) -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("lora_down.weight", vec![rank, columns]),
        ("lora_up.weight", vec![rows, rank]),
    ]
}

fn random(tensors: &Tensors, generator: &mut TorchGenerator) -> Result<Parameters, Error> {
    let mut builder = Parameters::builder();
    for (module, parts) in tensors {
        for (end, shape) in parts {
            let tensor: Tensor = generator.randn(shape.clone())?;
            builder = builder.tensor(format!("lora_unet_{module}.{end}"), tensor);
        }
    }
    Ok(builder.build()?)
}
