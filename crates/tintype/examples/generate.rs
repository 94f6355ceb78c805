//! Makes a picture with a callback that follows the steps.
//!
//! Without arguments it uses the model inside the program, which draws coloured shapes;
//! `cargo run --release --example generate -- DIR` uses yours.

use tintype::{CpuBackend, FluxPipeline, Request, StepEnd};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pipeline = match std::env::args().nth(1) {
        Some(folder) => FluxPipeline::from_pretrained(folder)?.backend(CpuBackend::new()),
        None => tintype::shapes()?,
    };
    // Size, guidance and whatever else is not said are the model's own defaults.
    let request = Request::new("a red circle above a blue square")
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
