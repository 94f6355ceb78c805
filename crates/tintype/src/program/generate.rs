//! `tintype generate`.

use std::time::Instant;

use anyhow::Result;
use tintype::{Image, Output, Request, Seed};

use super::arguments::Generate;
use super::progress::Progress;
use super::{model, save};

pub(crate) fn run(arguments: &Generate) -> Result<()> {
    let start = Instant::now();
    let request = request(arguments)?;
    // An output that cannot be written is told before the work, not after it.
    let count = arguments.num_images.unwrap_or(1).min(MOST_OUTPUTS);
    for path in tintype_flux::picture_paths(&arguments.output, count) {
        save::check_writable(&path)?;
    }
    if let Some(path) = &arguments.save_tensors {
        save::check_writable(path)?;
    }
    let mut progress = Progress::new(arguments.quiet || arguments.json);
    let follow = Some(progress.follow());
    let pipeline = model::open(&arguments.model, &request, arguments.quiet, follow)?;
    let output = pipeline.generate_with(&request, &mut progress)?;
    progress.finish();
    if let Some(path) = &arguments.save_tensors {
        save::tensors(path, &output)?;
    }
    let written = output.save(&arguments.output)?;
    if arguments.json {
        let mut line = timings(&output, start.elapsed().as_secs_f64());
        line["outputs"] = serde_json::json!(written);
        line["model"] = serde_json::json!(pipeline.files().root());
        say!("{line}");
    } else if !arguments.quiet {
        for path in &written {
            say!("{}", path.display());
        }
    }
    Ok(())
}

fn request(arguments: &Generate) -> Result<Request> {
    let one = |prompt: &Option<String>| prompt.clone().map(|prompt| vec![prompt]);
    let request = Request::new(&arguments.prompt).vae_tiling(arguments.vae_tiling);
    let mut request = arguments.size.of(request);
    request.prompt_2 = one(&arguments.prompt_2);
    request.negative_prompt = one(&arguments.negative_prompt);
    request.negative_prompt_2 = one(&arguments.negative_prompt_2);
    request.true_cfg_scale = arguments.true_cfg_scale;
    request.steps = arguments.steps;
    request.sigmas.clone_from(&arguments.sigmas);
    request.guidance_scale = arguments.guidance;
    request.seed = arguments.seed.map_or(Seed::Random, Seed::One);
    request.num_images = arguments.num_images;
    if let Some(path) = &arguments.image {
        request = request.image(Image::read_png(path)?, arguments.strength);
    }
    Ok(request)
}

/// What was asked for, with the defaults that were used, and times in seconds.
fn timings(output: &Output, total: f64) -> serde_json::Value {
    let timings = &output.timings;
    let steps: Vec<f64> = timings
        .steps
        .iter()
        .map(std::time::Duration::as_secs_f64)
        .collect();
    serde_json::json!({
        "request": output.request,
        "seconds": {
            "load": timings.load.as_secs_f64(),
            "encode": timings.encode.as_secs_f64(),
            "prepare": timings.prepare.as_secs_f64(),
            "steps": steps,
            "decode": timings.decode.as_secs_f64(),
            "total": total,
        },
    })
}

/// The outputs that are looked at before the work; a request for more is refused.
const MOST_OUTPUTS: usize = 64;
