//! Executables, refits, states and captured graphs on host memory, beside the graph as it reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tintype_backend::{Changes, CompileOptions, Error, Executable, RequestState, Session, Tensors};
use tintype_ir::{Evaluator, Op, Overlay, StagedGraph, TensorType, parse};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_weights::Parameters;

use super::executable::CudaExecutable;
use super::{CudaBackend, CudaOptions};
use crate::run::host::{Host, reference};

/// `first` depends on `a`, `second` on `b`, `third` is `b` itself; `r` and the first product are
/// handed to the step, which reads the row of an index.
const LAYERS: &str = r#"
graph "layers" {
  dim tokens = 1..=16
  param @a: f32[4, 4]
  param @b: f32[4, 4]
  input request %r: f32[3, tokens, 4]
  input step %x: f32[tokens, 4]
  input step %index: i64[]
  %0: f32[4, 4] = exp @a
  %1: f32[4, 4] = matmul @b, @b
  %2: f32[3, tokens, 4] = linear %r, %0  # first
  %3: f32[tokens, 4] = linear %x, %1  # second
  %4: f32[tokens, 4] = linear %x, @b  # third
  %5: f32[tokens, 4] = gather %2, %index {axis = 0}
  %6: f32[tokens, 4] = gather %r, %index {axis = 0}
  %7: f32[tokens, 4] = add %5, %3
  %8: f32[tokens, 4] = add %7, %4
  %9: f32[tokens, 4] = add %8, %6
  output y = %9
  output context = %2
}"#;

/// Memory that suffices for everything.
const LARGE: usize = 1 << 30;

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    TorchGenerator::new(seed).randn(shape).unwrap()
}

fn parameters(a: u64, b: u64) -> Parameters {
    let builder = Parameters::builder()
        .tensor("a", tensor(&[4, 4], a))
        .tensor("b", tensor(&[4, 4], b));
    builder.build().unwrap()
}

fn request(seed: u64, tokens: usize) -> Tensors {
    Tensors::new().with("r", tensor(&[3, tokens, 4], seed))
}

fn step(seed: u64, index: i64, tokens: usize) -> Tensors {
    Tensors::new()
        .with("x", tensor(&[tokens, 4], seed))
        .with("index", Tensor::scalar(index))
}

fn on_host(host: Host) -> (Arc<Host>, CudaExecutable<Host>) {
    with_options(host, &CompileOptions::default())
}

fn with_options(host: Host, options: &CompileOptions) -> (Arc<Host>, CudaExecutable<Host>) {
    let host = Arc::new(host);
    let staged = StagedGraph::split(&parse(LAYERS).unwrap()).unwrap();
    let executable = CudaExecutable::new(Arc::clone(&host), staged, Arc::new(NoEvaluator), options);
    (host, executable)
}

fn numbers(tensors: &Tensors) -> Vec<f32> {
    tensors.host("y").unwrap().to_f32_vec().unwrap()
}

/// What the graph says, stage for stage.
fn expected(
    parameters: &Parameters,
    overlays: &[Overlay],
    request: &Tensors,
    step: &Tensors,
) -> Vec<f32> {
    let graph = parse(LAYERS).unwrap();
    let graph = Overlay::attach(&graph, overlays).unwrap();
    let input = |name: &str| {
        let found = request.get(name).or_else(|| step.get(name));
        found.unwrap().to_host().unwrap()
    };
    let parameter = |name: &str| parameters.get(name).unwrap();
    reference::run(&graph, &parameter, &input)["y"]
        .to_f32_vec()
        .unwrap()
}

/// Nothing is computed by it: host memory computes weights itself.
struct NoEvaluator;

impl Evaluator for NoEvaluator {
    fn evaluate(&self, op: &Op, _: &[Tensor], _: &TensorType) -> tintype_ir::Result<Tensor> {
        unreachable!("{} is not computed", op.name())
    }
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let limit = 1e-5 * expected.abs().max(1.0);
        assert!((found - expected).abs() <= limit, "{found} {expected}");
    }
}

/// A session with a state of its own and what steps of it must give.
struct Run {
    session: Box<dyn Session>,
    state: Box<dyn RequestState>,
    parameters: Parameters,
}

impl Run {
    fn new(executable: &dyn Executable, parameters: Parameters) -> Self {
        let mut session = executable.session().unwrap();
        let state = session.prepare(&request(1, 5)).unwrap();
        Self {
            session,
            state,
            parameters,
        }
    }

    #[track_caller]
    fn check(&mut self, index: i64) {
        let inputs = step(2 + index as u64, index, 5);
        let found = self.session.step(self.state.as_ref(), &inputs).unwrap();
        let expected = expected(&self.parameters, &[], &request(1, 5), &inputs);
        assert_close(&numbers(&found), &expected);
    }
}

#[test]
fn steps_are_run_captured_and_replayed() {
    let (host, executable) = on_host(Host::new(LARGE));
    executable.refit(&Changes::all(&parameters(1, 2))).unwrap();
    let mut run = Run::new(&executable, parameters(1, 2));
    host.take_log();
    run.check(0);
    assert_eq!(host.take_log(), ["write", "enqueue"]);
    run.check(1);
    assert_eq!(host.take_log(), ["write", "capture", "launch"]);
    run.check(2);
    assert_eq!(host.take_log(), ["write", "launch"]);
    let context = run.state.outputs().host("context").unwrap();
    assert_eq!(context.shape().to_vec(), [3, 5, 4]);
}

#[test]
fn outputs_stay_while_the_next_steps_run() {
    let (_, executable) = on_host(Host::new(LARGE));
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let mut session = executable.session().unwrap();
    let state = session.prepare(&request(1, 5)).unwrap();
    let inputs: Vec<Tensors> = (0..3).map(|index| step(7, index, 5)).collect();
    let mut outputs = Vec::new();
    for inputs in &inputs {
        outputs.push(session.step(state.as_ref(), inputs).unwrap());
    }
    for (outputs, inputs) in outputs.iter().zip(&inputs) {
        let expected = expected(&weights, &[], &request(1, 5), inputs);
        assert_close(&numbers(outputs), &expected);
    }
    // Also as the next step's input, without the host.
    let again = inputs[1]
        .clone()
        .with("x", outputs[0].get("y").unwrap().clone());
    let found = session.step(state.as_ref(), &again).unwrap();
    assert_close(
        &numbers(&found),
        &expected(&weights, &[], &request(1, 5), &again),
    );
}

#[test]
fn two_states_of_one_session_take_turns() {
    let (_, executable) = on_host(Host::new(LARGE));
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let mut session = executable.session().unwrap();
    let requests = [request(1, 5), request(9, 5)];
    let states: Vec<_> = requests
        .iter()
        .map(|inputs| session.prepare(inputs).unwrap())
        .collect();
    for index in 0..3 {
        let inputs = step(3, index, 5);
        for (state, request) in states.iter().zip(&requests) {
            let found = session.step(state.as_ref(), &inputs).unwrap();
            assert_close(&numbers(&found), &expected(&weights, &[], request, &inputs));
        }
    }
}

#[test]
fn other_sizes_have_programs_of_their_own() {
    let (host, executable) = on_host(Host::new(LARGE));
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let mut session = executable.session().unwrap();
    // Larger ones move the workspace, and captured graphs with it.
    for tokens in [2, 2, 2, 16, 16, 2, 2, 16] {
        let (request, step) = (request(1, tokens), step(2, 1, tokens));
        let state = session.prepare(&request).unwrap();
        let found = session.step(state.as_ref(), &step).unwrap();
        assert_close(&numbers(&found), &expected(&weights, &[], &request, &step));
    }
    for tokens in 1..=16 {
        let (request, step) = (request(1, tokens), step(2, 1, tokens));
        let state = session.prepare(&request).unwrap();
        let found = session.step(state.as_ref(), &step).unwrap();
        assert_close(&numbers(&found), &expected(&weights, &[], &request, &step));
    }
    drop(session);
    drop(executable);
    assert_eq!(host.used(), 0);
}

#[test]
fn a_refit_in_place_keeps_captured_graphs() {
    let (host, executable) = on_host(Host::new(LARGE));
    executable.refit(&Changes::all(&parameters(1, 2))).unwrap();
    let mut session = executable.session().unwrap();
    for seed in [2, 3, 4, 5] {
        let weights = parameters(1, seed);
        let changes = Changes::all(&weights).only_names(["b"]);
        executable.refit(&changes).unwrap();
        let log = host.take_log();
        // At first `b` is kept in `third`, then nowhere: `second` is computed where it is.
        let written = if seed == 2 {
            "overwrite 2"
        } else {
            "overwrite 1"
        };
        assert!(log.iter().any(|line| line == written), "{log:?}");
        let state = session.prepare(&request(1, 5)).unwrap();
        let inputs = step(2, 1, 5);
        let found = session.step(state.as_ref(), &inputs).unwrap();
        let expected = expected(&weights, &[], &request(1, 5), &inputs);
        assert_close(&numbers(&found), &expected);
        let launches = host.take_log().contains(&"launch".to_owned());
        assert_eq!(launches, seed > 2);
    }
    let state = session.prepare(&request(1, 5)).unwrap();
    host.take_log();
    session.step(state.as_ref(), &step(2, 1, 5)).unwrap();
    assert_eq!(host.take_log(), ["write", "launch"]);
}

#[test]
fn a_state_keeps_the_weights_it_was_prepared_with() {
    let (host, executable) = on_host(Host::new(LARGE));
    executable.refit(&Changes::all(&parameters(1, 2))).unwrap();
    let mut old = Run::new(&executable, parameters(1, 2));
    old.check(0);
    old.check(1);
    let before = host.used();
    for seed in [5, 6] {
        let weights = parameters(1, seed);
        let report = executable.refit(&Changes::all(&weights).only_names(["b"]));
        assert_eq!(report.unwrap().weights, 2);
        let mut new = Run::new(&executable, weights);
        for index in 0..3 {
            old.check(index);
            new.check(index);
        }
    }
    assert!(
        !host
            .take_log()
            .iter()
            .any(|line| line.contains("overwrite"))
    );
    // The versions between are gone, and so is this one with its state.
    assert_eq!(host.used(), before + 2 * 64);
    drop(old.state);
    let weights = parameters(1, 7);
    executable.refit(&Changes::all(&weights)).unwrap();
    // `third` is a parameter; the others are computed where they are.
    assert!(host.take_log().contains(&"overwrite 1".to_owned()));
    Run::new(&executable, weights).check(1);
}

#[test]
fn overlays_change_weights_and_go_again() {
    let (_, executable) = on_host(Host::new(LARGE));
    let weights = parameters(1, 2);
    let fragment =
        r#"graph "o" { param @base: f32[4, 4] %0: f32[4, 4] = neg @base output base = %0 }"#;
    let overlay = Overlay::new("b", parse(fragment).unwrap()).unwrap();
    executable.refit(&Changes::all(&weights)).unwrap();
    for overlays in [vec![overlay], vec![]] {
        let changes = Changes::all(&weights).with_overlays(&overlays);
        executable.refit(&changes.only_names(["b"])).unwrap();
        let mut session = executable.session().unwrap();
        let state = session.prepare(&request(1, 5)).unwrap();
        let found = session.step(state.as_ref(), &step(2, 1, 5)).unwrap();
        let expected = expected(&weights, &overlays, &request(1, 5), &step(2, 1, 5));
        assert_close(&numbers(&found), &expected);
    }
}

#[test]
fn a_failed_refit_leaves_the_old_weights() {
    let (host, executable) = on_host(Host::new(LARGE));
    let old = parameters(1, 2);
    executable.refit(&Changes::all(&old)).unwrap();
    let new = parameters(5, 6);
    // A parameter that is missing, one of another shape: nothing is computed.
    host.take_log();
    let wrong = Parameters::builder().tensor("a", tensor(&[4, 4], 1));
    let wrong = wrong.tensor("b", tensor(&[2, 4], 1)).build().unwrap();
    assert!(executable.refit(&Changes::all(&wrong)).is_err());
    assert!(host.take_log().is_empty());
    // A weight that cannot be computed.
    host.fails.lock().unwrap().insert("third.weight".to_owned());
    assert!(executable.refit(&Changes::all(&new)).is_err());
    host.fails.lock().unwrap().clear();
    Run::new(&executable, old.clone()).check(1);
    // One that cannot be written: what was, is computed again.
    let machine = Arc::clone(&host);
    machine.overwrites_left.store(0, Ordering::Relaxed);
    let failed = executable.refit(&Changes::all(&new));
    assert!(matches!(failed, Err(Error::Poisoned { .. })), "{failed:?}");
    let mut session = executable.session().unwrap();
    let refused = session.prepare(&request(1, 5)).map(|_| ());
    assert!(
        matches!(refused, Err(Error::Poisoned { .. })),
        "{refused:?}"
    );
    // A refit of anything loads all.
    machine.overwrites_left.store(usize::MAX, Ordering::Relaxed);
    executable
        .refit(&Changes::all(&new).only_names(["a"]))
        .unwrap();
    Run::new(&executable, new).check(1);
}

#[test]
fn memory_is_said_before_loading() {
    let (host, executable) = on_host(Host::new(100));
    let weights = parameters(1, 2);
    let error = executable.refit(&Changes::all(&weights)).unwrap_err();
    let message = error.to_string();
    let expected = "backend `cuda`: graph `layers` needs 192 bytes on host:0 for its weights, \
                    100 are free";
    assert!(message.starts_with(expected), "{message}");
    assert!(
        !host
            .take_log()
            .iter()
            .any(|line| line.starts_with("compute"))
    );
    let mut session = executable.session().unwrap();
    let refused = session.prepare(&request(1, 5)).map(|_| ());
    assert!(matches!(refused, Err(Error::NoWeights(name)) if name == "layers"));
}

#[test]
fn a_workspace_that_does_not_fit_is_said_with_its_graph() {
    let (host, executable) = on_host(Host::new(LARGE));
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    let mut session = executable.session().unwrap();
    host.set_total(host.used() + 100);
    let error = session.prepare(&request(1, 5)).map(|_| ()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("`layers.request` needs"), "{message}");
    assert!(message.contains("100 are free"), "{message}");
    host.set_total(LARGE);
    Run::new(&executable, weights).check(1);
}

#[test]
fn where_memory_is_short_weights_come_in_groups() {
    let (host, executable) = on_host(Host::new(LARGE));
    let (old, new) = (parameters(1, 2), parameters(5, 6));
    executable.refit(&Changes::all(&old)).unwrap();
    // Room for one weight and a half beside what is kept free.
    host.set_total(host.used() + super::exchange::RESERVE + 100);
    host.take_log();
    // The last group fails: those before it are computed again.
    host.fails
        .lock()
        .unwrap()
        .insert("second.weight".to_owned());
    assert!(executable.refit(&Changes::all(&new)).is_err());
    host.fails.lock().unwrap().clear();
    let log = host.take_log();
    let computed = |log: &[String]| {
        log.iter()
            .filter(|line| line.starts_with("compute"))
            .count()
    };
    assert_eq!(computed(&log), 5, "{log:?}");
    host.set_total(LARGE);
    Run::new(&executable, old).check(1);
    host.set_total(host.used() + super::exchange::RESERVE + 100);
    host.take_log();
    executable.refit(&Changes::all(&new)).unwrap();
    // Nothing is kept in weights any more: they are computed where they are, which takes none.
    assert_eq!(computed(&host.take_log()), 1);
    host.set_total(LARGE);
    let mut run = Run::new(&executable, new.clone());
    run.check(1);
    // A state that holds them needs memory for others beside.
    host.set_total(host.used() + super::exchange::RESERVE + 100);
    let error = executable.refit(&Changes::all(&parameters(7, 8)));
    let message = error.unwrap_err().to_string();
    assert!(message.contains("that requests still hold"), "{message}");
    host.set_total(LARGE);
    run.check(2);
}

#[test]
fn weights_that_were_one_parameter_come_apart() {
    let text = r#"
graph "tied" {
  param @a: f32[4, 4]
  param @b: f32[4, 4]
  input step %x: f32[2, 4]
  %0: f32[2, 4] = linear %x, @a  # first
  %1: f32[2, 4] = linear %0, @b  # second
  output y = %1
}"#;
    let graph = parse(text).unwrap();
    let staged = StagedGraph::split(&graph).unwrap();
    let replaced = |name: &str| {
        let fragment = r#"graph "o" { param @one: f32[4, 4] output w = @one }"#;
        Overlay::new(name, parse(fragment).unwrap()).unwrap()
    };
    let both = [replaced("a"), replaced("b")];
    let own = Parameters::builder().tensor("one", tensor(&[4, 4], 3));
    let all = Parameters::builder()
        .parameters(&parameters(1, 2))
        .parameters(&own.build().unwrap())
        .build()
        .unwrap();
    let host = Arc::new(Host::new(LARGE));
    let executable = CudaExecutable::new(
        Arc::clone(&host),
        staged,
        Arc::new(NoEvaluator),
        &CompileOptions::default(),
    );
    let inputs = Tensors::new().with("x", tensor(&[2, 4], 5));
    // One for both, for one of them, for both again, for none.
    for overlays in [&both[..], &both[1..], &both[..], &[]] {
        let changes = Changes::all(&all).with_overlays(overlays);
        executable.refit(&changes.only_names(["a", "b"])).unwrap();
        let mut session = executable.session().unwrap();
        let state = session.prepare(&Tensors::new()).unwrap();
        let found = session.step(state.as_ref(), &inputs).unwrap();
        let expected = {
            let graph = Overlay::attach(&graph, overlays).unwrap();
            let input = |name: &str| inputs.get(name).unwrap().to_host().unwrap();
            let parameter = |name: &str| all.get(name).unwrap();
            reference::run(&graph, &parameter, &input)["y"]
                .to_f32_vec()
                .unwrap()
        };
        assert_close(&numbers(&found), &expected);
    }
}

#[test]
fn what_cannot_be_captured_runs_step_by_step() {
    let mut host = Host::new(LARGE);
    host.refuses_capture = true;
    let (host, executable) = on_host(host);
    executable.refit(&Changes::all(&parameters(1, 2))).unwrap();
    let mut run = Run::new(&executable, parameters(1, 2));
    for index in 0..3 {
        run.check(index);
    }
    let log = host.take_log();
    let captures = log.iter().filter(|line| *line == "capture").count();
    assert_eq!(captures, 1, "{log:?}");
}

#[test]
fn wrong_inputs_and_foreign_states_are_errors() {
    let (_, executable) = on_host(Host::new(LARGE));
    let (_, other) = on_host(Host::new(LARGE));
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    other.refit(&Changes::all(&weights)).unwrap();
    let mut session = executable.session().unwrap();
    let missing = session.prepare(&Tensors::new()).map(|_| ());
    assert!(matches!(missing, Err(Error::MissingInput(name)) if name == "r"));
    let wrong = Tensors::new().with(
        "r",
        Tensor::from_f32_as(DType::BF16, [3, 1, 4], vec![0.0; 12]).unwrap(),
    );
    assert!(session.prepare(&wrong).is_err());
    let state = session.prepare(&request(1, 5)).unwrap();
    let found = session.step(state.as_ref(), &step(1, 0, 6)).map(|_| ());
    assert!(matches!(found, Err(Error::Ir(_))), "{found:?}");
    let foreign = other
        .session()
        .unwrap()
        .step(state.as_ref(), &step(1, 0, 5));
    assert!(matches!(foreign, Err(Error::ForeignState)));
    let inputs = step(1, 0, 5);
    let good = session.step(state.as_ref(), &inputs).unwrap();
    assert_close(
        &numbers(&good),
        &expected(&weights, &[], &request(1, 5), &inputs),
    );
}

#[test]
fn no_picture_is_made_with_mixed_weights() {
    let mut host = Host::new(LARGE);
    // Captures of the host are of one thread.
    host.has_graphs = false;
    let (_, executable) = on_host(host);
    let versions = [parameters(1, 2), parameters(3, 4)];
    executable.refit(&Changes::all(&versions[0])).unwrap();
    let inputs: Vec<Tensors> = (0..3).map(|index| step(7, index, 5)).collect();
    let expected = versions.each_ref().map(|weights| {
        let steps = inputs.iter();
        let steps = steps.map(|inputs| expected(weights, &[], &request(1, 5), inputs));
        steps.collect::<Vec<_>>()
    });
    let is_close = |found: &[f32], expected: &[f32]| {
        let mut pairs = found.iter().zip(expected);
        pairs.all(|(found, expected)| (found - expected).abs() <= 1e-4)
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut session = executable.session().unwrap();
                for _ in 0..50 {
                    let state = session.prepare(&request(1, 5)).unwrap();
                    let found: Vec<Vec<f32>> = inputs
                        .iter()
                        .map(|inputs| numbers(&session.step(state.as_ref(), inputs).unwrap()))
                        .collect();
                    let is_one = expected.iter().any(|expected| {
                        let mut steps = found.iter().zip(expected);
                        steps.all(|(found, expected)| is_close(found, expected))
                    });
                    assert!(is_one, "{found:?}");
                }
            });
        }
        for round in 1..80 {
            let changes = Changes::all(&versions[round % 2]);
            executable.refit(&changes).unwrap();
        }
    });
}

#[path = "branch_tests.rs"]
mod branches;
#[path = "codes_tests.rs"]
mod codes;
#[path = "forecast_tests.rs"]
mod forecasts;
#[path = "free_tests.rs"]
mod freed;
#[path = "keep_tests.rs"]
mod keep;
#[path = "output_tests.rs"]
mod outputs;
#[path = "save_tests.rs"]
mod save;

#[test]
fn without_a_gpu_the_backend_is_unavailable() {
    let options = CudaOptions::new(Arc::new(NoEvaluator)).on_device(usize::MAX);
    let error = CudaBackend::new(options).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unavailable {
                backend: "cuda",
                ..
            }
        ),
        "{error}"
    );
}
