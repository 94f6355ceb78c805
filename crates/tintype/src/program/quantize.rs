//! `tintype quantize`: scales from prompts, and what quantizing costs.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tintype::quant::{
    Calibration, Recipe, Report, ScaleTable, Scales, calibrate, compare, keep_worst, layer_names,
    psnr, ssim,
};
use tintype::{FluxPipeline, Output, PromptFeed, Request};

use super::arguments::Quantize;
use super::prompts::Prompts;
use super::{model, save};

pub(crate) fn run(arguments: &Quantize) -> Result<()> {
    ensure!(
        arguments.model.dtype != "fp8",
        "--dtype: scales are measured in f32, bf16 or f16, found fp8"
    );
    save::check_writable(&arguments.output)?;
    let prompts = Prompts::read(&arguments.prompts)?;
    let (prompts, held_out) = split(arguments, prompts)?;
    let sized = request(arguments, "", 0);
    let mut pipeline = model::open(&arguments.model, &sized, arguments.quiet, None)?;
    let tokens = arguments.size.max_sequence_length;
    let tokens = tokens.unwrap_or(pipeline.defaults().max_sequence_length);
    prompts.check(&arguments.prompts, &pipeline, tokens)?;
    let held_out_path = arguments.held_out.as_ref().unwrap_or(&arguments.prompts);
    held_out.check(held_out_path, &pipeline, tokens)?;
    let recipe = recipe(arguments, &pipeline)?;
    let examples = requests(arguments, &prompts, 0);
    let mut feed = PromptFeed::new(&mut pipeline, examples);
    let mut calibration = calibrate(&mut feed, &recipe, arguments.method)?;
    let scales = calibration.scales()?;
    let compared = requests(arguments, &held_out, prompts.lines.len());
    let measured = measure(arguments, &mut pipeline, recipe, &scales, &compared)?;
    keep_needed(&mut calibration, &measured.recipe, &pipeline)?;
    let identity = pipeline.transformer_identity()?;
    let recipe = measured.recipe.clone();
    let table = ScaleTable::new(identity, recipe, arguments.method, calibration);
    table.write(&arguments.output)?;
    tell(arguments, &table, &measured)
}

/// Prompts to measure with, and those to compare on.
fn split(arguments: &Quantize, prompts: Prompts) -> Result<(Prompts, Prompts)> {
    if let Some(path) = &arguments.held_out {
        return Ok((prompts, Prompts::read(path)?));
    }
    if !arguments.report && arguments.auto.is_none() {
        return Ok((prompts, Prompts { lines: Vec::new() }));
    }
    let (rest, held_out) = prompts.split();
    ensure!(
        !rest.lines.is_empty(),
        "{}: expected at least two prompts, one of which is held out, found one; or give --held-out",
        arguments.prompts.display()
    );
    Ok((rest, held_out))
}

fn request(arguments: &Quantize, prompt: &str, index: usize) -> Request {
    let mut request = Request::new(prompt).seed(arguments.seed.wrapping_add(index as u64));
    request.steps = arguments.steps;
    arguments.size.of(request)
}

fn requests(arguments: &Quantize, prompts: &Prompts, first: usize) -> Vec<Request> {
    let prompts = prompts.lines.iter().enumerate();
    prompts
        .map(|(index, (_, prompt))| request(arguments, prompt, first + index))
        .collect()
}

fn recipe(arguments: &Quantize, pipeline: &FluxPipeline) -> Result<Recipe> {
    let graph = pipeline.transformer_graph()?;
    let recipe = match &arguments.recipe {
        Some(path) => {
            let shown = path.display();
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("{shown}: cannot be read"))?;
            text.parse::<Recipe>().with_context(|| shown.to_string())?
        }
        None => Recipe::flux().fitted_to(&graph),
    };
    if !arguments.attention {
        return Ok(recipe);
    }
    let (_, attentions) = layer_names(&graph);
    Ok(recipe.with_attentions(attentions))
}

/// What the comparison found.
struct Measured {
    recipe: Recipe,
    /// Layers that `--auto` keeps.
    kept: Vec<String>,
    report: Option<Report>,
    pictures: Vec<PictureErrors>,
}

/// How far a picture is from that of the model as it is.
struct PictureErrors {
    psnr: f64,
    ssim: f64,
}

fn measure(
    arguments: &Quantize,
    pipeline: &mut FluxPipeline,
    recipe: Recipe,
    scales: &Scales,
    compared: &[Request],
) -> Result<Measured> {
    let mut measured = Measured {
        recipe,
        kept: Vec::new(),
        report: None,
        pictures: Vec::new(),
    };
    if let Some(bound) = arguments.auto {
        let mut feed = PromptFeed::new(pipeline, compared);
        let kept = keep_worst(&mut feed, &measured.recipe, scales, bound)?;
        measured.recipe = kept.recipe;
        measured.kept = kept.layers;
        measured.report = Some(kept.report);
    } else if arguments.report {
        let mut feed = PromptFeed::new(pipeline, compared);
        measured.report = Some(compare(&mut feed, &measured.recipe, scales)?);
    }
    if arguments.report {
        measured.pictures = pictures(arguments, pipeline, &measured.recipe, scales, compared)?;
    }
    Ok(measured)
}

/// Makes each picture with the model as it is and with the quantized one.
fn pictures(
    arguments: &Quantize,
    pipeline: &mut FluxPipeline,
    recipe: &Recipe,
    scales: &Scales,
    compared: &[Request],
) -> Result<Vec<PictureErrors>> {
    let all = |pipeline: &mut FluxPipeline| -> Result<Vec<Output>> {
        let outputs = compared.iter().map(|request| pipeline.generate(request));
        Ok(outputs.collect::<tintype::Result<_>>()?)
    };
    let plain = all(pipeline)?;
    pipeline.quantize(recipe, scales)?;
    let narrow = all(pipeline)?;
    pipeline.rewrite_transformer(None);
    if let Some(folder) = &arguments.pictures {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        for (name, outputs) in [("plain", &plain), ("fp8", &narrow)] {
            for (index, output) in outputs.iter().enumerate() {
                output.save(folder.join(format!("{name}-{}.png", index + 1)))?;
            }
        }
    }
    let pairs = plain.iter().zip(&narrow);
    pairs
        .map(|(plain, narrow)| picture_errors(plain, narrow))
        .collect()
}

fn picture_errors(plain: &Output, narrow: &Output) -> Result<PictureErrors> {
    let pixels = |output: &Output| output.pixels.clone().context("a picture was asked for");
    let (plain, narrow) = (pixels(plain)?, pixels(narrow)?);
    let height = plain.shape()[2];
    let (a, b) = (plain.to_f32()?, narrow.to_f32()?);
    let plane = height * plain.shape()[3];
    let planes = a.chunks(plane).zip(b.chunks(plane));
    let similar: Vec<f64> = planes
        .map(|(a, b)| ssim(a, b, height))
        .collect::<tintype::quant::Result<_>>()?;
    Ok(PictureErrors {
        psnr: psnr(&a, &b)?,
        ssim: mean(&similar),
    })
}

/// Leaves out scales of layers that are kept.
fn keep_needed(
    calibration: &mut Calibration,
    recipe: &Recipe,
    pipeline: &FluxPipeline,
) -> Result<()> {
    let needed = recipe.scale_names(&pipeline.transformer_graph()?)?;
    calibration.values.retain(|name, _| needed.contains(name));
    Ok(())
}

fn tell(arguments: &Quantize, table: &ScaleTable, measured: &Measured) -> Result<()> {
    let (psnrs, ssims) = summaries(measured);
    if arguments.json {
        let line = json!({
            "output": arguments.output,
            "scales": table.scales.len(),
            "examples": table.calibration.examples,
            "steps": table.calibration.steps,
            "kept": measured.kept,
            "report": measured.report,
            "pictures": {"count": measured.pictures.len(), "psnr": psnrs, "ssim": ssims},
        });
        say!("{line}");
        return Ok(());
    }
    if arguments.quiet {
        return Ok(());
    }
    if let Some(report) = &measured.report {
        super::write(format_args!("{}", report.table(arguments.layers)))?;
    }
    if !measured.kept.is_empty() {
        say!("kept: {}", measured.kept.join(", "));
    }
    if let (Some([psnr, least_psnr]), Some([ssim, least_ssim])) = (psnrs, ssims) {
        let count = measured.pictures.len();
        say!("{count} pictures against the model as it is, mean and least:");
        say!("  PSNR {:.2} dB, {:.2} dB", psnr, least_psnr);
        say!("  SSIM {:.4}, {:.4}", ssim, least_ssim);
    }
    say!(
        "{}: {} scales of {} examples of {} steps",
        Path::display(&arguments.output),
        table.scales.len(),
        table.calibration.examples,
        table.calibration.steps
    );
    Ok(())
}

/// Mean and least of PSNR and SSIM.
fn summaries(measured: &Measured) -> (Option<[f64; 2]>, Option<[f64; 2]>) {
    let summary = |part: fn(&PictureErrors) -> f64| {
        let values: Vec<f64> = measured.pictures.iter().map(part).collect();
        let least = values.iter().copied().reduce(f64::min)?;
        Some([mean(&values), least])
    };
    (summary(|one| one.psnr), summary(|one| one.ssim))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
