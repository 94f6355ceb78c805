//! Several sizes, several engines, and memory that the caller keeps.

use std::sync::Arc;

use tintype_backend::{DeviceMemory, DeviceTensor, Tensors};
use tintype_refit::{Done, MutableModule, Noticed, Ranges, Signature, State};
use tintype_tensor::{DType, Shape, Tensor};

use crate::backend::{Fault, Spy};
use crate::network::{bits, fresh, inputs, module, network, outputs, parameters, random};

#[test]
fn the_engine_used_longest_ago_goes() {
    let spy = Spy::of_sizes();
    let log = spy.log();
    let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(1))
        .most_engines(3)
        .build();
    for tokens in [1, 2, 3, 1] {
        outputs(&module, &inputs(tokens));
    }
    assert_eq!(
        (log.take().0, module.engines(), log.executables()),
        (3, 3, 3)
    );
    let four = inputs(4);
    let report = module.call(&four.request, &four.step).unwrap().report;
    let sizes = "tokens = 4".to_owned();
    assert_eq!(report.noticed, [Noticed::Sizes { sizes }]);
    let ranges = "tokens = 2".to_owned();
    assert!(report.done.contains(&Done::Evicted { ranges }));
    // It is gone with all that it held.
    assert_eq!((module.engines(), log.executables()), (3, 3));
    log.take();
    for tokens in [1, 3, 4] {
        outputs(&module, &inputs(tokens));
    }
    assert_eq!(log.take().0, 0);
    outputs(&module, &inputs(2));
    assert_eq!((log.take().0, log.executables()), (1, 3));
}

#[test]
fn an_engine_that_was_idle_gets_what_changed_meanwhile() {
    let spy = Spy::of_sizes();
    let log = spy.log();
    let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(2)).build();
    let (small, large) = (inputs(2), inputs(50));
    outputs(&module, &small);
    outputs(&module, &large);
    for round in 0..3 {
        module.edit().set("gain", random(&[16], round)).unwrap();
        outputs(&module, &large);
    }
    module
        .edit()
        .edit("first.bias", |bias| bias[1] = 0.5)
        .unwrap();
    log.take();
    // All three changes at once.
    assert_eq!(
        outputs(&module, &small),
        fresh(network("silu"), &module.weights(), &small)
    );
    assert_eq!(log.take(), (0, 1, 3));
    assert_eq!(
        outputs(&module, &large),
        fresh(network("silu"), &module.weights(), &large)
    );
    assert_eq!(log.take(), (0, 1, 1));
}

/// What cannot be compiled for one size is no fault of a change.
#[test]
fn sizes_that_cannot_be_compiled_take_nothing_back() {
    let spy = Spy::of_sizes();
    let log = spy.log();
    let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(3)).build();
    let (small, large) = (inputs(2), inputs(50));
    let before = outputs(&module, &small);
    module.edit().set("gain", random(&[16], 5)).unwrap();
    log.fail(Fault::Compile, 0);
    let error = module.call(&large.request, &large.step).unwrap_err();
    assert_eq!(error.to_string(), "backend `spy`: no memory for an engine");
    assert_eq!(module.engines(), 1);
    assert_eq!(module.state().unwrap(), State::NeedsRefit);
    let after = outputs(&module, &small);
    assert_ne!(after, before);
    assert_eq!(after, fresh(network("silu"), &module.weights(), &small));
}

/// A graph that cannot be compiled is.
#[test]
fn a_graph_that_cannot_be_compiled_is_taken_back_with_all_that_came_with_it() {
    let (module, log) = module(4);
    let inputs = inputs(2);
    let before = outputs(&module, &inputs);
    module
        .change(|change| {
            change.define(network("tanh"));
            change.parameters_mut().set("gain", random(&[16], 5))?;
            Ok(())
        })
        .unwrap();
    log.fail(Fault::Compile, 0);
    let error = module.apply().unwrap_err().to_string();
    assert!(error.starts_with("the change was refused"), "{error}");
    assert!(error.ends_with("no memory for an engine"), "{error}");
    assert_eq!(module.state().unwrap(), State::Live);
    assert_eq!(outputs(&module, &inputs), before);
    assert_eq!(log.take().0, 1);
}

#[test]
fn declared_ranges_are_checked_against_the_graph() {
    for spy in [Spy::new(), Spy::of_sizes()] {
        let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(5))
            .ranges(Ranges::new().symbol("tokens", 1..=65))
            .build();
        let inputs = inputs(2);
        let error = module.call(&inputs.request, &inputs.step).unwrap_err();
        let expected = "range of symbol `tokens`: expected a range within 1..=64, found 1..=65";
        assert_eq!(error.to_string(), expected);
    }
}

/// A tensor that says it is on a device.
struct Elsewhere(Tensor);

impl DeviceMemory for Elsewhere {
    fn dtype(&self) -> DType {
        self.0.dtype()
    }

    fn shape(&self) -> &Shape {
        self.0.shape()
    }

    fn device(&self) -> &'static str {
        "elsewhere:0"
    }

    fn to_host(&self) -> tintype_backend::Result<Tensor> {
        Ok(self.0.clone())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[test]
fn tensors_of_a_device_are_inputs_and_outputs_are_inputs_again() {
    let (module, _) = module(6);
    let inputs = inputs(3);
    let expected = outputs(&module, &inputs);
    let x = inputs.step.host("x").unwrap();
    let x = DeviceTensor::Device(Arc::new(Elsewhere(x)));
    let call = module.call(&inputs.request, &Tensors::new().with("x", x));
    let call = call.unwrap();
    assert_eq!(bits(&call.outputs), expected);
    let shift = call.outputs.get("factor").unwrap().clone();
    let again = module.call(&Tensors::new().with("shift", shift), &inputs.step);
    assert_ne!(bits(&again.unwrap().outputs), expected);
}

#[test]
fn a_step_into_memory_of_the_caller_gives_what_a_step_gives() {
    let (module, _) = module(7);
    let inputs = inputs(3);
    let signature = Signature::of(&inputs.request).and(&inputs.step);
    let mut picture = module.picture(&signature).unwrap();
    let state = picture.prepare(&inputs.request).unwrap();
    // Nothing there, what is there already, and something of another shape.
    let mut outputs = Tensors::new();
    for round in 0..3 {
        let x = random(&[3, 8], round);
        let step = Tensors::new().with("x", x);
        let expected = picture.step(state.as_ref(), &step).unwrap();
        picture
            .step_into(state.as_ref(), &step, &mut outputs)
            .unwrap();
        assert_eq!(bits(&outputs), bits(&expected));
        if round == 1 {
            outputs = Tensors::new()
                .with("y", random(&[1], 1))
                .with("z", random(&[1], 1));
        }
    }
    let wrong = Tensors::new().with("x", random(&[3, 9], 1));
    let error = picture.step_into(state.as_ref(), &wrong, &mut outputs);
    assert!(error.unwrap_err().to_string().contains("`x`"));
}
