//! What is saved is what is loaded.

use std::sync::Arc;

use tintype_backend::Tensors;
use tintype_cpu::CpuBackend;
use tintype_ir::Graph;
use tintype_tensor::{DType, Shape, Tensor};
use tintype_weights::{Checkpoint, Parameters, SafetensorsFile};

use super::support::{Bench, addition, graph, input, run, values};
use crate::{
    Given, LoadOptions, MutableModule, Ranges, SaveOptions, SavedModule, Signature, State,
};

#[test]
fn views_and_scales_are_found_again_and_nothing_is_copied() {
    let bench = Bench::new();
    let module = bench.module();
    let x = input(3);
    let before = run(&module, &x);
    let saved = module.save(bench.path("saved")).unwrap();
    assert_eq!((saved.referred, saved.copied), (4, 0));
    let names = bench.names("saved");
    assert!(
        names.iter().all(|name| !name.contains("safetensors")),
        "{names:?}"
    );
    let loaded = bench.load("saved").unwrap();
    assert_eq!(loaded.changed, []);
    assert_eq!(loaded.module.state().unwrap(), State::NeedsRefit);
    let call = loaded.module.call(&Tensors::new(), &x).unwrap();
    assert_eq!(call.report.compilations(), 0, "{}", call.report);
    assert_eq!(call.report.refits().count(), 1);
    assert_eq!(
        call.outputs.host("y").unwrap().to_f32_vec().unwrap(),
        before
    );
    assert_eq!(loaded.module.state().unwrap(), State::Live);
}

#[test]
fn edits_and_overlays_are_kept() {
    let bench = Bench::new();
    let module = bench.module();
    let x = input(2);
    let untouched = run(&module, &x);
    let delta = Tensor::from_f32([4, 4], values(16)).unwrap();
    let own = Parameters::builder()
        .tensor("delta", delta)
        .build()
        .unwrap();
    module
        .change(|change| {
            change.set_overlays([addition()], own);
            Ok(())
        })
        .unwrap();
    module.edit().edit("b", |values| values[0] += 1e-4).unwrap();
    let half = Tensor::from_f32_as(DType::F16, Shape::from([4]), values(4)).unwrap();
    module.edit().set("g", half).unwrap();
    // Saved before any call brought it.
    let saved = module.save(bench.path("saved")).unwrap();
    assert_eq!((saved.referred, saved.copied), (2, 3));
    let before = run(&module, &x);
    assert_ne!(before, untouched);
    let loaded = bench.load("saved").unwrap().module;
    assert_eq!(run(&loaded, &x), before);
    assert_eq!(
        loaded.weights().parameters.info("g").unwrap().dtype,
        DType::F16
    );
    // Detached, the untouched parameter is there.
    for module in [&module, &loaded] {
        module
            .change(|change| {
                change.set_overlays([], Parameters::default());
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(run(&loaded, &x), run(&module, &x));
    // What was loaded is saved anew, into its own folder and into another.
    loaded.save(bench.path("saved")).unwrap();
    loaded.save(bench.path("other")).unwrap();
    std::fs::remove_dir_all(bench.path("saved")).unwrap();
    let again = bench.load("other").unwrap().module;
    assert_eq!(run(&again, &x), run(&module, &x));
}

#[test]
fn a_checkpoint_in_memory_is_copied() {
    let bench = Bench::new();
    let bytes = std::fs::read(bench.checkpoint()).unwrap();
    let file = SafetensorsFile::from_bytes("inside", bytes).unwrap();
    let parameters = Parameters::from_checkpoint(&Checkpoint::from_file(file)).unwrap();
    let text = "graph g { param @fused: f32[8, 4] param @coded.weight: f32[4, 4]
        input step %x: f32[1, 4] %0: f32[1, 8] = linear %x, @fused output y = %0 }";
    let graph = tintype_ir::parse(text).unwrap();
    let module = MutableModule::builder(Arc::new(CpuBackend::new()), graph, parameters).build();
    let x = input(1);
    let before = run(&module, &x);
    let saved = module.save(bench.path("saved")).unwrap();
    assert_eq!((saved.referred, saved.copied), (0, 3));
    std::fs::remove_file(bench.checkpoint()).unwrap();
    assert_eq!(run(&bench.load("saved").unwrap().module, &x), before);
}

#[test]
fn folder_and_checkpoint_move_together() {
    let bench = Bench::new();
    let module = bench.module();
    let x = input(1);
    let before = run(&module, &x);
    module.save(bench.path("saved")).unwrap();
    std::fs::create_dir(bench.path("one")).unwrap();
    for name in ["saved", "weights.safetensors"] {
        std::fs::rename(bench.path(name), bench.path("one").join(name)).unwrap();
    }
    let loaded = bench.load("one/saved").unwrap();
    assert_eq!((run(&loaded.module, &x), loaded.changed), (before, vec![]));
}

#[test]
fn settings_are_kept() {
    let bench = Bench::new();
    let backend = Arc::new(CpuBackend::new());
    let module = MutableModule::builder(backend, graph(), bench.parameters())
        .ranges(Ranges::new().symbol("n", 2..=8).axis("x", 0, 2..=8))
        .most_engines(5)
        .check_finite(false)
        .argument("layers", 3)
        .build();
    module.save(bench.path("saved")).unwrap();
    let loaded = bench.load("saved").unwrap().module;
    assert_eq!(
        loaded.state().unwrap(),
        State::NeedsCompile,
        "nothing was called"
    );
    assert_eq!(loaded.settings.ranges, module.settings.ranges);
    assert_eq!(loaded.settings.most_engines, 5);
    assert!(!loaded.settings.check_finite);
    assert_eq!(loaded.wanted().arguments, module.wanted().arguments);
}

fn scaled(given: &Given) -> Result<Graph, crate::DefineError> {
    let (dtype, times) = (given.dtype("x")?, given.argument("times")?);
    let mut body = String::new();
    for index in 0..times {
        let x = if index == 0 {
            "%x".to_owned()
        } else {
            format!("%{}", index - 1)
        };
        body += &format!("%{index}: {dtype}[n, 4] = mul {x}, @p ");
    }
    let text = format!(
        "graph g {{ dim n = 1..=4 param @p: {dtype}[4] input step %x: {dtype}[n, 4] {body} \
         output y = %{} }}",
        times - 1
    );
    Ok(tintype_ir::parse(&text)?)
}

#[test]
fn graphs_that_a_function_made_are_loaded_without_it() {
    let bench = Bench::new();
    let backend = Arc::new(CpuBackend::new());
    let p = Tensor::from_f32([4], values(4)).unwrap();
    let parameters = Parameters::builder().tensor("p", p).build().unwrap();
    let module = MutableModule::builder(backend.clone(), scaled, parameters)
        .argument("times", 2)
        .build();
    let error = module.save(bench.path("saved")).unwrap_err().to_string();
    assert!(error.contains("a module that was called"), "{error}");
    let x = input(2);
    let half = Tensor::from_f32_as(DType::F16, Shape::from([1, 4]), values(4)).unwrap();
    let half = Tensors::new().with("x", half);
    let before = (run(&module, &half), run(&module, &x));
    module.save(bench.path("saved")).unwrap();
    assert_eq!(
        SavedModule::open(bench.path("saved"))
            .unwrap()
            .graphs()
            .count(),
        2
    );
    let loaded = bench.load("saved").unwrap().module;
    assert_eq!((run(&loaded, &half), run(&loaded, &x)), before);
    let signature = Signature::new().with("x", DType::BF16, Shape::from([1, 4]));
    let error = loaded.picture(&signature).err().unwrap().to_string();
    assert!(error.contains("x: f32, times = 2"), "{error}");
    assert!(error.contains("found x: bf16, times = 2"), "{error}");
    // With the function, all is possible again.
    let options = LoadOptions::default().with_define(scaled);
    let loaded = MutableModule::load(bench.path("saved"), backend, options).unwrap();
    loaded.module.picture(&signature).unwrap();
}

#[test]
fn without_weights_they_are_given() {
    let bench = Bench::new();
    let module = bench.module();
    let x = input(1);
    let before = run(&module, &x);
    let options = SaveOptions::default().without_weights();
    module.save_with(bench.path("saved"), options).unwrap();
    let error = bench.load("saved").unwrap_err().to_string();
    assert!(error.contains("saved without, found none"), "{error}");
    let options = LoadOptions::default().with_parameters(bench.parameters());
    let backend = Arc::new(CpuBackend::new());
    let loaded = MutableModule::load(bench.path("saved"), backend, options).unwrap();
    assert_eq!(run(&loaded.module, &x), before);
}

#[test]
fn given_parameters_stand_for_a_checkpoint_that_is_gone() {
    let bench = Bench::new();
    let module = bench.module();
    module.edit().edit("b", |values| values[3] = 0.5).unwrap();
    let x = input(1);
    let before = run(&module, &x);
    module.save(bench.path("saved")).unwrap();
    std::fs::rename(bench.checkpoint(), bench.path("elsewhere")).unwrap();
    let error = bench.load("saved").unwrap_err().to_string();
    assert!(error.contains("weights.safetensors"), "{error}");
    std::fs::rename(bench.path("elsewhere"), bench.checkpoint()).unwrap();
    let parameters = bench.parameters();
    std::fs::remove_file(bench.checkpoint()).unwrap();
    let options = LoadOptions::default().with_parameters(parameters);
    let backend = Arc::new(CpuBackend::new());
    let loaded = MutableModule::load(bench.path("saved"), backend, options).unwrap();
    assert_eq!(run(&loaded.module, &x), before, "with the edit of before");
}
