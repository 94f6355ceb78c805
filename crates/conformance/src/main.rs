//! Runs the recorded cases on a backend, where there is no cargo.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use tintype_backend::Backend;
use tintype_conformance::{Case, Tolerance, run_case};
use tintype_cpu::CpuBackend;
use tintype_tensor::DType;

/// Runs recorded cases and prints how far each result is from diffusers'.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder of the fixtures.
    #[arg(long, default_value = "crates/conformance/fixtures")]
    fixtures: PathBuf,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    filter: String,
    /// The dtype to compute in.
    #[arg(long, default_value = "f32")]
    dtype: DType,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let backend: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    let tolerance = Tolerance::of(backend.name(), arguments.dtype);
    let mut failed = 0;
    for case in Case::read_all(&arguments.fixtures)? {
        if !case.name.contains(&arguments.filter) {
            continue;
        }
        let result = run_case(&arguments.fixtures, &case, &backend, arguments.dtype);
        let verdict = result.and_then(|errors| {
            print!(
                "{:32} latents {:.2e} pixel {:.4} ",
                case.name, errors.latents, errors.pixel
            );
            tolerance.check(&errors)
        });
        match verdict {
            Ok(()) => println!("ok"),
            Err(error) => {
                failed += 1;
                println!("{}: FAILED {error}", case.name);
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} cases failed");
    Ok(())
}
