//! Makes a picture with a callback that follows the steps.
//!
//! Without arguments it uses the small random pipeline of the tests, which draws
//! noise in colours; `cargo run --release --example generate -- DIR` uses yours.

use tintype::{CpuBackend, FluxPipeline, Request, StepEnd};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let small = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../conformance/fixtures/pipelines/dev"
    );
    let folder = std::env::args().nth(1).unwrap_or_else(|| small.to_owned());
    let mut pipeline = FluxPipeline::from_pretrained(folder)?.backend(CpuBackend::new());
    let request = Request::new("a red fox in the snow")
        .size(64, 96)
        .steps(4)
        .seed(7);
    let output = pipeline.generate_with(&request, &mut |step: &mut StepEnd| {
        println!(
            "step {} of {} at timestep {:.0}",
            step.index + 1,
            step.count,
            step.timestep
        );
    })?;
    let path = std::env::temp_dir().join("tintype-example.png");
    output.save(&path)?;
    println!("{}", path.display());
    Ok(())
}
