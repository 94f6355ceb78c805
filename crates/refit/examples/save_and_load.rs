//! Wraps a small network, edits it, saves it as a folder, and goes on with what was loaded.
//!
//! `cargo run -p tintype-refit --example save_and_load`

use std::sync::Arc;

use tintype_backend::Tensors;
use tintype_cpu::CpuBackend;
use tintype_ir::Overlay;
use tintype_refit::{LoadOptions, MutableModule, SaveOptions, SavedModule};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

const NETWORK: &str = "graph two_layers {
    dim rows = 1..=8
    param @first: f32[3, 2] param @second: f32[1, 3]
    input step %x: f32[rows, 2]
    %0: f32[rows, 3] = linear %x, @first
    %1: f32[rows, 3] = tanh %0
    %2: f32[rows, 1] = linear %1, @second
    output y = %2
}";

/// Halves the parameter that it lies on.
const HALF: &str = "graph half {
    param @base: f32[1, 3] param @factor: f32[1]
    %0: f32[1, 3] = mul @base, @factor
    output value = %0
}";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let work = tempfile::tempdir()?;
    let folder = work.path().join("module");
    let backend = Arc::new(CpuBackend::new());
    let x = Tensors::new().with("x", Tensor::from_f32([1, 2], vec![0.5, -1.0])?);

    let parameters = Parameters::builder()
        .tensor(
            "first",
            Tensor::from_f32([3, 2], vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6])?,
        )
        .tensor("second", Tensor::from_f32([1, 3], vec![1.0, -1.0, 2.0])?)
        .build()?;
    let graph = tintype_ir::parse(NETWORK)?;
    let module = MutableModule::builder(backend.clone(), graph, parameters).build();
    module.edit().edit("first", |values| values[0] += 1e-4)?;
    let half = Overlay::new("second", tintype_ir::parse(HALF)?)?;
    let factor = Tensor::from_f32([1], vec![0.5])?;
    let own = Parameters::builder().tensor("factor", factor).build()?;
    module.change(|change| {
        change.set_overlays([half], own);
        Ok(())
    })?;
    let before = module.call(&Tensors::new(), &x)?.outputs.host("y")?;
    let saved = module.save_with(&folder, SaveOptions::default().with_content_hashes())?;
    println!(
        "saved: {} parameters of {} bytes",
        saved.copied, saved.copied_bytes
    );

    // As another process would.
    let saved = SavedModule::open(&folder)?;
    println!("verified: {} parameters", saved.verify()?.equal);
    let loaded = saved.load(backend, LoadOptions::default())?.module;
    println!("loaded: {:?}", loaded.state()?);
    let call = loaded.call(&Tensors::new(), &x)?;
    println!("first call:\n{}", call.report);
    let after = call.outputs.host("y")?;
    assert_eq!(before.to_f32_vec()?, after.to_f32_vec()?);
    println!("y = {:?}, as before", after.to_f32_vec()?);
    Ok(())
}
