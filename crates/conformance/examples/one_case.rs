//! Runs one recorded case on the CPU and prints how far it is from diffusers.

use std::path::Path;
use std::sync::Arc;

use tintype_backend::Backend;
use tintype_conformance::{Case, run_case};
use tintype_cpu::CpuBackend;
use tintype_tensor::DType;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let backend: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    let case = Case::read_all(&fixtures)?
        .into_iter()
        .next()
        .ok_or("no cases")?;
    let errors = run_case(&fixtures, &case, &backend, DType::F32)?;
    println!(
        "{}: latents {:.2e}, pixel {:.4}",
        case.name, errors.latents, errors.pixel
    );
    Ok(())
}
