//! Prints what LoRA files contain: `cargo run -p tintype-lora --example inspect_lora -- FILE…`
//!
//! Without arguments it makes a small file of its own and prints that.

use std::error::Error;

use tintype_lora::{Component, LoraFile};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        print(&small_file()?);
    }
    for path in paths {
        print(&LoraFile::open(path)?);
    }
    Ok(())
}

fn print(file: &LoraFile) {
    let formats: Vec<String> = file.formats().map(|format| format.to_string()).collect();
    println!("{}: {}", file.origin(), formats.join(", "));
    for component in Component::ALL {
        let targets = file.targets().iter();
        for target in targets.filter(|target| target.component == component) {
            let rank = target
                .rank()
                .map_or(String::new(), |r| format!(" rank {r}"));
            println!(
                "  {component} {} {}: {}{rank}, factor {}",
                target.parameter,
                target.shape(),
                target.update.kind(),
                target.factor
            );
        }
    }
    for key in file.unknown_keys() {
        println!("  not understood: {key}");
    }
}

/// A fused projection of one block, as Kohya's scripts write it.
fn small_file() -> Result<LoraFile, Box<dyn Error>> {
    let module = "lora_unet_double_blocks_0_img_attn_qkv";
    let parameters = Parameters::builder()
        .tensor(
            format!("{module}.lora_down.weight"),
            Tensor::from_f32([2, 8], vec![0.1; 16])?,
        )
        .tensor(
            format!("{module}.lora_up.weight"),
            Tensor::from_f32([24, 2], vec![0.1; 48])?,
        )
        .tensor(format!("{module}.alpha"), Tensor::scalar(1.0f32))
        .build()?;
    Ok(LoraFile::from_parameters(&parameters)?)
}
