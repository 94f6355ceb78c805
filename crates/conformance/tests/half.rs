//! Recorded cases in bf16 and f16: rounding, and no more.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::Path;
use std::sync::Arc;

use tintype_backend::Backend;
use tintype_conformance::{Case, Tolerance, run_case};
use tintype_cpu::CpuBackend;
use tintype_tensor::DType;

/// One of each kind; the program of this crate runs all.
const NAMES: [&str; 6] = [
    "dev",
    "schnell",
    "true_cfg",
    "img2img_0_6",
    "lora_two_formats_and_texts",
    "tiled",
];

#[test]
fn smaller_dtypes_cost_rounding_and_no_more() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let backend: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    let cases = Case::read_all(&fixtures).unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let mut count = 0;
        for case in cases
            .iter()
            .filter(|case| NAMES.contains(&case.name.as_str()))
        {
            let errors = run_case(&fixtures, case, &backend, dtype).unwrap();
            let verdict = Tolerance::of("cpu", dtype).check(&errors);
            assert!(
                verdict.is_ok(),
                "{} in {dtype}: {}",
                case.name,
                verdict.unwrap_err()
            );
            // A model that computed in f32 in secret would be closer than this.
            assert!(errors.latents > 1e-5, "{} in {dtype} rounds", case.name);
            count += 1;
        }
        assert_eq!(count, NAMES.len());
    }
}
