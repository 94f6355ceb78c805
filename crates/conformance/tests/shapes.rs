//! The trained model in `crates/shapes`, against the pictures that diffusers drew with it.
//!
//! The other recorded pipelines have random weights; this one can also go wrong in the
//! middle of what a trained model tells apart.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tintype_cpu::CpuBackend;
use tintype_flux::image::Image;
use tintype_flux::{FluxPipeline, Request};

/// One recorded picture; size, guidance and tokens are the model's own defaults.
#[derive(Deserialize)]
struct Recorded {
    prompt: String,
    seed: u64,
    steps: usize,
    lora: Option<String>,
    picture: PathBuf,
}

fn draw(model: &Path, recorded: &Recorded) -> Image {
    let pipeline = FluxPipeline::from_pretrained(model).unwrap();
    let pipeline = pipeline.backend(CpuBackend::new());
    if let Some(name) = &recorded.lora {
        pipeline.load_lora(name, name).unwrap();
        pipeline.set_adapters(&[(name.as_str(), 1.0)]).unwrap();
    }
    let request = Request::new(&recorded.prompt)
        .steps(recorded.steps)
        .seed(recorded.seed);
    let output = pipeline.generate(&request).unwrap();
    output.images().unwrap().remove(0)
}

#[test]
fn the_same_pictures_as_diffusers() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = crates.join("fixtures/shapes");
    let text = std::fs::read_to_string(fixtures.join("cases.json")).unwrap();
    let cases: Vec<Recorded> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 8);
    for recorded in cases {
        let expected = Image::read_png(&fixtures.join(&recorded.picture)).unwrap();
        let found = draw(&crates.join("../shapes/model"), &recorded);
        assert_eq!((found.width(), found.height()), (128, 128));
        let pairs = found.rgb8().iter().zip(expected.rgb8());
        let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 1, "{}: off by {worst}/255", recorded.prompt);
    }
}
