//! What another mutable module misjudges, case by case, each against a fresh compilation.

use std::sync::Arc;

use tintype_backend::Tensors;
use tintype_cpu::CpuBackend;
use tintype_ir::{Graph, parse};
use tintype_refit::{Define, DefineError, Given, MutableModule, Ranges, State};
use tintype_tensor::{DType, Tensor};
use tintype_weights::{ChangeOptions, Parameters};

use crate::backend::Spy;
use crate::network::{
    Inputs, bits, fresh, inputs, lora, module, network, outputs, parameters, random, set_loras,
};

#[test]
fn an_edit_in_place_is_seen() {
    let (module, log) = module(1);
    let inputs = inputs(3);
    let before = outputs(&module, &inputs);
    log.take();
    module
        .edit()
        .edit("second.weight", |values| values[7] = -values[7])
        .unwrap();
    let after = outputs(&module, &inputs);
    assert_ne!(after, before);
    assert_eq!(after, fresh(network("silu"), &module.weights(), &inputs));
    assert_eq!(log.take(), (0, 1, 1));
}

#[test]
fn a_change_of_a_ten_thousandth_is_seen() {
    let (module, log) = module(2);
    let inputs = inputs(3);
    let before = outputs(&module, &inputs);
    log.take();
    let edit = |values: &mut [f32]| values[3] += 1e-4;
    module.edit().edit("first.bias", edit).unwrap();
    let after = outputs(&module, &inputs);
    assert_ne!(after, before);
    assert_eq!(after, fresh(network("silu"), &module.weights(), &inputs));
    assert_eq!(log.take(), (0, 1, 1));
}

#[test]
fn a_swapped_activation_is_recompiled_and_the_engine_from_before_found_again() {
    let (module, log) = module(3);
    let inputs = inputs(3);
    let swap = |activation: &str| {
        module
            .change(|change| {
                change.define(network(activation));
                Ok(())
            })
            .unwrap();
    };
    let silu = outputs(&module, &inputs);
    log.take();
    swap("gelu_tanh");
    assert_eq!(module.state().unwrap(), State::NeedsCompile);
    let gelu_tanh = outputs(&module, &inputs);
    assert_ne!(gelu_tanh, silu);
    assert_eq!(
        gelu_tanh,
        fresh(network("gelu_tanh"), &module.weights(), &inputs)
    );
    assert_eq!(log.take(), (1, 1, 4));
    for round in 0..4 {
        let activation = ["silu", "gelu_tanh"][round % 2];
        swap(activation);
        assert_eq!(module.state().unwrap(), State::Live);
        assert_eq!(
            outputs(&module, &inputs),
            [&silu, &gelu_tanh][round % 2].clone()
        );
    }
    assert_eq!(log.take(), (0, 0, 0));
}

#[test]
fn attaching_and_detaching_costs_refits_only_ever_after() {
    let (module, log) = module(4);
    let inputs = inputs(3);
    let base = outputs(&module, &inputs);
    let lora = lora("first.weight", "style", 7, 0.5);
    log.take();
    set_loras(&module, std::slice::from_ref(&lora));
    let attached = outputs(&module, &inputs);
    assert_ne!(attached, base);
    assert_eq!(attached, fresh(network("silu"), &module.weights(), &inputs));
    set_loras(&module, &[]);
    assert_eq!(outputs(&module, &inputs), base);
    // One weight each way, and no compilation.
    assert_eq!(log.take(), (0, 2, 2));
    for _ in 0..5 {
        assert_eq!(module.state().unwrap(), State::Live);
        assert_eq!(outputs(&module, &inputs), base);
    }
    assert_eq!(log.take(), (0, 0, 0));
}

fn ones(shape: [usize; 2]) -> Parameters {
    let ones = Tensor::from_f32(shape, vec![1.0; shape.iter().product()]).unwrap();
    Parameters::builder().tensor("w", ones).build().unwrap()
}

/// Sums along an axis that is an argument, in the dtype of the input.
fn of_dtype_and_axis(given: &Given) -> Result<Graph, DefineError> {
    let (dtype, axis) = (given.dtype("x")?, given.argument("axis")?);
    let shape = ["1, 2", "3, 1"][axis as usize];
    Ok(parse(&format!(
        "graph sums {{
           param @w: {dtype}[{shape}]
           input step %x: {dtype}[3, 2]
           %0: {dtype}[{shape}] = reduce_sum %x {{axes = [{axis}]}}
           %1: {dtype}[{shape}] = mul %0, @w
           output y = %1 }}"
    ))?)
}

#[test]
fn another_dtype_of_an_input_and_another_integer_are_noticed() {
    let spy = Spy::new();
    let log = spy.log();
    let module = MutableModule::builder(Arc::new(spy), of_dtype_and_axis, ones([1, 2]))
        .argument("axis", 0)
        .most_engines(4)
        .build();
    let x = random(&[3, 2], 5);
    let call = |dtype: DType| {
        let x = Tensors::new().with("x", x.to_dtype(dtype).unwrap());
        let call = module.call(&Tensors::new(), &x).unwrap();
        let y = call.outputs.host("y").unwrap();
        (y.dtype(), y.shape().to_vec(), y.to_f32_vec().unwrap())
    };
    let values = x.to_f32_vec().unwrap();
    let column = |index: usize| values[index] + values[index + 2] + values[index + 4];
    let (dtype, shape, y) = call(DType::F32);
    assert_eq!((dtype, shape.as_slice()), (DType::F32, &[1, 2][..]));
    assert!((y[0] - column(0)).abs() < 1e-6 && (y[1] - column(1)).abs() < 1e-6);
    assert_eq!(log.take().0, 1);
    let (dtype, ..) = call(DType::BF16);
    assert_eq!((dtype, log.take().0), (DType::BF16, 1));
    // The sums are of other numbers, and the weight has another shape.
    let rows = |change: &mut tintype_refit::Change| {
        change.set_argument("axis", 1);
        *change.parameters_mut() = ones([3, 1]);
        Ok(())
    };
    module.change(rows).unwrap();
    let (_, shape, y) = call(DType::F32);
    assert_eq!(shape, [3, 1]);
    assert!((y[0] - values[0] - values[1]).abs() < 1e-6);
    assert_eq!(log.take().0, 1);
    let (dtype, ..) = call(DType::F32);
    assert_eq!((dtype, log.take()), (DType::F32, (0, 0, 0)));
}

#[test]
fn an_integer_that_does_not_fit_is_refused() {
    let backend = Arc::new(CpuBackend::new());
    let module = MutableModule::builder(backend, of_dtype_and_axis, ones([1, 2]))
        .argument("axis", 0)
        .build();
    let x = Tensors::new().with("x", random(&[3, 2], 5));
    let before = bits(&module.call(&Tensors::new(), &x).unwrap().outputs);
    let error = module.change(|change| {
        change.set_argument("axis", 1);
        Ok(())
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`w`") && error.contains("[3, 1]"), "{error}");
    let after = bits(&module.call(&Tensors::new(), &x).unwrap().outputs);
    assert_eq!(after, before);
}

#[test]
fn out_of_range_keeps_the_declared_ranges_and_adds_an_engine() {
    let spy = Spy::of_sizes();
    let log = spy.log();
    let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(6))
        .ranges(Ranges::new().axis("x", 0, 2..=16))
        .build();
    for tokens in [3, 2, 16] {
        outputs(&module, &inputs(tokens));
    }
    assert_eq!((log.take().0, module.engines()), (1, 1));
    outputs(&module, &inputs(20));
    assert_eq!((log.take().0, module.engines()), (1, 2));
    // The ranges are as they were, and so is the engine for them.
    for tokens in [5, 20, 9] {
        let inputs = inputs(tokens);
        let expected = fresh(network("silu"), &module.weights(), &inputs);
        assert_eq!(outputs(&module, &inputs), expected);
    }
    assert_eq!(log.take().0, 0);
}

#[test]
fn six_calls_alternating_two_shapes_build_at_most_two_engines() {
    let spy = Spy::of_sizes();
    let log = spy.log();
    let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(7)).build();
    for round in 0..6 {
        outputs(&module, &inputs([4, 9][round % 2]));
    }
    assert_eq!(log.take().0, 2);
    assert_eq!(module.engines(), 2);
}

#[test]
fn what_was_not_changed_is_not_refitted() {
    let (module, log) = module(8);
    let inputs = inputs(3);
    let before = outputs(&module, &inputs);
    log.take();
    // Nothing at all.
    module.change(|_| Ok(())).unwrap();
    drop(module.edit());
    assert_eq!(outputs(&module, &inputs), before);
    // Written, with what is there.
    let same = module.weights().parameters.get("gain").unwrap();
    module.edit().set("gain", same).unwrap();
    let call = module.call(&inputs.request, &inputs.step).unwrap();
    assert_eq!(bits(&call.outputs), before);
    assert!(
        call.report
            .to_string()
            .contains("written with what was there: `gain`")
    );
    assert_eq!(log.take(), (0, 0, 0));
    // All of a file written, of which one tensor differs.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.safetensors");
    let mut new = module.weights().parameters;
    new.edit("first.bias", |values| values[0] = 3.0).unwrap();
    save(&new, &path);
    let replaced = module
        .edit()
        .replace_from(&path, ChangeOptions::default())
        .unwrap();
    assert_eq!(replaced.changed.len(), 5);
    assert_ne!(outputs(&module, &inputs), before);
    assert_eq!(log.take(), (0, 1, 1));
}

#[test]
fn a_new_file_gives_new_outputs() {
    let (module, log) = module(9);
    let inputs = inputs(5);
    outputs(&module, &inputs);
    log.take();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.safetensors");
    let new = parameters(10);
    save(&new, &path);
    module
        .change(|change| {
            change
                .parameters_mut()
                .replace_from(&path, ChangeOptions::default())?;
            Ok(())
        })
        .unwrap();
    let expected = fresh(network("silu"), &tintype_refit::Weights::new(new), &inputs);
    assert_eq!(outputs(&module, &inputs), expected);
    assert_eq!(log.take(), (0, 1, 4));
}

/// A safetensors file of f32 tensors.
fn save(parameters: &Parameters, path: &std::path::Path) {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for name in parameters.names() {
        let tensor = parameters.get(name).unwrap();
        let start = data.len();
        data.extend_from_slice(tensor.bytes());
        let (shape, end) = (tensor.shape(), data.len());
        header.push(format!(
            r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [length.as_slice(), header.as_bytes(), &data].concat();
    std::fs::write(path, bytes).unwrap();
}

/// As many layers wide as the parameter that it is given.
fn as_wide_as_its_weight(given: &Given) -> Result<Graph, DefineError> {
    let shape = given.parameters.shape("w")?;
    let (rows, columns) = (shape[0], shape[1]);
    Ok(parse(&format!(
        "graph wide {{
           param @w: f32[{rows}, {columns}]
           input step %x: f32[2, {columns}]
           %0: f32[2, {rows}] = linear %x, @w
           output y = %0 }}"
    ))?)
}

#[test]
fn a_layer_of_another_shape_is_recompiled() {
    let spy = Spy::new();
    let log = spy.log();
    let weights = |rows, seed| {
        let w = random(&[rows, 4], seed);
        Parameters::builder().tensor("w", w).build().unwrap()
    };
    let module = MutableModule::builder(Arc::new(spy), as_wide_as_its_weight, weights(3, 1));
    let module = module.build();
    let inputs = Inputs {
        request: Tensors::new(),
        step: Tensors::new().with("x", random(&[2, 4], 2)),
    };
    outputs(&module, &inputs);
    for (rows, seed, compilations) in [(5, 3, 1), (5, 4, 0), (3, 5, 0)] {
        log.take();
        module
            .change(|change| {
                *change.parameters_mut() = weights(rows, seed);
                Ok(())
            })
            .unwrap();
        let found = outputs(&module, &inputs);
        let expected = fresh(as_wide_as_its_weight, &module.weights(), &inputs);
        assert_eq!(found, expected);
        assert_eq!(log.take().0, compilations, "{rows} rows");
    }
}

/// What a definition sees of a call is what it may depend on.
#[test]
fn a_definition_is_asked_again_only_when_what_it_is_given_changes() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    fn counted() -> impl Define {
        |_: &Given| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            Ok(network("silu"))
        }
    }
    let backend = Arc::new(CpuBackend::new());
    let module = MutableModule::builder(backend, counted(), parameters(1)).build();
    let inputs = inputs(2);
    for _ in 0..3 {
        outputs(&module, &inputs);
        // Values alone.
        module.edit().edit("gain", |gain| gain[0] += 1.0).unwrap();
    }
    outputs(&module, &inputs);
    assert_eq!(ASKED.load(Ordering::SeqCst), 1);
    module
        .change(|change| {
            change.set_argument("unused", 1);
            Ok(())
        })
        .unwrap();
    outputs(&module, &inputs);
    assert_eq!(ASKED.load(Ordering::SeqCst), 2);
}
