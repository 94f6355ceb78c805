//! Every recorded case, end to end, on the CPU in f32: one test each.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::Path;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_backend::Backend;
use tintype_conformance::{Case, Tolerance, run_case};
use tintype_cpu::CpuBackend;
use tintype_tensor::DType;

fn main() {
    let arguments = Arguments::from_args();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let cases = Case::read_all(&fixtures).unwrap();
    let trials = cases.into_iter().map(|case| {
        let fixtures = fixtures.clone();
        Trial::test(case.name.clone(), move || check(&fixtures, &case))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn check(fixtures: &Path, case: &Case) -> Result<(), Failed> {
    let backend: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    let errors = run_case(fixtures, case, &backend, DType::F32)?;
    println!(
        "{}: latents {:.2e}, pixel {:.4}",
        case.name, errors.latents, errors.pixel
    );
    Tolerance::of("cpu", DType::F32).check(&errors)?;
    Ok(())
}
