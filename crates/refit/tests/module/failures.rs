//! Changes that fail: the outputs afterwards are those before, to the bit, the error says what
//! was expected and found, and the next good change works.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use tintype_ir::{Overlay, parse};
use tintype_refit::{Change, DefineError, Error, Given, MutableModule, Result, State, Weights};
use tintype_tensor::Tensor;
use tintype_weights::{ChangeOptions, Parameters};

use crate::backend::{Fault, Log, Spy};
use crate::network::{
    Bits, attach, fresh, inputs, lora, module, network, outputs, parameters, random, set_loras,
};

/// A module with a LoRA that ran once, and its outputs.
fn running(seed: u64) -> (MutableModule, Arc<Log>, Bits) {
    let (module, log) = module(seed);
    set_loras(&module, &[lora("second.weight", "worn", seed, 0.5)]);
    let bits = outputs(&module, &inputs(3));
    log.take();
    (module, log, bits)
}

/// A change that must fail, and parts of what it must say.
struct Case {
    name: &'static str,
    fails: fn(&MutableModule, &Log) -> Result<()>,
    says: &'static [&'static str],
}

fn nan(shape: &[usize]) -> Tensor {
    let mut values = random(shape, 1).to_f32_vec().unwrap();
    *values.last_mut().unwrap() = f32::NAN;
    Tensor::from_f32(shape.to_vec(), values).unwrap()
}

fn replaced(module: &MutableModule, parameters: Parameters) -> Result<()> {
    module.change(|change| {
        *change.parameters_mut() = parameters;
        Ok(())
    })
}

fn overlaid(module: &MutableModule, parameter: &str, text: &str, own: Parameters) -> Result<()> {
    let overlay = Overlay::new(parameter, parse(text)?)?;
    module.change(|change| {
        change.set_overlays([overlay], own);
        Ok(())
    })
}

/// A good change whose refit or compilation fails.
fn faulty(module: &MutableModule, log: &Log, fault: Fault) -> Result<()> {
    log.fail(fault, 0);
    module.change(|change| {
        change.parameters_mut().set("gain", random(&[16], 77))?;
        if fault == Fault::Compile {
            change.define(network("tanh"));
        }
        attach(change, &[lora("first.weight", "other", 5, 1.0)]);
        Ok(())
    })?;
    module.apply().map(drop)
}

const CASES: [Case; 24] = [
    Case {
        name: "NaN by set",
        fails: |module, _| {
            module.change(|change| {
                change.parameters_mut().set("gain", nan(&[16]))?;
                Ok(())
            })
        },
        says: &["`gain`", "expected finite values", "NaN"],
    },
    Case {
        name: "an infinity by edit, ended",
        fails: |module, _| {
            let mut edit = module.edit();
            edit.edit("gain", |gain| gain[3] = f32::INFINITY)?;
            edit.finish()
        },
        says: &["`gain`", "expected finite values", "inf"],
    },
    Case {
        name: "NaN by edit, left to the next call",
        fails: |module, _| {
            module
                .edit()
                .edit("first.weight", |values| values[0] = f32::NAN)?;
            module.apply().map(drop)
        },
        says: &["`first.weight`", "expected finite values", "NaN"],
    },
    Case {
        name: "NaN in an overlay's parameter",
        fails: |module, _| {
            let mut broken = lora("first.weight", "broken", 3, 1.0);
            broken.own.set("broken.up", nan(&[16, 2]))?;
            module.change(|change| {
                attach(change, &[broken]);
                Ok(())
            })
        },
        says: &["`broken.up`", "expected finite values", "NaN"],
    },
    Case {
        name: "an infinite scale",
        fails: |module, _| {
            let broken = lora("first.weight", "broken", 3, f32::NEG_INFINITY);
            module.change(|change| {
                attach(change, &[broken]);
                Ok(())
            })
        },
        says: &["`broken.scale`", "expected finite values", "-inf"],
    },
    Case {
        name: "another shape by set",
        fails: |module, _| {
            module.change(|change| {
                change.parameters_mut().set("gain", random(&[15], 1))?;
                Ok(())
            })
        },
        says: &["`gain`", "[16]", "[15]"],
    },
    Case {
        name: "another shape by new parameters",
        fails: |module, _| {
            let rest = module
                .weights()
                .parameters
                .renamed(|name| (name != "gain").then(|| name.to_owned()))?;
            let rest = Parameters::builder().parameters(&rest);
            replaced(module, rest.tensor("gain", random(&[1, 16], 1)).build()?)
        },
        says: &["`gain`", "[16]", "[1, 16]"],
    },
    Case {
        name: "another shape in an edit",
        fails: |module, _| {
            let rest = Parameters::builder().parameters(&module.weights().parameters);
            *module.edit() = rest.tensor("gain", random(&[17], 1)).build()?;
            module.apply().map(drop)
        },
        says: &["`gain`", "[16]", "[17]"],
    },
    Case {
        name: "integers for floats",
        fails: |module, _| {
            let integers = Tensor::new([16], vec![1i64; 16]).unwrap();
            let rest = Parameters::builder().parameters(&module.weights().parameters);
            replaced(module, rest.tensor("gain", integers).build()?)
        },
        says: &["`gain`", "expected floats", "i64"],
    },
    Case {
        name: "a parameter that is missing",
        fails: |module, _| {
            let parameters = module.weights().parameters;
            let rest = parameters.renamed(|name| (name != "gain").then(|| name.to_owned()))?;
            replaced(module, rest)
        },
        says: &["`gain`", "memory", "none among"],
    },
    Case {
        name: "no parameters at all",
        fails: |module, _| replaced(module, Parameters::default()),
        says: &["expected a tensor", "found none"],
    },
    Case {
        name: "a parameter that is unknown",
        fails: |module, _| {
            let mut edit = module.edit();
            edit.set("gains", random(&[16], 1))?;
            Ok(())
        },
        says: &["`gains`"],
    },
    Case {
        name: "an overlay on an unknown parameter",
        fails: |module, _| {
            let text = "graph o { param @base: f32[2] output weight = @base }";
            overlaid(module, "nothing", text, Parameters::default())
        },
        says: &["`nothing`", "no such parameter"],
    },
    Case {
        name: "an overlay of another width",
        fails: |module, _| {
            let text = "graph o { param @base: f32[12] output weight = @base }";
            overlaid(module, "gain", text, Parameters::default())
        },
        says: &["`gain`", "expected f32[16]", "found f32[12]"],
    },
    Case {
        name: "an overlay whose parameter is missing",
        fails: |module, _| {
            let text = "graph o { param @base: f32[16] param @more: f32[16]
                        %0: f32[16] = add @base, @more output weight = %0 }";
            overlaid(module, "gain", text, Parameters::default())
        },
        says: &["`more`"],
    },
    Case {
        name: "an overlay's parameter of another width",
        fails: |module, _| {
            let text = "graph o { param @base: f32[16] param @more: f32[16]
                        %0: f32[16] = add @base, @more output weight = %0 }";
            let own = Parameters::builder().tensor("more", random(&[4], 1));
            overlaid(module, "gain", text, own.build()?)
        },
        says: &["`more`", "[16]", "[4]"],
    },
    Case {
        name: "an overlay's parameter with a name of the network's",
        fails: |module, _| {
            let text = "graph o { param @first.bias: f32[16] output weight = @first.bias }";
            let own = Parameters::builder().tensor("first.bias", random(&[16], 1));
            overlaid(module, "gain", text, own.build()?)
        },
        says: &["`first.bias`", "expected a name of its own"],
    },
    Case {
        name: "a definition that makes no graph",
        fails: |module, _| {
            let define = |_: &Given| Err::<_, DefineError>("expected a width, found none".into());
            module.change(|change| {
                change.define(define);
                Ok(())
            })
        },
        says: &["expected a width, found none"],
    },
    Case {
        name: "a graph with other parameters",
        fails: |module, _| {
            let text = network("silu").to_string().replace("gain", "gains");
            let graph = parse(&text)?;
            module.change(|change| {
                change.define(graph);
                Ok(())
            })
        },
        says: &["`gains`"],
    },
    Case {
        name: "a file that ends early",
        fails: |module, _| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("short.safetensors");
            std::fs::write(&path, b"\x40\0\0\0\0\0\0\0{\"gain\":").unwrap();
            module.change(|change| {
                let options = ChangeOptions::default();
                change.parameters_mut().replace_from(&path, options)?;
                Ok(())
            })
        },
        says: &["short.safetensors"],
    },
    Case {
        name: "a refit for which memory is missing",
        fails: |module, log| faulty(module, log, Fault::Refit),
        says: &["no memory for weights"],
    },
    Case {
        name: "a refit that cannot go back",
        fails: |module, log| faulty(module, log, Fault::Poison),
        says: &["mixed"],
    },
    Case {
        name: "a compilation for which memory is missing",
        fails: |module, log| faulty(module, log, Fault::Compile),
        says: &["no memory for an engine"],
    },
    Case {
        name: "a change that gives up",
        fails: |module, _| {
            module.change(|change| {
                change.parameters_mut().set("gain", random(&[16], 9))?;
                change.define(network("tanh"));
                Err(Error::Define {
                    source: "expected more".into(),
                })
            })
        },
        says: &["expected more"],
    },
];

#[test]
fn a_change_that_fails_leaves_the_outputs_to_the_bit_and_says_why() {
    for (case, seed) in CASES.iter().zip(20..) {
        let (module, log, before) = running(seed);
        let weights = module.weights();
        let error = (case.fails)(&module, &log)
            .expect_err(case.name)
            .to_string();
        for part in case.says {
            assert!(error.contains(part), "{}: `{part}` in: {error}", case.name);
        }
        assert_eq!(outputs(&module, &inputs(3)), before, "{}", case.name);
        assert_eq!(module.state().unwrap(), State::Live, "{}", case.name);
        assert_eq!(
            fresh(network("silu"), &module.weights(), &inputs(3)),
            before
        );
        assert_eq!(module.weights().parameters.len(), weights.parameters.len());
        // The next good change works.
        module.edit().set("gain", random(&[16], seed)).unwrap();
        let after = outputs(&module, &inputs(3));
        assert_ne!(after, before, "{}", case.name);
        let expected = fresh(network("silu"), &module.weights(), &inputs(3));
        assert_eq!(after, expected, "{}", case.name);
    }
}

/// All of them in one module, one after another.
#[test]
fn failures_leave_no_trace_in_each_other() {
    let (module, log, before) = running(50);
    for case in &CASES {
        assert!((case.fails)(&module, &log).is_err(), "{}", case.name);
    }
    assert_eq!(outputs(&module, &inputs(3)), before);
}

#[test]
fn a_poisoned_engine_is_refitted_whole() {
    let (module, log, before) = running(51);
    faulty(&module, &log, Fault::Poison).unwrap_err();
    assert_eq!(module.state().unwrap(), State::NeedsRefit);
    log.take();
    assert_eq!(outputs(&module, &inputs(3)), before);
    assert_eq!(log.take(), (0, 1, 4));
    // And if that fails, too: what is wanted stays, until it can be brought.
    faulty(&module, &log, Fault::Poison).unwrap_err();
    log.fail(Fault::Refit, 0);
    let error = module.apply().unwrap_err().to_string();
    assert_eq!(error, "backend `spy`: no memory for weights");
    assert_eq!(outputs(&module, &inputs(3)), before);
}

#[test]
fn a_backend_that_panics_leaves_an_engine_that_is_refitted_whole() {
    let (module, log, before) = running(52);
    let panics = || faulty(&module, &log, Fault::Panic);
    assert!(std::panic::catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!(module.state().unwrap(), State::NeedsRefit);
    // What was wanted is wanted still: nobody said that it cannot be.
    let after = outputs(&module, &inputs(3));
    assert_ne!(after, before);
    assert_eq!(after, fresh(network("silu"), &module.weights(), &inputs(3)));
}

#[test]
fn an_edit_that_panics_is_none() {
    let (module, _, before) = running(53);
    let panics = || {
        let mut edit = module.edit();
        edit.set("gain", random(&[16], 1)).unwrap();
        panic!("half an edit");
    };
    assert!(std::panic::catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!(outputs(&module, &inputs(3)), before);
    module.edit().set("gain", random(&[16], 1)).unwrap();
    assert_ne!(outputs(&module, &inputs(3)), before);
}

/// An edit that is refused takes nothing of the good change before it.
#[test]
fn what_was_good_stays() {
    let (module, _, before) = running(54);
    module.edit().set("gain", random(&[16], 2)).unwrap();
    module
        .edit()
        .edit("first.bias", |bias| bias[0] = f32::NAN)
        .unwrap();
    let inputs = inputs(3);
    let error = module.call(&inputs.request, &inputs.step).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let after = outputs(&module, &inputs);
    assert_ne!(after, before);
    assert_eq!(after, fresh(network("silu"), &module.weights(), &inputs));
}

/// Where nothing ran yet there is nothing to go back to: what is wanted stays wanted.
#[test]
fn a_first_refit_that_fails_is_tried_again() {
    for fault in [Fault::Compile, Fault::Refit, Fault::Poison] {
        let (module, log) = module(55);
        set_loras(&module, &[lora("first.weight", "a", 1, 1.0)]);
        log.fail(fault, 0);
        let inputs = inputs(3);
        let error = module.call(&inputs.request, &inputs.step).unwrap_err();
        assert!(matches!(error, Error::Backend(_)), "{error}");
        assert_eq!(module.engines(), 0);
        assert_eq!(log.executables(), 0);
        let found = outputs(&module, &inputs);
        assert_eq!(found, fresh(network("silu"), &module.weights(), &inputs));
        assert_eq!(module.weights().overlays.len(), 1);
    }
}

/// Before the first call a graph is known already, and so is what does not fit it. A definition
/// that is a function is asked when inputs are known.
#[test]
fn what_does_not_fit_a_graph_is_refused_before_the_first_call() {
    let (module, log) = module(56);
    for case in &CASES {
        let needs_a_call = ["memory", "go back", "makes no graph"];
        if !needs_a_call.iter().any(|part| case.name.contains(part)) {
            let error = (case.fails)(&module, &log);
            let error = error.expect_err(case.name).to_string();
            assert!(error.contains(case.says[0]), "{}: {error}", case.name);
        }
    }
    let weights = Weights::new(parameters(56));
    let expected = fresh(network("silu"), &weights, &inputs(3));
    assert_eq!(outputs(&module, &inputs(3)), expected);
}

/// The second engine cannot be refitted: the first one, and what is wanted, stay.
#[test]
fn a_failure_for_other_sizes_takes_back_only_what_never_ran() {
    let spy = Spy::of_sizes();
    let log = spy.log();
    let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(57)).build();
    let (small, large) = (inputs(2), inputs(50));
    outputs(&module, &small);
    outputs(&module, &large);
    module.edit().set("gain", random(&[16], 3)).unwrap();
    let after = outputs(&module, &small);
    log.fail(Fault::Refit, 0);
    let error = module.call(&large.request, &large.step).unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error}");
    assert_eq!(outputs(&module, &small), after);
    let expected = fresh(network("silu"), &module.weights(), &large);
    assert_eq!(outputs(&module, &large), expected);
}

#[test]
fn a_change_within_a_change_of_one_thread_is_an_error() {
    let (module, _, before) = running(58);
    let within = |_: &mut Change| module.change(|_| Ok(()));
    let error = module.change(within).unwrap_err();
    assert!(matches!(error, Error::ChangeUnderWay));
    let edit = module.edit();
    let error = module.change(|_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::ChangeUnderWay));
    // Calls go on, with what was before the edit.
    assert_eq!(outputs(&module, &inputs(3)), before);
    drop(edit);
    assert!(module.change(|_| Ok(())).is_ok());
}

/// A change is made from what is wanted; if that is taken back meanwhile, so is the change.
#[test]
fn a_change_made_from_what_was_taken_back_is_refused() {
    let (module, log, before) = running(60);
    module.edit().set("gain", random(&[16], 4)).unwrap();
    let error = module.change(|change| {
        // As another thread might, just now.
        log.fail(Fault::Refit, 0);
        assert!(module.apply().is_err());
        change
            .parameters_mut()
            .set("first.bias", random(&[16], 5))?;
        Ok(())
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("was taken back"), "{error}");
    assert_eq!(outputs(&module, &inputs(3)), before);
}

/// With the check off, the numbers are the caller's business.
#[test]
fn values_that_are_not_finite_pass_if_they_shall() {
    let spy = Spy::new();
    let module = MutableModule::builder(Arc::new(spy), network("silu"), parameters(59))
        .check_finite(false)
        .build();
    outputs(&module, &inputs(3));
    module.edit().set("gain", nan(&[16])).unwrap();
    assert_eq!(module.apply().unwrap().weights(), 2);
}
