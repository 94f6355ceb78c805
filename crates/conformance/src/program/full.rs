//! The transformer of FLUX.1-dev at its full size, through the traits of backends: how fast it
//! steps, where the time goes, how exact it is, and how fast weights change.
//!
//! Weights and inputs are random numbers that peers compute for themselves (`random`), so that no
//! file is needed. `--small` runs the same code on a transformer of two heads, in seconds on a CPU:
//! it shows that the program works, and measures nothing.
//!
//! | section | says |
//! |---|---|
//! | `steps` | milliseconds a step, with what is computed once per request |
//! | `profile` | where they go, beside what the device could do |
//! | `bandwidth` | kernels of our own against a copy |
//! | `fidelity` | writes what the peer compares with its f32 |
//! | `swap` | from one LoRA to another and back |
//! | `pictures` | whole pictures of a pipeline in a folder |

mod bandwidth;
mod fidelity;
mod loaded;
mod pictures;
mod precision;
mod profile;
mod random;
mod size;
mod steps;
mod swap;

use std::path::PathBuf;

use tintype_backend::KeepWeights;

use self::precision::Precision;

pub(super) use bandwidth::run as bandwidth;
pub(super) use fidelity::run as fidelity;
pub(super) use pictures::run as pictures;
pub(super) use profile::run as profile;
pub(super) use steps::run as steps;
pub(super) use swap::run as swap;

/// What is run of the whole model.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sections with the whole of FLUX.1-dev")]
pub(crate) struct Options {
    /// A transformer of two heads instead, to try the program
    #[arg(long)]
    pub(crate) small: bool,
    /// Weights and activations: f32, bf16, f16; fp8 for linears of blocks in 8 bits beside bf16,
    /// fp8-attention for attention too
    #[arg(long, value_name = "DTYPE", default_value = "bf16")]
    pub(crate) dtype: Precision,
    /// Pictures at once
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) batch: usize,
    /// Steps of a picture
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub(crate) steps: usize,
    /// How often a picture's steps are timed
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub(crate) runs: usize,
    /// Fewer blocks: so many double ones, so many single ones
    #[arg(long, value_name = "DOUBLE,SINGLE", value_parser = pair)]
    pub(crate) layers: Option<(usize, usize)>,
    /// Where parameters wait for the next LoRA, for the section swap
    #[arg(long, value_name = "WHERE", value_delimiter = ',', default_values = ["device", "host", "disk"])]
    pub(crate) keep: Vec<KeepWeights>,
    /// The rank of LoRAs
    #[arg(long, value_name = "RANK", default_value_t = 16)]
    pub(crate) rank: usize,
    /// How often LoRAs are exchanged
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub(crate) swaps: usize,
    /// Inputs to compare, for the section fidelity
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub(crate) seeds: usize,
    /// Where the section fidelity writes what the backend computed
    #[arg(long, value_name = "FILE")]
    pub(crate) tensors: Option<PathBuf>,
    /// A pipeline in diffusers' layout: weights are read from it, not computed
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
}

/// The middle one.
pub(super) fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Two numbers with a comma between them.
fn pair(text: &str) -> std::result::Result<(usize, usize), String> {
    let numbers = text.split_once(',');
    let numbers = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.ok_or_else(|| format!("expected two numbers as 19,38, found `{text}`"))
}
