//! Random changes against a module that is made anew from what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tintype_backend::Backend;
use tintype_ir::{Overlay, StagedGraph};
use tintype_refit::{Error, MutableModule, Ranges, Weights};

use crate::backend::{Fault, Log, Spy};
use crate::network::{
    Bits, Inputs, Lora, SHAPES, bits, fresh, inputs, lora, network, outputs, parameters, random,
    set_loras,
};

/// Something that may happen to a module.
#[derive(Debug, Clone)]
enum Step {
    Set {
        parameter: usize,
        seed: u64,
    },
    Edit {
        parameter: usize,
        index: usize,
    },
    /// What was there, written again.
    Equal {
        parameter: usize,
    },
    Attach {
        parameter: usize,
        name: usize,
        seed: u64,
    },
    Scale {
        name: usize,
        scale: f32,
    },
    Detach {
        name: usize,
    },
    /// The last overlay first.
    Reverse,
    Define {
        activation: usize,
    },
    /// All of it from another file.
    Replace {
        seed: u64,
    },
    Fail {
        fault: usize,
        after: usize,
    },
    Call {
        tokens: usize,
    },
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const MATRICES: [&str; 3] = ["first.weight", "second.weight", "third.weight"];
const ACTIVATIONS: [&str; 3] = ["silu", "gelu_tanh", "tanh"];
const FAULTS: [Fault; 3] = [Fault::Compile, Fault::Refit, Fault::Poison];

fn step() -> impl Strategy<Value = Step> {
    let (parameter, name) = (0..SHAPES.len(), 0..NAMES.len());
    prop_oneof![
        3 => (parameter.clone(), 0..50u64).prop_map(|(parameter, seed)| Step::Set { parameter, seed }),
        2 => (parameter.clone(), 0..4usize)
            .prop_map(|(parameter, index)| Step::Edit { parameter, index }),
        1 => parameter.prop_map(|parameter| Step::Equal { parameter }),
        3 => (0..MATRICES.len(), name.clone(), 0..50u64)
            .prop_map(|(parameter, name, seed)| Step::Attach { parameter, name, seed }),
        2 => (name.clone(), -1.0..1.0f32).prop_map(|(name, scale)| Step::Scale { name, scale }),
        2 => name.prop_map(|name| Step::Detach { name }),
        1 => Just(Step::Reverse),
        1 => (0..ACTIVATIONS.len()).prop_map(|activation| Step::Define { activation }),
        1 => (0..50u64).prop_map(|seed| Step::Replace { seed }),
        1 => (0..FAULTS.len(), 0..3usize).prop_map(|(fault, after)| Step::Fail { fault, after }),
        6 => (1..9usize).prop_map(|tokens| Step::Call { tokens: tokens * 5 }),
    ]
}

/// The module, and what should be of it.
struct Model {
    module: MutableModule,
    log: Arc<Log>,
    wanted: State,
    /// What ran last.
    ran: Option<State>,
    /// What the engine of each graph had last, if that is known and there is one for each.
    had: Option<BTreeMap<usize, Weights>>,
    may_fail: bool,
}

#[derive(Clone)]
struct State {
    activation: usize,
    weights: Weights,
    loras: Vec<(usize, Lora)>,
}

impl Model {
    fn new(spy: Spy, seed: u64) -> Self {
        let log = spy.log();
        let had = (!spy.capabilities().compiles_sizes).then(BTreeMap::new);
        let weights = Weights::new(parameters(seed));
        let parameters = weights.parameters.clone();
        let module = MutableModule::builder(Arc::new(spy), network(ACTIVATIONS[0]), parameters)
            .ranges(Ranges::new().symbol("tokens", 10..=30))
            .most_engines(3);
        Self {
            module: module.build(),
            log,
            wanted: State {
                activation: 0,
                weights,
                loras: Vec::new(),
            },
            ran: None,
            had,
            may_fail: false,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Set { parameter, seed } => {
                let (name, shape) = SHAPES[parameter];
                let tensor = random(shape, seed);
                self.module.edit().set(name, tensor).unwrap();
            }
            Step::Edit { parameter, index } => {
                let edit = |values: &mut [f32]| values[index] += 1e-4;
                self.module.edit().edit(SHAPES[parameter].0, edit).unwrap();
            }
            Step::Equal { parameter } => {
                let name = SHAPES[parameter].0;
                let tensor = self.module.weights().parameters.get(name).unwrap();
                self.module.edit().set(name, tensor).unwrap();
            }
            Step::Attach {
                parameter,
                name,
                seed,
            } => {
                let lora = lora(MATRICES[parameter], NAMES[name], seed, 0.3);
                self.wanted.loras.retain(|(other, _)| *other != name);
                self.wanted.loras.push((name, lora));
                self.set_loras();
            }
            Step::Scale { name, scale } => {
                let scale = tintype_tensor::Tensor::from_f32([1], vec![scale]).unwrap();
                for (other, lora) in &mut self.wanted.loras {
                    if *other == name {
                        let name = format!("{}.scale", NAMES[name]);
                        lora.own.set(&name, scale.clone()).unwrap();
                    }
                }
                self.set_loras();
            }
            Step::Detach { name } => {
                self.wanted.loras.retain(|(other, _)| *other != name);
                self.set_loras();
            }
            Step::Reverse => {
                self.wanted.loras.reverse();
                self.set_loras();
            }
            Step::Define { activation } => {
                self.wanted.activation = activation;
                let define = |change: &mut tintype_refit::Change| {
                    change.define(network(ACTIVATIONS[activation]));
                    Ok(())
                };
                self.module.change(define).unwrap();
            }
            Step::Replace { seed } => {
                let options = tintype_weights::ChangeOptions::default();
                let mut edit = self.module.edit();
                edit.replace_with(&parameters(seed), options).unwrap();
            }
            Step::Fail { fault, after } => {
                self.log.fail(FAULTS[fault], after);
                self.may_fail = true;
            }
            Step::Call { tokens } => self.call(&inputs(tokens)),
        }
        self.wanted.weights = self.module.weights();
    }

    fn set_loras(&self) {
        let loras = self.wanted.loras.iter().map(|(_, lora)| lora.clone());
        set_loras(&self.module, &loras.collect::<Vec<_>>());
    }

    fn call(&mut self, inputs: &Inputs) {
        self.log.take();
        match self.module.call(&inputs.request, &inputs.step) {
            Ok(call) => {
                assert_eq!(bits(&call.outputs), self.expected(inputs));
                let (compilations, refits, weights) = self.log.take();
                assert_eq!(call.report.compilations(), compilations);
                assert_eq!(call.report.refits().count(), refits);
                assert_eq!(call.report.weights(), weights);
                assert!(refits <= 1 && compilations <= refits);
                self.expect_no_more_than_needed(compilations, weights);
                self.ran = Some(self.wanted.clone());
            }
            Err(error) => {
                assert!(std::mem::take(&mut self.may_fail), "{error}");
                // What the engine has may be to be brought as a whole.
                self.had = None;
                // Taken back, or wanted still: nothing between.
                if matches!(error, Error::Refused { .. }) {
                    self.wanted = self.ran.clone().unwrap();
                    assert_eq!(outputs(&self.module, inputs), self.expected(inputs));
                }
            }
        }
        assert!(self.module.engines() <= 3);
        assert_eq!(self.log.executables(), self.module.engines());
    }

    fn expected(&self, inputs: &Inputs) -> Bits {
        let graph = network(ACTIVATIONS[self.wanted.activation]);
        fresh(graph, &self.wanted.weights, inputs)
    }

    /// Weights were computed that what differs reaches, all of them and no others.
    fn expect_no_more_than_needed(&mut self, compilations: usize, weights: usize) {
        let Some(had) = &mut self.had else {
            return;
        };
        let wanted = self.wanted.weights.clone();
        match had.insert(self.wanted.activation, wanted.clone()) {
            None => assert_eq!((compilations, weights), (1, 4)),
            Some(had) => assert_eq!((compilations, weights), (0, reached(&had, &wanted))),
        }
    }
}

/// How many weights another content reaches, with overlays or without.
fn reached(had: &Weights, wanted: &Weights) -> usize {
    let names: BTreeSet<String> = [
        (&had.parameters, &wanted.parameters),
        (&had.own, &wanted.own),
    ]
    .into_iter()
    .flat_map(|(had, wanted)| {
        let changes = wanted.content_changes_from(had).unwrap();
        changes.names().map(str::to_owned).collect::<Vec<_>>()
    })
    .chain(MATRICES.map(str::to_owned).into_iter().filter(|name| {
        let on = |weights: &Weights| -> Vec<Overlay> {
            let overlays = weights.overlays.iter();
            let on = overlays.filter(|overlay| overlay.parameter() == name);
            on.cloned().collect()
        };
        on(had) != on(wanted)
    }))
    .collect();
    let names = names.iter().map(String::as_str).collect();
    let program = StagedGraph::split(&network("silu")).unwrap().weight;
    let overlaid = Overlay::attach(&program, &wanted.overlays).unwrap();
    let reached =
        [&program, &overlaid].map(|program| StagedGraph::reached_weights(program, &names));
    reached.concat().into_iter().collect::<BTreeSet<_>>().len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn after_any_changes_outputs_are_those_of_a_fresh_module(
        compiles_sizes: bool,
        seed in 0..1000u64,
        steps in proptest::collection::vec(step(), 1..24),
    ) {
        let spy = if compiles_sizes { Spy::of_sizes() } else { Spy::new() };
        let mut model = Model::new(spy, seed);
        for step in &steps {
            model.take(step);
        }
        model.call(&inputs(20));
        if model.may_fail || model.ran.is_none() {
            model.call(&inputs(20));
        }
    }
}
