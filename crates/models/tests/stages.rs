//! What the split by stage makes of the graphs, in every dtype.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use tintype_ir::{Dim, Graph, GraphBuilder, Op, Stage, StagedGraph, TensorType, parse, verify};
use tintype_models::flux::{Conditioning, single_block};
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, EncoderOptions,
    FluxTransformerConfig, FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};
use tintype_tensor::DType;

fn tiny_flux() -> FluxTransformerConfig {
    FluxTransformerConfig {
        in_channels: 8,
        out_channels: 8,
        num_layers: 1,
        num_single_layers: 1,
        attention_head_dim: 16,
        num_attention_heads: 2,
        joint_attention_dim: 24,
        pooled_projection_dim: 12,
        axes_dims_rope: vec![4, 6, 6],
        ..FluxTransformerConfig::dev()
    }
}

fn flux(dtype: DType) -> Graph {
    let options = FluxTransformerOptions {
        dtype,
        ..FluxTransformerOptions::default()
    };
    tiny_flux().graph(&options).unwrap()
}

fn labels(graph: &Graph) -> Vec<&str> {
    let labels = graph.nodes().iter();
    labels.filter_map(|node| node.label.as_deref()).collect()
}

#[test]
fn all_graphs_verify_print_and_parse_in_every_dtype() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let clip = ClipTextOptions {
            dtype,
            ..ClipTextOptions::default()
        };
        let t5 = T5EncoderOptions {
            dtype,
            ..T5EncoderOptions::default()
        };
        let decoder = DecoderOptions {
            dtype,
            ..DecoderOptions::default()
        };
        let encoder = EncoderOptions {
            dtype,
            ..EncoderOptions::default()
        };
        let autoencoder = AutoencoderKlConfig::flux();
        let graphs = [
            flux(dtype),
            ClipTextConfig::large().graph(&clip).unwrap(),
            T5EncoderConfig::xxl().graph(&t5).unwrap(),
            autoencoder.decoder(&decoder).unwrap(),
            autoencoder.encoder(&encoder).unwrap(),
        ];
        for graph in &graphs {
            verify(graph).unwrap();
            assert_eq!(&parse(&graph.to_string()).unwrap(), graph);
            let staged = StagedGraph::split(graph).unwrap();
            for stage in [Stage::Request, Stage::Step] {
                let program = staged.program(stage);
                assert!(program.outputs().is_empty() || verify(program).is_ok());
            }
            let unlabelled = graph.nodes().iter().find(|node| node.label.is_none());
            assert_eq!(unlabelled, None, "{}", graph.name());
        }
    }
}

#[test]
fn sizes_given_as_one_number_are_built_in() {
    let options = FluxTransformerOptions {
        dtype: DType::BF16,
        batch: 1..=1,
        steps: 4..=4,
        image_tokens: 16..=16,
        text_tokens: 8..=8,
        ..FluxTransformerOptions::default()
    };
    let graph = tiny_flux().graph(&options).unwrap();
    assert!(graph.symbols().is_empty());
    let ty = &graph.inputs().last().unwrap().ty;
    assert_eq!(ty.to_string(), "bf16[1, 16, 8]");
}

#[test]
fn modulation_rotary_table_and_text_leave_the_step() {
    let staged = StagedGraph::split(&flux(DType::BF16)).unwrap();
    let step = labels(&staged.step);
    for label in ["context_embedder", "pos_embed", "time_text_embed"] {
        assert!(!step.contains(&label), "{label}");
    }
    let linears = |graph: &Graph| {
        let nodes = graph.nodes().iter();
        nodes.filter(|node| node.op == Op::Linear).count()
    };
    // Three embedders of two layers, the text projection, and four modulations.
    assert_eq!(linears(&staged.request), 6 + 1 + 4);
    // x_embedder and proj_out; 2·(3 + 1 + 2) of the double, 3 + 1 + 1 of the single block.
    assert_eq!(linears(&staged.step), 2 + 12 + 5);
    // Weights are read as they are: nothing but constants is computed from them.
    let computed = staged.weight.nodes().iter();
    let computed: Vec<_> = computed
        .filter(|node| !matches!(node.op, Op::Constant(_)))
        .collect();
    assert!(computed.is_empty(), "{computed:?}");
}

#[test]
fn the_step_reads_one_row_of_each_modulation() {
    let staged = StagedGraph::split(&flux(DType::BF16)).unwrap();
    let nodes = staged.step.nodes().iter();
    let gathers = nodes.filter(|node| matches!(node.op, Op::Gather { .. }));
    let shown: Vec<_> = gathers
        .map(|node| format!("{} {}", node.ty, node.label.as_deref().unwrap_or_default()))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r"
    bf16[batch, 192] transformer_blocks.0.norm1.linear
    bf16[batch, 192] transformer_blocks.0.norm1_context.linear
    bf16[batch, 96] single_transformer_blocks.0.norm.linear
    bf16[batch, 64] norm_out.linear
    ");
}

/// The table, the four modulations, the text stream and its first norm.
#[test]
fn the_request_hands_on_what_the_step_reads() {
    let staged = StagedGraph::split(&flux(DType::BF16)).unwrap();
    let inputs = staged.step.inputs().iter();
    let mut handed: Vec<_> = inputs
        .filter(|input| input.stage == Stage::Request)
        .map(|input| input.ty.to_string())
        .collect();
    handed.sort();
    insta::assert_snapshot!(handed.join("\n"), @r"
    bf16[batch, text_tokens, 32]
    bf16[batch, text_tokens, 32]
    bf16[steps, batch, 192]
    bf16[steps, batch, 192]
    bf16[steps, batch, 64]
    bf16[steps, batch, 96]
    f32[image_tokens + text_tokens, 8, 2]
    ");
}

#[test]
fn a_single_block_reads_well() {
    let mut b = GraphBuilder::new("single_block");
    let [batch, tokens] = [b.symbol("batch", 1..=2), b.symbol("tokens", 1..=64)];
    let ty = |dims: &[Dim]| TensorType::new(DType::BF16, dims.iter().cloned());
    let config = tiny_flux();
    let width = Dim::from(config.inner_dim());
    let hidden_states = b.input(
        "x",
        Stage::Step,
        ty(&[batch.clone(), tokens.clone(), width.clone()]),
    );
    let index = b.input(
        "step_index",
        Stage::Step,
        TensorType::new(DType::I64, [0usize; 0]),
    );
    let temb_type = ty(&[Dim::from(4), batch, width]).with_dtype(DType::F32);
    let temb = b.input("temb", Stage::Request, temb_type);
    let table = TensorType::new(DType::F32, [tokens, Dim::from(8), Dim::from(2)]);
    let table = b.input("table", Stage::Request, table);
    let conditioning = Conditioning::new(&mut b, temb, index, table, DType::BF16);
    let output = single_block(&mut b, &config, 0, hidden_states, &conditioning);
    b.output("y", output);
    insta::assert_snapshot!(b.finish().unwrap());
}

#[test]
fn weights_bear_the_names_of_their_parameters() {
    let graph = flux(DType::F32);
    let staged = StagedGraph::split(&graph).unwrap();
    for program in [&staged.request, &staged.step] {
        for weight in program.parameters() {
            let constant = staged.weight.outputs().iter().any(|output| {
                output.name == weight.name && staged.weight.node_of(output.value).is_some()
            });
            assert!(
                constant || graph.parameter(&weight.name).is_some(),
                "{}",
                weight.name
            );
        }
    }
}

#[test]
fn f16_is_clamped_where_the_reference_clamps() {
    let clamps = |dtype| {
        let graph = flux(dtype);
        let nodes = graph.nodes().iter();
        nodes
            .filter(|node| matches!(node.op, Op::Clamp { .. }))
            .filter_map(|node| node.label.as_deref().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        clamps(DType::F16),
        ["transformer_blocks.0", "single_transformer_blocks.0"]
    );
    assert!(clamps(DType::BF16).is_empty());
}

#[test]
fn t5_keeps_its_stream_and_in_f16_the_last_projection_in_f32() {
    for (dtype, expected) in [(DType::F16, DType::F32), (DType::BF16, DType::BF16)] {
        let options = T5EncoderOptions {
            dtype,
            ..T5EncoderOptions::default()
        };
        let graph = T5EncoderConfig::xxl().graph(&options).unwrap();
        let wo = "encoder.block.3.layer.1.DenseReluDense.wo.weight";
        assert_eq!(graph.parameter(wo).unwrap().ty.dtype, expected);
        let output = &graph.outputs()[0];
        assert_eq!(graph.type_of(output.value).dtype, dtype);
    }
}

#[test]
fn unusual_autoencoders_build() {
    let config = AutoencoderKlConfig {
        block_out_channels: vec![8],
        norm_num_groups: 4,
        use_quant_conv: true,
        use_post_quant_conv: true,
        mid_block_add_attention: false,
        ..AutoencoderKlConfig::flux()
    };
    let decoder = config.decoder(&DecoderOptions::default()).unwrap();
    assert!(decoder.parameter("post_quant_conv.weight").is_some());
    assert!(
        !labels(&decoder)
            .iter()
            .any(|label| label.contains("attentions"))
    );
    let encoder = config.encoder(&EncoderOptions::default()).unwrap();
    assert!(encoder.parameter("quant_conv.bias").is_some());
    let mean = encoder.type_of(encoder.outputs()[0].value);
    assert_eq!(
        mean.to_string(),
        "f32[batch, 16, latent_height, latent_width]"
    );
}

#[test]
fn what_cannot_be_built_is_refused() {
    let message = |result: Result<Graph, tintype_models::Error>| result.unwrap_err().to_string();
    let options = FluxTransformerOptions {
        dtype: DType::I64,
        ..FluxTransformerOptions::default()
    };
    assert!(message(tiny_flux().graph(&options)).contains("expected dtype f32, bf16 or f16"));
    let options = FluxTransformerOptions {
        batch: 0..=4,
        ..FluxTransformerOptions::default()
    };
    assert!(message(tiny_flux().graph(&options)).contains("range of `batch`"));
    #[allow(
        clippy::reversed_empty_ranges,
        reason = "an empty range is what is tested"
    )]
    let options = FluxTransformerOptions {
        steps: 4..=3,
        ..FluxTransformerOptions::default()
    };
    assert!(message(tiny_flux().graph(&options)).contains("range of `steps`"));
    let options = ClipTextOptions {
        tokens: 1..=78,
        ..ClipTextOptions::default()
    };
    assert!(message(ClipTextConfig::large().graph(&options)).contains("max_position_embeddings"));
    let config = FluxTransformerConfig {
        attention_head_dim: 0,
        ..tiny_flux()
    };
    assert!(message(config.graph(&FluxTransformerOptions::default())).contains("heads"));
}

#[test]
fn the_euler_step_is_of_the_step_program() {
    let options = FluxTransformerOptions {
        dtype: DType::BF16,
        euler_step: true,
        ..FluxTransformerOptions::default()
    };
    let graph = tiny_flux().graph(&options).unwrap();
    let staged = StagedGraph::split(&graph).unwrap();
    let outputs: Vec<_> = staged.step.outputs().iter().map(|o| &*o.name).collect();
    assert_eq!(outputs, ["sample", "latents"]);
    let latents = &staged.step.outputs()[1];
    let hidden_states = graph.inputs().iter().find(|i| i.name == "hidden_states");
    assert_eq!(
        staged.step.type_of(latents.value),
        &hidden_states.unwrap().ty
    );
    let lengths = graph
        .inputs()
        .iter()
        .find(|i| i.name == "step_lengths")
        .unwrap();
    assert_eq!(
        (lengths.stage, lengths.ty.to_string().as_str()),
        (Stage::Request, "bf16[steps]")
    );
    // Nothing else is other than without it.
    assert_eq!(
        staged.request.nodes().len(),
        StagedGraph::split(&flux(DType::BF16))
            .unwrap()
            .request
            .nodes()
            .len()
    );
    let fill = FluxTransformerConfig {
        in_channels: 12,
        ..tiny_flux()
    };
    assert!(fill.graph(&options).is_err());
}
