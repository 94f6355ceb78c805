//! Prints the noise levels of a run: `schedule [STEPS] [HEIGHT] [WIDTH] [scheduler_config.json]`.
//!
//! Without a file the configuration is that of FLUX.1 dev.

use std::path::Path;

use tintype_flux::latents::LatentSize;
use tintype_flux::scheduler::{FlowMatchEulerConfig, Schedule, ScheduleRequest};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default| {
        arguments
            .get(index)
            .map_or(Ok(default), |text| text.parse())
    };
    let size = LatentSize::from_pixels(number(1, 1024)?, number(2, 1024)?)?;
    let config = match arguments.get(3) {
        Some(file) => FlowMatchEulerConfig::parse(&std::fs::read(file)?, Path::new(file))?,
        None => FlowMatchEulerConfig {
            shift: 3.0,
            use_dynamic_shifting: true,
            ..FlowMatchEulerConfig::default()
        },
    };
    let request = ScheduleRequest::with_steps(number(0, 28)?, size.image_tokens());
    let schedule = Schedule::new(&config, &request)?;
    println!(
        "{} image tokens, mu {:.4}",
        size.image_tokens(),
        schedule.mu
    );
    for (step, timestep) in schedule.timesteps.iter().enumerate() {
        let (sigma, next) = (schedule.sigmas[step], schedule.sigmas[step + 1]);
        println!("step {step:3}  timestep {timestep:9.3}  sigma {sigma:.5} → {next:.5}");
    }
    Ok(())
}
