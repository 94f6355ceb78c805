//! What `tintype compile` and `tintype inspect` are told: both look at models before they run.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use tintype::{ModelDefaults, Sizes};

use super::COMPONENTS;

/// All models of a pipeline, compiled into a folder. What is compiled holds kernels and no weights,
/// so LoRAs and other weights of the same shape need no other folder. The folder has a list,
/// pipeline.json, and a saved module for each model, which names the files of its weights.
#[derive(Debug, Args)]
pub(crate) struct Compile {
    /// A folder in diffusers' layout, `org/name[@revision]` on the hub, `shapes`, or `flux-dev` or
    /// `flux-schnell`, of which nothing need be there [default: shapes].
    #[arg(long, value_name = "DIR|HUB-ID|NAME")]
    pub(crate) model: Option<String>,
    /// What the models are compiled for. On the CPU there is nothing to compile; the folder then
    /// names the model, its sizes and its files.
    #[arg(long, default_value = "tensorrt", value_parser = ["cpu", "cuda", "tensorrt"])]
    pub(crate) backend: String,
    /// One model of the pipeline; may be given several times [default: all that `generate` needs
    /// without --image].
    #[arg(long, value_delimiter = ',', value_parser = COMPONENTS)]
    pub(crate) component: Vec<String>,
    /// Also the part that `generate --image` needs, vae_encoder.
    #[arg(long, conflicts_with = "component")]
    pub(crate) img2img: bool,
    /// Architectures that tensorrt builds for, separated by commas [default: those of the GPUs that are here].
    #[cfg(feature = "tensorrt")]
    #[arg(long, value_name = "SM,…", value_delimiter = ',', value_parser = target)]
    pub(crate) target: Vec<tintype_tensorrt::Target>,
    /// The dtype in which the model is computed.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16", "fp8"])]
    pub(crate) dtype: String,
    /// Scales for --dtype fp8, as `tintype quantize` writes them [default: scales.json of the
    /// model, or what its fp8 checkpoint brings; without any, all that was measured with the default
    /// recipe fits to what is compiled].
    #[arg(long, value_name = "FILE")]
    pub(crate) scales: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sizes: Ranges,
    /// Where it goes: a new or empty folder, or one that was compiled for the same dtype and sizes.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// No progress bars, no table, no warnings.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
#[command(group(
    ArgGroup::new("dry_sizes")
        .args(["height", "width", "max_sequence_length", "batch", "vae_tiling"])
        .multiple(true)
        .requires("dry_run")
))]
pub(crate) struct Inspect {
    /// A folder in diffusers' layout, `org/name[@revision]` on the hub, or `shapes`, the model
    /// inside the program (a folder of that name is `./shapes`) [default: shapes].
    #[arg(long, value_name = "DIR|HUB-ID")]
    pub(crate) model: Option<String>,
    /// Show one model of the pipeline.
    #[arg(long, value_parser = COMPONENTS)]
    pub(crate) component: Option<String>,
    /// Print a graph of the component in the text form: the whole, or the program of a stage.
    #[arg(long, requires = "component", value_parser = ["graph", "weight", "request", "step"])]
    pub(crate) program: Option<String>,
    /// The dtype in which the graphs are built; fp8 is that of the default recipe.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16", "fp8"])]
    pub(crate) dtype: String,
    /// Join q, k and v into one product, as GPU backends ask for.
    #[arg(long)]
    pub(crate) fuse_qkv: bool,
    /// Print the network that TensorRT is given for a program, a layer a line.
    #[cfg(feature = "tensorrt")]
    #[arg(long, requires = "program")]
    pub(crate) lowered: bool,
    /// Print which parameters make which weights of TensorRT's engines.
    #[cfg(feature = "tensorrt")]
    #[arg(long, requires = "component", conflicts_with_all = ["program", "plans"])]
    pub(crate) weights: bool,
    /// List a folder that `tintype compile` has filled; with --component and --program, the layers
    /// of its plans, which needs a GPU that can run them; with --dry-run, what is there counts as
    /// compiled.
    #[arg(long, value_name = "DIR")]
    #[cfg_attr(feature = "tensorrt", arg(conflicts_with = "lowered"))]
    pub(crate) plans: Option<PathBuf>,
    /// Tell what would be compiled, in which precision and for which sizes, which operations fall
    /// back, and the memory that is needed, without doing it. --model may also be flux-dev or
    /// flux-schnell, of which nothing need be there.
    #[arg(long, conflicts_with_all = ["program", "fuse_qkv"])]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) dry: DryRun,
}

/// What --dry-run is told.
#[derive(Debug, Args)]
pub(crate) struct DryRun {
    /// What would run the model [default: auto].
    #[arg(long, requires = "dry_run", value_parser = ["auto", "cpu", "cuda", "tensorrt"])]
    pub(crate) backend: Option<String>,
    /// Architectures that need not be here, separated by commas: which plans of tensorrt are there.
    #[cfg(feature = "tensorrt")]
    #[arg(long, requires = "dry_run", value_name = "SM,…", value_delimiter = ',', value_parser = target)]
    pub(crate) target: Vec<tintype_tensorrt::Target>,
    #[command(flatten)]
    pub(crate) sizes: Ranges,
    /// Where the weights of the files would wait for the next change of a LoRA.
    #[arg(long, requires = "dry_run", value_name = "WHERE", default_value = "auto",
        value_parser = ["auto", "device", "host", "disk"])]
    pub(crate) keep_weights: String,
    /// Print one line of JSON.
    #[arg(long, requires = "dry_run")]
    pub(crate) json: bool,
}

/// The sizes that models are compiled for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Ranges {
    /// Height in pixels, one or a range [default: the model's; FLUX's is 1024].
    #[arg(long, value_name = "PIXELS[..PIXELS]", value_parser = range)]
    height: Option<Range>,
    /// Width in pixels, one or a range [default: the model's; FLUX's is 1024].
    #[arg(long, value_name = "PIXELS[..PIXELS]", value_parser = range)]
    width: Option<Range>,
    /// Number of tokens that T5 sees, one or a range [default: the model's; FLUX's is 512].
    #[arg(long, value_name = "TOKENS[..TOKENS]", value_parser = range)]
    max_sequence_length: Option<Range>,
    /// Number of pictures made at once, one or a range [default: 1].
    #[arg(long, value_name = "COUNT[..COUNT]", value_parser = range)]
    batch: Option<Range>,
    /// Also for `generate --vae-tiling`.
    #[arg(long)]
    vae_tiling: bool,
}

impl Ranges {
    /// The model's own where nothing was said.
    pub(crate) fn sizes(&self, defaults: &ModelDefaults) -> anyhow::Result<Sizes> {
        let range = |given: Option<Range>, default: usize| {
            given.map_or(default..=default, |range| range.min..=range.max)
        };
        let sizes = Sizes {
            pictures: range(self.batch, 1),
            prompts: 1..=1,
            heights: range(self.height, defaults.height),
            widths: range(self.width, defaults.width),
            text_tokens: range(self.max_sequence_length, defaults.max_sequence_length),
            tiles: self.vae_tiling,
        };
        Ok(sizes.checked()?)
    }
}

/// One size, or several.
#[derive(Debug, Clone, Copy)]
struct Range {
    min: usize,
    max: usize,
}

/// `MIN..MAX`, both included, or one size.
fn range(text: &str) -> Result<Range, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| {
        text.parse::<usize>()
            .map_err(|_| format!("expected a size as 1024 or a range as 512..1024, found `{text}`"))
    };
    let range = Range {
        min: number(min)?,
        max: number(max)?,
    };
    if range.min > range.max {
        return Err(format!("expected the smaller size first, found {text}"));
    }
    Ok(range)
}

#[cfg(feature = "tensorrt")]
fn target(text: &str) -> Result<tintype_tensorrt::Target, String> {
    text.trim()
        .parse()
        .map_err(|error: tintype_tensorrt::Error| error.to_string())
}
