//! What the command line says. The help texts here are the reference.
#![allow(clippy::doc_markdown, reason = "these texts are read on a terminal")]

mod ahead;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tintype::Request;

pub(crate) use ahead::{Compile, Inspect};

/// Pictures from prompts: diffusion models compiled, in Rust.
#[derive(Debug, Parser)]
#[command(name = "tintype", version, about, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make pictures of a prompt.
    Generate(Box<Generate>),
    /// Make pictures one after the other, changing prompt, LoRAs, scales and settings in between.
    Repl(Box<Repl>),
    /// Compile ahead of time: no weights are read, and no GPU is needed where the library can.
    Compile(Compile),
    /// Show what a model consists of: weights, graphs, stages.
    Inspect(Box<Inspect>),
    /// Time the steps of a model.
    Bench(Bench),
    /// Measure the scales with which a model computes in fp8, and what that costs.
    Quantize(Box<Quantize>),
    /// List backends, libraries and devices, and why one is not available.
    Doctor,
}

impl Command {
    pub(crate) fn is_quiet(&self) -> bool {
        match self {
            Self::Generate(generate) => generate.quiet,
            Self::Repl(repl) => repl.quiet,
            Self::Compile(compile) => compile.quiet,
            Self::Quantize(quantize) => quantize.quiet,
            _ => false,
        }
    }
}

/// Which model, on what.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArguments {
    /// A folder in diffusers' layout, `org/name[@revision]` on the hub, or `shapes`, the model
    /// inside the program (a folder of that name is `./shapes`) [default: shapes].
    #[arg(long, value_name = "DIR|HUB-ID")]
    pub(crate) model: Option<String>,
    /// The transformer's weights, from another file: diffusers' layout or flux1-dev.safetensors.
    #[arg(long, value_name = "FILE")]
    pub(crate) transformer: Option<PathBuf>,
    /// The autoencoder's weights, from another file: diffusers' layout or ae.safetensors.
    #[arg(long, value_name = "FILE")]
    pub(crate) vae: Option<PathBuf>,
    /// What runs the model.
    #[arg(long, default_value = "auto", value_parser = ["auto", "cpu", "cuda", "tensorrt"])]
    pub(crate) backend: String,
    /// The dtype in which the model is computed.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16", "fp8"])]
    pub(crate) dtype: String,
    /// Scales for --dtype fp8, as `tintype quantize` writes them [default: scales.json of the
    /// model; without any, those that an fp8 checkpoint brings].
    #[arg(long, value_name = "FILE")]
    pub(crate) scales: Option<PathBuf>,
    /// A folder that `tintype compile` has filled: models are compiled for its sizes, with what is
    /// there, and without --model the model is the one that it was compiled for [default: for the
    /// backend tensorrt the one that TINTYPE_PLANS names; without any, plans are built for the size
    /// of the picture and kept in the user's cache].
    #[arg(long, value_name = "DIR")]
    pub(crate) plans: Option<PathBuf>,
    /// Let each model go before the next one loads.
    #[arg(long)]
    pub(crate) low_memory: bool,
    /// Where the weights of the files wait for the next change of a LoRA, which is merged into
    /// them: in device memory (fastest), in host memory, or in the files alone; auto takes the
    /// device where they fit. The CPU always reads the mapped files.
    #[arg(long, value_name = "WHERE", default_value = "auto",
        value_parser = ["auto", "device", "host", "disk"])]
    pub(crate) keep_weights: String,
    /// A LoRA and its scale (default 1): a file, or one of the model's own by its name, see
    /// `tintype inspect`; may be given several times.
    #[arg(long, value_name = "FILE|NAME[=SCALE]", value_parser = lora)]
    pub(crate) lora: Vec<Lora>,
}

/// How large a picture is, and how long its prompt.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Size {
    /// Height in pixels, floored to a multiple of 16 [default: the model's; FLUX's is 1024].
    #[arg(long, value_name = "PIXELS")]
    pub(crate) height: Option<usize>,
    /// Width in pixels, floored to a multiple of 16 [default: the model's; FLUX's is 1024].
    #[arg(long, value_name = "PIXELS")]
    pub(crate) width: Option<usize>,
    /// Number of tokens that T5 sees, at most 512 [default: the model's; FLUX's is 512].
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_sequence_length: Option<usize>,
}

impl Size {
    /// Asks for it; what is not given stays as it is in the request.
    pub(crate) fn of(self, mut request: Request) -> Request {
        request.height = self.height;
        request.width = self.width;
        request.max_sequence_length = self.max_sequence_length;
        request
    }
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// What the picture shall show.
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// Another prompt for T5 [default: the prompt].
    #[arg(long, value_name = "PROMPT")]
    pub(crate) prompt_2: Option<String>,
    /// What the picture shall not show; takes effect with --true-cfg-scale above 1.
    #[arg(long, value_name = "PROMPT")]
    pub(crate) negative_prompt: Option<String>,
    /// Another negative prompt for T5 [default: the negative prompt].
    #[arg(long, value_name = "PROMPT", requires = "negative_prompt")]
    pub(crate) negative_prompt_2: Option<String>,
    /// Strength of true classifier-free guidance [default: 1, which is off].
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    pub(crate) true_cfg_scale: Option<f32>,
    #[command(flatten)]
    pub(crate) size: Size,
    /// Number of steps [default: the model's; FLUX's is 28].
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Noise levels before shifting, separated by commas, in place of evenly spaced ones.
    #[arg(long, value_name = "S,…", value_delimiter = ',')]
    pub(crate) sigmas: Option<Vec<f64>>,
    /// Guidance that the model was distilled with [default: the model's; FLUX's is 3.5, and 7 with
    /// --image].
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    pub(crate) guidance: Option<f32>,
    /// Seed of the noise, 64 bits [default: random].
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Number of pictures [default: 1].
    #[arg(long, value_name = "COUNT")]
    pub(crate) num_images: Option<usize>,
    /// A picture (PNG) to begin from.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// How far to leave --image, from 0 to 1.
    #[arg(long, default_value_t = 0.6, requires = "image")]
    pub(crate) strength: f64,
    /// Decode by overlapping tiles: less memory for large pictures.
    #[arg(long)]
    pub(crate) vae_tiling: bool,
    /// Where the picture goes; several get -1, -2, … before the extension.
    #[arg(long, short, value_name = "FILE", default_value = "out.png")]
    pub(crate) output: PathBuf,
    /// Also write latents, images, prompt_embeds and pooled, all f32.
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) save_tensors: Option<PathBuf>,
    /// No progress bars, no paths, no warnings.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Print one line of JSON with timings.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads lines, from a terminal or a pipe. A line is a prompt, which is drawn, or a command, which
/// begins with a slash: `/help` lists them. An empty line draws the prompt before again. Pictures
/// are numbered. After an error the session goes on; where the lines come from a pipe, the exit
/// status is 1 in the end.
#[derive(Debug, Args)]
pub(crate) struct Repl {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    #[command(flatten)]
    pub(crate) size: Size,
    /// Number of steps [default: the model's; FLUX's is 28].
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Guidance that the model was distilled with [default: the model's; FLUX's is 3.5].
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    pub(crate) guidance: Option<f32>,
    /// Seed of the noise, 64 bits [default: random, another for each picture].
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where pictures go: out.png means out-0001.png, out-0002.png, …; none is overwritten.
    #[arg(long, short, value_name = "FILE", default_value = "out.png")]
    pub(crate) output: PathBuf,
    /// No progress bars, no warnings.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// The names of the models of a pipeline.
const COMPONENTS: [&str; 5] = [
    "text_encoder",
    "text_encoder_2",
    "transformer",
    "vae_decoder",
    "vae_encoder",
];

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    #[command(flatten)]
    pub(crate) size: Size,
    /// Steps of each run; all steps take the same time, so few will do.
    #[arg(long, default_value_t = 4)]
    pub(crate) steps: usize,
    /// Runs that are counted, after one that is not.
    #[arg(long, default_value_t = 3)]
    pub(crate) runs: usize,
    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a model is quantized. The scales are for --dtype fp8; they are measured in the dtype that
/// --dtype names here.
#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct Quantize {
    #[command(flatten)]
    pub(crate) model: ModelArguments,
    /// Prompts, one a line; empty lines and those that begin with `#` are left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,
    /// Steps for each prompt [default: the model's; FLUX's is 28].
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    #[command(flatten)]
    pub(crate) size: Size,
    /// Seed of the first prompt's noise; each further one's is one more.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Which layers are quantized, and how, as JSON [default: all linears of blocks, one scale for
    /// each weight and each input, and weights alone for the modulations].
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// Measure for attention too.
    #[arg(long)]
    pub(crate) attention: bool,
    /// What a scale follows from: the greatest magnitude, the one that a part of all in percent
    /// does not exceed, or the one with the least squared error.
    #[arg(long, default_value = "max", value_name = "max|mse|PERCENT", value_parser = method)]
    pub(crate) method: tintype::quant::Method,
    /// Compare with the model as it is, on prompts that are held out: every fifth, or those of
    /// --held-out.
    #[arg(long)]
    pub(crate) report: bool,
    /// Prompts to compare on.
    #[arg(long, value_name = "FILE")]
    pub(crate) held_out: Option<PathBuf>,
    /// Layers that the report shows, the most sensitive first.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    pub(crate) layers: usize,
    /// Keep the most sensitive layers as they are, until no step's result is further from that of
    /// the model as it is than this, as a relative error.
    #[arg(long, value_name = "BOUND")]
    pub(crate) auto: Option<f64>,
    /// Write the pictures that the report compares, plain-1.png, fp8-1.png and so on.
    #[arg(long, value_name = "DIR", requires = "report")]
    pub(crate) pictures: Option<PathBuf>,
    /// Where the scales go.
    #[arg(long, short, value_name = "FILE", default_value = "scales.json")]
    pub(crate) output: PathBuf,
    /// No progress bars, no report on the terminal, no warnings.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Print one line of JSON with the report.
    #[arg(long)]
    pub(crate) json: bool,
}

fn method(text: &str) -> Result<tintype::quant::Method, String> {
    use tintype::quant::Method;
    match text {
        "max" => Ok(Method::Max),
        "mse" => Ok(Method::MeanSquaredError),
        _ => match text.parse::<f64>() {
            Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Method::Percentile(percent)),
            _ => Err(format!(
                "expected max, mse or a number above 0 and at most 100, found `{text}`"
            )),
        },
    }
}

/// A LoRA file with its scale.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lora {
    pub(crate) file: PathBuf,
    pub(crate) scale: f32,
}

/// `FILE` or `FILE=SCALE`; a `=` that no number follows belongs to the name.
pub(crate) fn lora(text: &str) -> Result<Lora, String> {
    if let Some((file, scale)) = text.rsplit_once('=')
        && let Ok(scale) = scale.parse::<f32>()
    {
        if !scale.is_finite() {
            return Err(format!("expected a finite scale, found {scale}"));
        }
        return Ok(Lora {
            file: PathBuf::from(file),
            scale,
        });
    }
    Ok(Lora {
        file: PathBuf::from(text),
        scale: 1.0,
    })
}
