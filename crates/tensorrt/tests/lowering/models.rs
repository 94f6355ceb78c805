//! Whole models as engines: small ones of every kind, and by request FLUX.1-dev.

use libtest_mimic::{Failed, Trial};
use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, StagedGraph};
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, EncoderOptions,
    FluxTransformerConfig, FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};
use tintype_tensor::DType;
use tintype_tensorrt::lower::{LowerOptions, PlacedWeight};

use super::library::build;

type Models = fn(DType) -> Result<Graph, Failed>;

const MODELS: [(&str, Models); 5] = [
    ("CLIP", clip),
    ("T5", t5),
    ("FLUX", flux),
    ("the decoder", decoder),
    ("the encoder", encoder),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, graph) in MODELS {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let run = move || build_programs(&graph(dtype)?);
            trials.push(Trial::test(
                format!("engines of {name} as a small model in {dtype}"),
                run,
            ));
        }
    }
    let whole = || build_programs(&whole_flux()?);
    trials.push(Trial::test("engines of FLUX.1-dev, whole", whole).with_ignored_flag(true));
    trials
}

/// Builds the programs that have outputs, and checks what lowering says of them.
fn build_programs(graph: &Graph) -> Result<(), Failed> {
    let graph = optimize(graph, &Options::default(), None)?;
    let staged = StagedGraph::split(&graph)?;
    for program in [&staged.request, &staged.step] {
        if program.outputs().is_empty() {
            continue;
        }
        let (lowered, size) = build(program, &LowerOptions::default())?;
        assert!(size > 0);
        // Placeholders are the weights that are used, by their names.
        let placed: Vec<_> = lowered
            .placeholders()
            .map(|weight| weight.name.as_str())
            .collect();
        for name in &placed {
            let parameter = program
                .parameter(name)
                .ok_or_else(|| format!("{name} is no weight"))?;
            let shape = parameter.ty.static_shape().ok_or("no static shape")?;
            let weight = lowered.weights.iter().find(|weight| weight.name == *name);
            assert_eq!(weight.map(PlacedWeight::count), Some(shape.element_count()));
        }
        assert_eq!(placed.len(), program.parameters().len());
    }
    Ok(())
}

fn clip(dtype: DType) -> Result<Graph, Failed> {
    let config = ClipTextConfig {
        vocab_size: 100,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        ..ClipTextConfig::from_json("config.json", "{}")?
    };
    Ok(config.graph(&ClipTextOptions {
        dtype,
        ..ClipTextOptions::default()
    })?)
}

fn t5(dtype: DType) -> Result<Graph, Failed> {
    let text = r#"{"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2,
        "vocab_size": 100, "feed_forward_proj": "gated-gelu"}"#;
    let config = T5EncoderConfig::from_json("config.json", text)?;
    Ok(config.graph(&T5EncoderOptions {
        dtype,
        ..T5EncoderOptions::default()
    })?)
}

fn flux(dtype: DType) -> Result<Graph, Failed> {
    let config = FluxTransformerConfig {
        num_layers: 1,
        num_single_layers: 2,
        num_attention_heads: 2,
        attention_head_dim: 16,
        joint_attention_dim: 32,
        pooled_projection_dim: 16,
        in_channels: 16,
        axes_dims_rope: vec![4, 6, 6],
        ..FluxTransformerConfig::dev()
    };
    Ok(config.graph(&FluxTransformerOptions {
        dtype,
        ..FluxTransformerOptions::default()
    })?)
}

fn autoencoder() -> AutoencoderKlConfig {
    AutoencoderKlConfig {
        block_out_channels: vec![16, 32],
        norm_num_groups: 4,
        ..AutoencoderKlConfig::flux()
    }
}

fn decoder(dtype: DType) -> Result<Graph, Failed> {
    Ok(autoencoder().decoder(&DecoderOptions {
        dtype,
        ..DecoderOptions::default()
    })?)
}

fn encoder(dtype: DType) -> Result<Graph, Failed> {
    Ok(autoencoder().encoder(&EncoderOptions {
        dtype,
        ..EncoderOptions::default()
    })?)
}

fn whole_flux() -> Result<Graph, Failed> {
    let options = FluxTransformerOptions {
        dtype: DType::BF16,
        batch: 1..=1,
        steps: 1..=64,
        image_tokens: 4096..=4096,
        text_tokens: 512..=512,
        ..FluxTransformerOptions::default()
    };
    Ok(FluxTransformerConfig::dev().graph(&options)?)
}
