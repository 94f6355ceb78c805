//! What a module says of itself: states, and the report of each call.

use std::collections::BTreeSet;
use std::sync::Arc;

use tintype_backend::Tensors;
use tintype_cpu::CpuBackend;
use tintype_refit::{Change, Done, MutableModule, Noticed, Report, Signature, State};
use tintype_weights::Parameters;

use crate::network::{
    Inputs, fresh, inputs, lora, module, network, outputs, parameters, random, set_loras,
};

fn report(module: &MutableModule, inputs: &Inputs) -> Report {
    let report = module.call(&inputs.request, &inputs.step).unwrap().report;
    assert!(report.check + report.waited <= report.duration);
    report
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn states_tell_what_the_next_call_does() {
    let (module, _) = module(1);
    let inputs = inputs(2);
    let state = || module.state().unwrap();
    assert_eq!(state(), State::NeedsCompile);
    assert!(module.apply().unwrap().done.is_empty());
    outputs(&module, &inputs);
    assert_eq!(state(), State::Live);
    module.edit().edit("gain", |gain| gain[0] += 1.0).unwrap();
    assert_eq!(state(), State::NeedsRefit);
    let applied = module.apply().unwrap();
    assert_eq!((applied.weights(), applied.compilations()), (2, 0));
    assert_eq!(state(), State::Live);
    assert!(report(&module, &inputs).done.is_empty());
    set_loras(&module, &[lora("first.weight", "a", 3, 1.0)]);
    assert_eq!(state(), State::NeedsRefit);
    set_loras(&module, &[]);
    // Changed and changed back before anybody saw it.
    assert_eq!(state(), State::Live);
    let define = |change: &mut Change| {
        change.define(network("gelu_erf"));
        Ok(())
    };
    module.change(define).unwrap();
    assert_eq!(state(), State::NeedsCompile);
    assert_eq!(module.apply().unwrap().compilations(), 1);
    assert_eq!(state(), State::Live);
}

#[test]
fn the_first_call_says_what_it_compiled() {
    let (module, _) = module(2);
    let first = report(&module, &inputs(2));
    assert_eq!(first.noticed, [Noticed::FirstCall]);
    let [Done::Compiled { ranges, .. }, Done::Refitted(refit)] = first.done.as_slice() else {
        panic!("{first:?}");
    };
    assert_eq!(ranges, "tokens = 1..=64");
    assert_eq!(
        (refit.weights, refit.bytes, refit.moved),
        (4, 4 * (128 + 16 + 256 + 64), 0)
    );
    let text = first.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0], "noticed: nothing is compiled yet");
    assert!(lines[1].starts_with("done: compiled for tokens = 1..=64 in "));
    assert!(lines[2].starts_with("done: refitted 4 weights of 1856 bytes, 0 moved, in "));
    assert!(lines[3].starts_with("checked in ") && lines[3].ends_with(" ms in all"));
    // Other sizes of one engine are nothing new.
    let second = report(&module, &inputs(7));
    assert!(second.noticed.is_empty() && second.done.is_empty());
}

#[test]
fn each_kind_of_change_is_named() {
    let (module, _) = module(3);
    let inputs = inputs(2);
    report(&module, &inputs);
    module.edit().set("gain", random(&[16], 9)).unwrap();
    let same = module.weights().parameters.get("first.bias").unwrap();
    module.edit().set("first.bias", same).unwrap();
    set_loras(&module, &[lora("first.weight", "a", 3, 1.0)]);
    let found = report(&module, &inputs);
    let [
        Noticed::Parameters(changes),
        Noticed::Equal(equal),
        Noticed::Overlays { parameters },
    ] = found.noticed.as_slice()
    else {
        panic!("{found:?}");
    };
    assert_eq!(changes.changed, names(&["gain"]));
    assert_eq!(changes.added, names(&["a.up", "a.down", "a.scale"]));
    assert_eq!(*equal, names(&["first.bias"]));
    assert_eq!(*parameters, names(&["first.weight"]));
    let text = found.to_string();
    let lines: Vec<&str> = text.lines().collect();
    let added = "`gain`, `a.down`, `a.scale` and 1 more";
    assert_eq!(lines[0], format!("noticed: other parameters: {added}"));
    assert_eq!(
        lines[1],
        "noticed: written with what was there: `first.bias`"
    );
    assert_eq!(lines[2], "noticed: other overlays on `first.weight`");
    // Both weights that the gain is a part of, and that with the overlay.
    assert_eq!(found.weights(), 3);
    assert_eq!(found.refits().count(), 1);
    let hash = |report: &Report| match report.noticed.as_slice() {
        [Noticed::Structure { from, to }] => (*from, *to),
        other => panic!("{other:?}"),
    };
    let define = |activation: &'static str| {
        let define = |change: &mut Change| {
            change.define(network(activation));
            Ok(())
        };
        module.change(define).unwrap();
        report(&module, &inputs)
    };
    let there = define("tanh");
    assert_eq!(
        hash(&there),
        (network("silu").hash(), network("tanh").hash())
    );
    assert_eq!(there.compilations(), 1);
    // Back, where there is an engine: also a structure that was noticed.
    let back = define("silu");
    assert_eq!(hash(&back), (hash(&there).1, hash(&there).0));
    assert_eq!(back.done, [Done::Switched]);
}

#[test]
fn a_change_of_several_parts_is_one() {
    let (module, log) = module(4);
    let inputs = inputs(2);
    outputs(&module, &inputs);
    log.take();
    let change = |change: &mut Change| {
        change.parameters_mut().set("gain", random(&[16], 8))?;
        change.define(network("tanh"));
        assert!(change.arguments().is_empty());
        crate::network::attach(change, &[lora("third.weight", "a", 3, 1.0)]);
        Ok(change.parameters().len())
    };
    assert_eq!(module.change(change).unwrap(), 5);
    let expected = fresh(network("tanh"), &module.weights(), &inputs);
    assert_eq!(outputs(&module, &inputs), expected);
    assert_eq!(log.take(), (1, 1, 4));
}

/// What a change returns is lost with it if it fails.
#[test]
fn a_change_that_gives_up_changes_nothing() {
    let (module, _) = module(5);
    let inputs = inputs(2);
    let before = outputs(&module, &inputs);
    let change = |change: &mut Change| {
        change.parameters_mut().set("gain", random(&[16], 8))?;
        change.parameters_mut().set("nothing", random(&[16], 8))?;
        Ok(())
    };
    let error = module.change(change).unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
    assert_eq!(module.state().unwrap(), State::Live);
    assert_eq!(outputs(&module, &inputs), before);
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let (module, log) = module(6);
    let inputs = inputs(2);
    let before = outputs(&module, &inputs);
    log.take();
    let wrong = [
        (Tensors::new().with("x", random(&[2, 9], 1)), "`x`"),
        (Tensors::new().with("z", random(&[2, 8], 1)), "`z`"),
        (Tensors::new().with("x", random(&[65, 8], 1)), "65"),
        (Tensors::new(), "`tokens`"),
    ];
    for (step, part) in wrong {
        let error = module.call(&inputs.request, &step).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let signature = Signature::of(&inputs.step);
    // Without the request's inputs a picture begins, and says what is missing when it needs it.
    let mut picture = module.picture(&signature).unwrap();
    let error = picture.prepare(&Tensors::new()).err().unwrap().to_string();
    assert_eq!(error, "input `shift` is missing");
    drop(picture);
    assert_eq!(outputs(&module, &inputs), before);
    assert_eq!(log.take(), (0, 0, 0));
}

/// As text encoders are.
#[test]
fn a_graph_without_steps_is_a_request() {
    let text = "graph encoder { dim n = 1..=8 param @w: f32[3] input request %x: f32[n, 3]
                %0: f32[n, 3] = mul %x, @w %1: f32[n, 3] = neg %0
                output y = %0 output z = %1 }";
    let graph = tintype_ir::parse(text).unwrap();
    let weights = Parameters::builder().tensor("w", random(&[3], 1));
    let backend = Arc::new(CpuBackend::new());
    let module = MutableModule::builder(backend, graph.clone(), weights.build().unwrap()).build();
    let inputs = Inputs {
        request: Tensors::new().with("x", random(&[2, 3], 2)),
        step: Tensors::new(),
    };
    let before = outputs(&module, &inputs);
    assert_eq!(before.len(), 2);
    let picture = module.picture(&Signature::of(&inputs.request)).unwrap();
    assert!(!picture.has_steps());
    drop(picture);
    module.edit().set("w", random(&[3], 3)).unwrap();
    let after = outputs(&module, &inputs);
    assert!(after[0] != before[0] && after[1] != before[1]);
    assert_eq!(after, fresh(graph, &module.weights(), &inputs));
}

#[test]
fn parameters_and_their_weights_are_values() {
    let before = parameters(7);
    let (module, _) = module(7);
    let held = module.weights();
    module.edit().edit("gain", |gain| gain.fill(0.0)).unwrap();
    let gain = |parameters: &Parameters| parameters.get("gain").unwrap();
    assert_eq!(gain(&held.parameters).bytes(), gain(&before).bytes());
    assert_ne!(
        gain(&module.weights().parameters).bytes(),
        gain(&before).bytes()
    );
}
