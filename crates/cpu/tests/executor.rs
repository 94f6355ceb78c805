//! Staged execution, request states and inputs. Refits are in `refit.rs`.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod support;

use support::{bits, compile, compiled, inputs, parameters, random_graph, run_whole, tensor};
use tintype_backend::{Changes, Error, Tensors};
use tintype_ir::{Binding, Stage, parse};
use tintype_tensor::{DType, Tensor, relative_error};
use tintype_weights::Parameters;

#[test]
fn staged_execution_equals_whole_execution_at_every_size() {
    for seed in 0..40 {
        let graph = random_graph(seed, DType::F32);
        let parameters = parameters(&graph, seed);
        let executable = compile(&graph);
        executable.refit(&Changes::all(&parameters)).unwrap();
        let mut session = executable.session().unwrap();
        for batch in [1, 7, 16, 3] {
            let mut binding = Binding::new();
            binding.set("batch", batch);
            let at = |stage| inputs(&graph, stage, &binding, seed);
            let whole = run_whole(&graph, &parameters, &at(None));
            let state = session
                .prepare(&at(Some(Stage::Request)).into_iter().collect())
                .unwrap();
            let step_inputs = at(Some(Stage::Step)).into_iter().collect();
            let mut staged = session.step(state.as_ref(), &step_inputs).unwrap();
            for (name, tensor) in state.outputs().iter() {
                staged.insert(name, tensor.clone());
            }
            for (name, expected) in whole.iter() {
                let expected = expected.to_host().unwrap().to_f32_vec().unwrap();
                let found = staged.host(name).unwrap().to_f32_vec().unwrap();
                let error = relative_error(&found, &expected);
                assert!(error < 1e-5, "{name} of\n{graph}with {batch}: {error:e}");
            }
            assert_eq!(staged.iter().count(), whole.iter().count());
        }
    }
}

#[test]
fn the_same_inputs_give_the_same_bits() {
    let graph = random_graph(5, DType::BF16);
    let executable = compile(&graph);
    executable
        .refit(&Changes::all(&parameters(&graph, 1)))
        .unwrap();
    let mut binding = Binding::new();
    binding.set("batch", 5);
    let request: Tensors = inputs(&graph, Some(Stage::Request), &binding, 1)
        .into_iter()
        .collect();
    let step: Tensors = inputs(&graph, Some(Stage::Step), &binding, 1)
        .into_iter()
        .collect();
    let mut first = executable.session().unwrap();
    let mut second = executable.session().unwrap();
    let state = first.prepare(&request).unwrap();
    let once = bits(&first.step(state.as_ref(), &step).unwrap());
    assert_eq!(once, bits(&first.step(state.as_ref(), &step).unwrap()));
    // A state serves every session of its executable.
    assert_eq!(once, bits(&second.step(state.as_ref(), &step).unwrap()));
}

const SUM: &str = r#"
graph "sum" {
  dim n = 1..=8
  param @w: f32[4]
  input request %r: f32[n, 4]
  input step %x: f32[n, 4]
  %0: f32[n, 4] = mul %r, @w
  %1: f32[n, 4] = add %0, %x
  output y = %1
  output scaled = %0
}"#;

fn weights() -> Parameters {
    let w = tensor(DType::F32, [4], 7);
    Parameters::builder().tensor("w", w).build().unwrap()
}

fn one(name: &str, tensor: Tensor) -> Tensors {
    Tensors::new().with(name, tensor)
}

#[test]
fn several_request_states_are_used_in_turn() {
    let executable = compiled(SUM, &weights());
    let mut session = executable.session().unwrap();
    let x = one("x", tensor(DType::F32, [2, 4], 3));
    let mut states = Vec::new();
    for seed in [1, 2] {
        states.push(
            session
                .prepare(&one("r", tensor(DType::F32, [2, 4], seed)))
                .unwrap(),
        );
    }
    let mut results = Vec::new();
    for index in [0, 1, 0, 1] {
        results.push(bits(&session.step(states[index].as_ref(), &x).unwrap()));
    }
    assert_ne!(results[0], results[1]);
    assert_eq!(results[..2], results[2..]);
    assert_eq!(bits(states[0].outputs())[0].0, "scaled");
}

#[test]
fn a_state_of_another_executable_is_refused() {
    let (ours, theirs) = (compiled(SUM, &weights()), compiled(SUM, &weights()));
    let r = one("r", tensor(DType::F32, [2, 4], 1));
    let state = theirs.session().unwrap().prepare(&r).unwrap();
    let mut session = ours.session().unwrap();
    let result = session.step(state.as_ref(), &one("x", tensor(DType::F32, [2, 4], 1)));
    assert!(matches!(result, Err(Error::ForeignState)));
}

#[test]
fn nothing_runs_without_weights() {
    let executable = compile(&parse(SUM).unwrap());
    let mut session = executable.session().unwrap();
    let error = session
        .prepare(&one("r", tensor(DType::F32, [2, 4], 1)))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "graph `sum` has no weights yet: refit it first"
    );
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let executable = compiled(SUM, &weights());
    let mut session = executable.session().unwrap();
    let state = session
        .prepare(&one("r", tensor(DType::F32, [2, 4], 1)))
        .unwrap();
    let mut prepare = |inputs: &Tensors| session.prepare(inputs).err().unwrap().to_string();
    let cases = [
        (Tensors::new(), "input `r` is missing"),
        (
            one("q", tensor(DType::F32, [2, 4], 1)),
            "`q`: expected one of the request inputs r, found no such input",
        ),
        (
            one("x", tensor(DType::F32, [2, 4], 1)),
            "`x`: expected one of the request inputs r, found no such input",
        ),
        (
            one("r", tensor(DType::BF16, [2, 4], 1)),
            "`r`: expected f32[n, 4], found bf16[2, 4]",
        ),
        (
            one("r", tensor(DType::F32, [2, 5], 1)),
            "`r`: expected f32[n, 4], found f32[2, 5]",
        ),
        (
            one("r", tensor(DType::F32, [4], 1)),
            "`r`: expected f32[n, 4], found f32[4]",
        ),
        (
            one("r", Tensor::scalar(1.0f32)),
            "`r`: expected f32[n, 4], found f32[]",
        ),
        (
            one("r", tensor(DType::F32, [9, 4], 1)),
            "`r`: dimension `n` must lie in 1..=8, found 9",
        ),
        (
            one("r", tensor(DType::F32, [0, 4], 1)),
            "`r`: dimension `n` must lie in 1..=8, found 0",
        ),
    ];
    for (inputs, expected) in cases {
        assert_eq!(prepare(&inputs), expected);
    }
    let wrong = session.step(state.as_ref(), &one("x", tensor(DType::F32, [3, 4], 1)));
    assert_eq!(
        wrong.err().unwrap().to_string(),
        "`x`: dimension `n` is 2 already, found 3"
    );
    let missing = session.step(state.as_ref(), &Tensors::new());
    assert_eq!(missing.err().unwrap().to_string(), "input `x` is missing");
    // The session and the state are as good as before.
    let x = one("x", tensor(DType::F32, [2, 4], 1));
    assert!(session.step(state.as_ref(), &x).is_ok());
}

/// The size of `r` follows from a symbol that only the step binds: it used to reach the
/// kernels unchecked.
#[test]
fn a_request_input_is_checked_against_symbols_of_the_step() {
    let text = r#"
graph "late" {
  dim n = 1..=8
  input request %r: f32[2*n]
  input step %x: f32[n]
  %0: f32[2*n] = concat %x, %x {axis = 0}
  %1: f32[2*n] = add %0, %r
  output y = %1
}"#;
    let executable = compiled(text, &Parameters::default());
    let mut session = executable.session().unwrap();
    let state = session
        .prepare(&one("r", tensor(DType::F32, [6], 1)))
        .unwrap();
    assert!(
        session
            .step(state.as_ref(), &one("x", tensor(DType::F32, [3], 1)))
            .is_ok()
    );
    let error = session.step(state.as_ref(), &one("x", tensor(DType::F32, [2], 1)));
    assert_eq!(
        error.err().unwrap().to_string(),
        "`r`: expected f32[2*n], found f32[6]"
    );
}

#[test]
fn a_graph_without_step_inputs_has_all_its_outputs_after_prepare() {
    let text = r#"
graph "once" {
  param @w: f32[2]
  input request %r: f32[2]
  %0: f32[2] = add %r, @w
  output y = %0
  output w = @w
}"#;
    let w = Tensor::from_f32([2], vec![1.0, 2.0]).unwrap();
    let executable = compiled(text, &Parameters::builder().tensor("w", w).build().unwrap());
    let mut session = executable.session().unwrap();
    let r = Tensor::from_f32([2], vec![0.5, 0.5]).unwrap();
    let state = session.prepare(&one("r", r)).unwrap();
    assert_eq!(
        state.outputs().host("y").unwrap().to_f32_vec().unwrap(),
        [1.5, 2.5]
    );
    assert_eq!(
        state.outputs().host("w").unwrap().to_f32_vec().unwrap(),
        [1.0, 2.0]
    );
    assert_eq!(
        session
            .step(state.as_ref(), &Tensors::new())
            .unwrap()
            .iter()
            .count(),
        0
    );
}

#[test]
fn a_graph_that_does_not_verify_is_refused() {
    let text =
        "graph \"wrong\" {\n  input step %x: f32[2]\n  %0: f32[3] = neg %x\n  output y = %0\n}";
    let x = [("x", tensor(DType::F32, [2], 1))];
    let error = tintype_cpu::run(&parse(text).unwrap(), &Parameters::default(), &x);
    assert!(matches!(error, Err(Error::Ir(_))));
}
