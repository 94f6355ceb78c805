//! `tintype bench`: how long the parts of a generation take.

use std::time::Duration;

use anyhow::{Result, ensure};
use tintype::{Request, Timings};

use super::arguments::Bench;
use super::model;

pub(crate) fn run(arguments: &Bench) -> Result<()> {
    ensure!(arguments.runs > 0, "--runs: expected at least 1, found 0");
    let request = Request::new("a photo of a red fox sitting in the snow")
        .steps(arguments.steps)
        .seed(0);
    let request = arguments.size.of(request);
    let pipeline = model::open(&arguments.model, &request, true, None)?;
    // The first run loads models and touches all memory; it says what the defaults were.
    let used = pipeline.generate(&request)?.request;
    let mut all = Vec::new();
    for _ in 0..arguments.runs {
        all.push(pipeline.generate(&request)?.timings);
    }
    let steps = median(
        all.iter()
            .flat_map(|timings| timings.steps.iter().copied())
            .collect(),
    );
    let part = |part: fn(&Timings) -> Duration| median(all.iter().map(part).collect());
    let (encode, prepare, decode) = (
        part(|timings| timings.encode),
        part(|timings| timings.prepare),
        part(|timings| timings.decode),
    );
    let peak = peak_resident_bytes();
    if arguments.json {
        let line = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": pipeline.files().root(),
            "height": used.height, "width": used.width, "steps": used.steps,
            "guidance_scale": used.guidance_scale, "max_sequence_length": used.max_sequence_length,
            "runs": arguments.runs, "dtype": arguments.model.dtype,
            "median_seconds": {"encode": encode, "prepare": prepare, "step": steps, "decode": decode},
            "peak_resident_bytes": peak,
        });
        say!("{line}");
        return Ok(());
    }
    let shown = |value: Option<usize>| value.expect("a request that ran says what was used");
    say!(
        "{}: medians of {} runs at {}×{}, {} tokens",
        pipeline.files().root().display(),
        arguments.runs,
        shown(used.width),
        shown(used.height),
        shown(used.max_sequence_length)
    );
    for (name, seconds) in [
        ("encode", encode),
        ("prepare", prepare),
        ("step", steps),
        ("decode", decode),
    ] {
        say!("  {name:8} {:9.1} ms", 1000.0 * seconds);
    }
    if let Some(peak) = peak {
        say!("  peak memory {:.2} GB", peak as f64 / 1e9);
    }
    Ok(())
}

/// In seconds.
fn median(mut durations: Vec<Duration>) -> f64 {
    durations.sort_unstable();
    durations
        .get(durations.len() / 2)
        .map_or(0.0, Duration::as_secs_f64)
}

/// The most memory that the process held, where the system tells (Linux).
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
