//! Changes of a pipeline while it runs: what is asked for is what the next picture shows, a
//! change that fails leaves no trace, and no picture is made with mixed weights.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a failing test panics; a module of a test"
)]

mod watched;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use safetensors::tensor::{Dtype, TensorView};
use tintype_cpu::CpuBackend;
use tintype_flux::{
    AdapterScale, Blocks, Error, FluxPipeline, ModelDefaults, ModelKind, Request, Sizes,
};
use tintype_lora::Component;
use tintype_tensor::Tensor;
use tintype_weights::Parameters;
use watched::{Watch, Watched};

fn fixture(path: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.join("../conformance/fixtures").join(path)
}

fn lora(name: &str) -> PathBuf {
    fixture(&format!("loras/{name}.safetensors"))
}

fn watched(watch: &Arc<Watch>) -> FluxPipeline {
    FluxPipeline::from_pretrained(fixture("pipelines/dev"))
        .unwrap()
        .backend(Watched(CpuBackend::new(), Arc::clone(watch)))
}

fn pipeline() -> FluxPipeline {
    watched(&Watch::new())
}

fn request() -> Request {
    let request = Request::new("a red circle above a blue square");
    request.size(32, 32).steps(1).max_sequence_length(8).seed(7)
}

type Bits = (Vec<u8>, Vec<u8>);

/// Latents and pixels to the bit.
fn drawn(pipeline: &FluxPipeline, request: &Request) -> Bits {
    let output = pipeline.generate(request).unwrap();
    let pixels = output.pixels.as_ref().unwrap();
    (output.latents.bytes().to_vec(), pixels.bytes().to_vec())
}

fn made(pipeline: &FluxPipeline) -> Bits {
    drawn(pipeline, &request())
}

/// For CLIP and the transformer; for the transformer alone.
const BOTH: &str = "kohya_unet_and_te1";
const ONE: &str = "peft_all";

#[test]
fn pipelines_are_shared_between_threads() {
    fn expect_shared<T: Send + Sync>() {}
    expect_shared::<FluxPipeline>();
}

#[test]
fn back_is_bit_equal_after_a_hundred_swaps() {
    let watch = Watch::new();
    let pipeline = watched(&watch);
    let base = made(&pipeline);
    pipeline.load_lora(lora(BOTH), "a").unwrap();
    let a = made(&pipeline);
    pipeline.load_lora_with(lora("xlabs"), "b", -0.7).unwrap();
    pipeline.set_adapters(&[("b", -0.7)]).unwrap();
    let b = made(&pipeline);
    assert!(a != b && a != base && b != base);
    let compiles = watch.compiles();
    for swap in 0..100 {
        let (name, scale, expected) = [("a", 1.0, &a), ("b", -0.7, &b)][swap % 2];
        let report = pipeline.set_adapters(&[(name, scale)]).unwrap();
        assert!(report.weights() > 0 && report.compilations() == 0);
        if swap % 10 >= 8 {
            assert!(made(&pipeline) == *expected, "swap {swap}");
        }
    }
    pipeline.set_adapters::<f32>(&[]).unwrap();
    assert!(made(&pipeline) == base);
    assert_eq!(watch.compiles(), compiles);
}

#[test]
fn what_did_not_change_is_not_touched() {
    let watch = Watch::new();
    let pipeline = watched(&watch);
    made(&pipeline);
    // For the transformer and CLIP: two refits. T5 and the decoder are left alone.
    let report = pipeline.load_lora(lora(BOTH), "a").unwrap().change;
    let kinds: Vec<ModelKind> = report.models.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [ModelKind::Clip, ModelKind::Transformer]);
    // The same again: nothing.
    let refits = watch.refits();
    let report = pipeline.set_adapters(&[("a", 1.0)]).unwrap();
    assert!(report.models.is_empty() && watch.refits() == refits);
    // In one block: what lies on it alone.
    let scale = AdapterScale::new(1.0).block(Blocks::Double, 1, 0.5);
    let report = pipeline.set_adapters(&[("a", scale)]).unwrap();
    let [(ModelKind::Transformer, told)] = report.models.as_slice() else {
        panic!("{report:?}")
    };
    let file = tintype_lora::LoraFile::open(lora(BOTH)).unwrap();
    let in_block = file
        .targets()
        .iter()
        .filter(|target| Blocks::of(target) == Some((Blocks::Double, 1)));
    assert_eq!(told.weights(), in_block.count());
    // A file that was loaded is not needed any more.
    assert_eq!(pipeline.adapters().len(), 1);
}

#[test]
fn a_scale_of_zero_leaves_no_trace() {
    let pipeline = pipeline();
    let base = made(&pipeline);
    // Norms of control files are replaced whatever the scale, but for 0.
    for name in [BOTH, "bfl_control_64", "text_encoder_2_peft"] {
        pipeline.load_lora_with(lora(name), name, 0.0).unwrap();
        assert!(made(&pipeline) == base, "{name}");
        pipeline.set_adapters(&[(name, 1.0)]).unwrap();
        assert!(made(&pipeline) != base, "{name}");
        let nowhere = Component::ALL.into_iter();
        let nowhere = nowhere.fold(AdapterScale::new(1.0), |scale, component| {
            scale.component(component, 0.0)
        });
        pipeline.set_adapters(&[(name, nowhere)]).unwrap();
        assert!(made(&pipeline) == base, "{name}");
        pipeline.unload_lora(name).unwrap();
    }
}

#[test]
fn scales_differ_by_model_and_block() {
    let pipeline = pipeline();
    pipeline.load_lora(lora(BOTH), "a").unwrap();
    let whole = made(&pipeline);
    let with = |scale: AdapterScale| {
        pipeline.set_adapters(&[("a", scale)]).unwrap();
        made(&pipeline)
    };
    let all = AdapterScale::new(2.0)
        .component(Component::Transformer, 0.5)
        .component(Component::TextEncoder, 0.5);
    assert!(with(all) == whole);
    // Every double block has its own factor, which makes up for the one above it.
    let shaped = AdapterScale::new(1.0)
        .blocks(Blocks::Double, .., 4.0)
        .blocks(Blocks::Double, 0..=0, 1.0)
        .block(Blocks::Double, 1, 1.0);
    assert!(with(shaped) == whole);
    assert!(with(AdapterScale::new(1.0).block(Blocks::Double, 0, 0.0)) != whole);
    assert!(with(AdapterScale::new(1.0).component(Component::TextEncoder, 0.0)) != whole);
}

#[test]
fn a_dtype_that_is_chosen_late_keeps_loras() {
    let early = pipeline();
    early.load_lora(lora(BOTH), "a").unwrap();
    let early = early.dtype(tintype_tensor::DType::BF16);
    let late = pipeline().dtype(tintype_tensor::DType::BF16);
    let base = made(&late);
    late.load_lora(lora(BOTH), "a").unwrap();
    let with = made(&late);
    assert!(with != base && made(&early) == with);
    early.unload_lora("a").unwrap();
    assert!(made(&early) == base);
}

/// A safetensors file of these tensors as f32.
fn write(path: &Path, tensors: &[(String, Tensor)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, tensor)| tensor.to_dtype(tintype_tensor::DType::F32).unwrap())
        .map(|tensor| tensor.bytes().to_vec())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes).unwrap();
        (name.as_str(), view)
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// All tensors of a file, after a change.
fn changed(source: &Path, target: &Path, change: impl Fn(&str, Tensor) -> Option<Tensor>) {
    let parameters = Parameters::open(source).unwrap();
    let tensors = parameters.names().filter_map(|name| {
        let tensor = change(name, parameters.get(name).unwrap())?;
        Some((name.to_owned(), tensor))
    });
    write(target, &tensors.collect::<Vec<_>>());
}

fn with_value(tensor: &Tensor, value: f32) -> Tensor {
    let mut values = tensor.to_f32_vec().unwrap();
    *values.last_mut().unwrap() = value;
    Tensor::from_f32(tensor.shape().clone(), values).unwrap()
}

fn wider(tensor: &Tensor) -> Tensor {
    let mut shape = tensor.shape().to_vec();
    *shape.last_mut().unwrap() += 1;
    let count = shape.iter().product();
    Tensor::from_f32(shape, vec![0.5; count]).unwrap()
}

/// Files that no model can take, each broken in its own way.
fn broken_loras(folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut path = |name: &str| {
        paths.push(folder.join(name));
        paths.last().unwrap().clone()
    };
    let source = lora(BOTH);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for end in ["lora_up.weight", "lora_down.weight"] {
            // The last tensor of its kind alone: all others are looked at before it.
            let names = Parameters::open(&source).unwrap();
            let last = names.names().filter(|name| name.ends_with(end)).last();
            let last = last.unwrap().to_owned();
            changed(&source, &path(&format!("{value} {end}")), |name, tensor| {
                Some(if name == last {
                    with_value(&tensor, value)
                } else {
                    tensor
                })
            });
        }
    }
    for end in ["to_q.lora_A.weight", "to_out.0.lora_A.weight"] {
        changed(&lora(ONE), &path(&format!("wide {end}")), |name, tensor| {
            Some(if name.ends_with(end) {
                wider(&tensor)
            } else {
                tensor
            })
        });
    }
    changed(&lora(ONE), &path("without a partner"), |name, tensor| {
        (!name.ends_with("to_k.lora_B.weight")).then_some(tensor)
    });
    let bytes = std::fs::read(&source).unwrap();
    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(path(&format!("first {length} bytes")), &bytes[..length]).unwrap();
    }
    paths
}

#[test]
fn files_that_are_refused_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::new();
    let pipeline = watched(&watch);
    pipeline.load_lora_with(lora("xlabs"), "old", 0.5).unwrap();
    let before = made(&pipeline);
    let (adapters, refits) = (pipeline.adapters(), watch.refits());
    let broken = broken_loras(folder.path());
    assert_eq!(broken.len(), 14);
    for path in &broken {
        let error = pipeline.load_lora(path, "new").unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, Error::Refused { .. }), "{told}");
        assert!(told.contains("all weights are those before it"), "{told}");
        assert!(
            told.contains(path.file_name().unwrap().to_str().unwrap()),
            "{told}"
        );
    }
    assert_eq!((pipeline.adapters(), watch.refits()), (adapters, refits));
    assert!(made(&pipeline) == before);
    // The name is still free, and what is right still loads.
    pipeline.load_lora(lora(BOTH), "new").unwrap();
    pipeline.unload_lora("new").unwrap();
    assert!(made(&pipeline) == before);
}

#[test]
fn refits_that_fail_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.safetensors");
    changed(
        &fixture("pipelines/dev/transformer"),
        &other,
        |_, tensor| Some(with_value(&tensor, 0.25)),
    );
    let watch = Watch::new();
    let pipeline = watched(&watch);
    pipeline.load_lora_with(lora("xlabs"), "old", 0.5).unwrap();
    let before = made(&pipeline);
    // CLIP comes before the transformer, whose failure takes CLIP back with a refit more. If that
    // one fails too, CLIP is made anew.
    let failures: [&[bool]; 4] = [
        &[true],
        &[false, true],
        &[false, true, true],
        &[false, true, true, true],
    ];
    for round in 0..5 {
        for failure in failures {
            watch.fail(failure);
            let result = match round {
                0 => pipeline.load_lora(lora(BOTH), "new").map(drop),
                1 => pipeline
                    .load_lora_with(lora("kohya_te1"), "new", -2.0)
                    .map(drop),
                2 => pipeline.set_adapters(&[("old", -1.5)]).map(drop),
                3 => pipeline.unload_lora("old").map(drop),
                _ => pipeline.replace_transformer(&other).map(drop),
            };
            let left = watch.failures_left();
            watch.fail(&[]);
            if left > 0 && result.is_ok() {
                // One model alone has changed, so there was no second refit to fail.
                assert!(round > 0 && failure.len() > 1, "round {round}, {failure:?}");
                restore(&pipeline);
            } else {
                let told = result.unwrap_err().to_string();
                assert!(told.contains("all weights are those before it"), "{told}");
                assert!(
                    told.contains("out of memory, as the test asked for"),
                    "{told}"
                );
            }
            let names: Vec<_> = pipeline.adapters();
            assert_eq!(names, [("old".to_owned(), AdapterScale::new(0.5))]);
            assert!(made(&pipeline) == before, "round {round}, {failure:?}");
        }
    }
}

#[test]
fn a_backend_that_panics_leaves_no_trace() {
    let watch = Watch::new();
    let pipeline = watched(&watch);
    pipeline.load_lora(lora(BOTH), "a").unwrap();
    let before = made(&pipeline);
    watch.panics.store(true, Ordering::Relaxed);
    let change = || pipeline.set_adapters(&[("a", 2.0)]).map(drop);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(change)).is_err());
    watch.panics.store(false, Ordering::Relaxed);
    assert!(made(&pipeline) == before);
    pipeline.set_adapters(&[("a", 2.0)]).unwrap();
    assert!(made(&pipeline) != before);
}

/// Back to the model's own weights, and the LoRA `old` alone, at its scale.
fn restore(pipeline: &FluxPipeline) {
    for (name, _) in pipeline.adapters() {
        pipeline.unload_lora(&name).unwrap();
    }
    let own = fixture("pipelines/dev/transformer");
    pipeline.replace_transformer(own).unwrap();
    pipeline.load_lora_with(lora("xlabs"), "old", 0.5).unwrap();
}

#[test]
fn no_picture_is_made_with_mixed_weights() {
    let pipeline = pipeline();
    let mut pure = vec![made(&pipeline)];
    pipeline.load_lora_with(lora(BOTH), "a", 0.0).unwrap();
    pipeline.load_lora_with(lora(ONE), "b", 0.0).unwrap();
    let states: [&[(&str, f32)]; 4] = [
        &[],
        &[("a", 3.0)],
        &[("b", 1.0)],
        &[("a", -3.0), ("b", 0.5)],
    ];
    for state in &states[1..] {
        pipeline.set_adapters(state).unwrap();
        pure.push(made(&pipeline));
    }
    let done = AtomicBool::new(false);
    let seen: Vec<usize> = std::thread::scope(|scope| {
        let draw = || {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let picture = made(&pipeline);
                let state = pure.iter().position(|one| *one == picture);
                seen.push(state.expect("a picture of one state"));
            }
            seen
        };
        let threads = [(); 4].map(|()| scope.spawn(draw));
        for swap in 0..200 {
            pipeline.set_adapters(states[swap % states.len()]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    // They ran while it changed.
    assert!(
        (0..pure.len()).all(|state| seen.contains(&state)),
        "{seen:?}"
    );
}

#[test]
fn requests_side_by_side_have_their_own_strength_of_loras() {
    let pipeline = pipeline().low_memory(true);
    pipeline.load_lora(lora(BOTH), "a").unwrap();
    let at = |scale: f32| {
        let mut request = request();
        request.lora_scale = Some(scale);
        request
    };
    let scales = [1.0, 0.5, 0.0];
    let expected = scales.map(|scale| drawn(&pipeline, &at(scale)));
    assert!(expected[0] != expected[1] && expected[1] != expected[2]);
    std::thread::scope(|scope| {
        for (scale, expected) in scales.into_iter().zip(&expected) {
            let pipeline = &pipeline;
            scope.spawn(move || {
                for _ in 0..5 {
                    assert!(drawn(pipeline, &at(scale)) == *expected, "{scale}");
                }
            });
        }
    });
}

#[test]
fn other_sizes_add_an_engine() {
    let plain = pipeline();
    let watch = Watch::for_sizes();
    let sizes = Sizes::of_request(&request(), &ModelDefaults::default());
    let pipeline = watched(&watch).sizes(sizes);
    let small = request();
    let mut large = request().size(48, 64).max_sequence_length(16);
    large.num_images = Some(2);
    pipeline.load_lora(lora(BOTH), "a").unwrap();
    plain.load_lora(lora(BOTH), "a").unwrap();
    assert!(drawn(&pipeline, &small) == drawn(&plain, &small));
    assert_eq!(watch.compiles(), 4);
    // CLIP is for any picture; the others are compiled once more.
    assert!(drawn(&pipeline, &large) == drawn(&plain, &large));
    assert_eq!(watch.compiles(), 7);
    // Each has the weights that are asked for, and none is compiled again.
    for pipeline in [&pipeline, &plain] {
        pipeline.set_adapters(&[("a", -1.0)]).unwrap();
    }
    for request in [&large, &small, &large, &small] {
        assert!(drawn(&pipeline, request) == drawn(&plain, request));
    }
    assert_eq!(watch.compiles(), 7);
}

#[test]
fn other_weights_of_the_same_shapes_are_refitted() {
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::new();
    let pipeline = watched(&watch);
    pipeline.load_lora(lora(BOTH), "a").unwrap();
    let before = made(&pipeline);
    let own = fixture("pipelines/dev/transformer");
    let other = folder.path().join("other.safetensors");
    changed(&own, &other, |_, tensor| {
        let values = tensor
            .to_f32_vec()
            .unwrap()
            .into_iter()
            .map(|value| value * 1.01);
        Some(Tensor::from_f32(tensor.shape().clone(), values.collect()).unwrap())
    });
    let compiles = watch.compiles();
    let report = pipeline.replace_transformer(&other).unwrap();
    let [(ModelKind::Transformer, told)] = report.models.as_slice() else {
        panic!("{report:?}")
    };
    assert!(told.weights() > 0 && report.compilations() == 0);
    let after = made(&pipeline);
    assert!(after != before);
    assert_eq!(watch.compiles(), compiles);
    // As if it had been the file from the beginning.
    let fresh = self::pipeline().transformer_file(&other);
    fresh.load_lora(lora(BOTH), "a").unwrap();
    assert!(made(&fresh) == after);
    for (name, change) in broken_checkpoints() {
        let path = folder.path().join(name);
        changed(&own, &path, change);
        let error = pipeline.replace_transformer(&path).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().contains("proj_out.weight"), "{error}");
        assert!(made(&pipeline) == after, "{name}");
    }
    pipeline.replace_transformer(&own).unwrap();
    assert!(made(&pipeline) == before);
}

type Break = fn(&str, Tensor) -> Option<Tensor>;

fn broken_checkpoints() -> [(&'static str, Break); 3] {
    [
        ("nan", |name, tensor| {
            Some(if name == "proj_out.weight" {
                with_value(&tensor, f32::NAN)
            } else {
                tensor
            })
        }),
        ("wide", |name, tensor| {
            Some(if name == "proj_out.weight" {
                wider(&tensor)
            } else {
                tensor
            })
        }),
        ("less", |name, tensor| {
            (name != "proj_out.weight").then_some(tensor)
        }),
    ]
}

#[test]
fn weights_are_edited_in_place_also_before_they_are_loaded() {
    let (late, early) = (pipeline(), pipeline().low_memory(true));
    let before = made(&late);
    let brighter = |pipeline: &FluxPipeline| {
        let edited = pipeline.edit_weights(ModelKind::Decoder, |parameters| {
            parameters.edit("decoder.conv_out.bias", |values| {
                for value in values {
                    *value += 1e-2;
                }
            })?;
            Ok(())
        });
        edited.unwrap()
    };
    assert_eq!(brighter(&late).models.len(), 1);
    let after = made(&late);
    assert!(after.0 == before.0 && after.1 != before.1);
    assert!(brighter(&early).models.is_empty());
    assert!(made(&early) == after && made(&early) == after);
    for pipeline in [&late, &early] {
        let refused = pipeline.edit_weights(ModelKind::Decoder, |parameters| {
            parameters.edit("decoder.conv_in.bias", |values| values[0] = f32::NAN)?;
            Ok(())
        });
        assert!(matches!(refused, Err(Error::Refused { .. })));
        let unknown = pipeline.edit_weights(ModelKind::Clip, |parameters| {
            parameters.edit("no such", |_| {})?;
            Ok(())
        });
        assert!(unknown.unwrap_err().to_string().contains("no such"));
        assert!(made(pipeline) == after);
    }
}
