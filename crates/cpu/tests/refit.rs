//! Refits: what is computed again, what a failed one leaves, what states keep.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod support;

use support::{bits, compile, compiled, tensor};
use tintype_backend::{Changes, Executable, Tensors};
use tintype_ir::{Overlay, parse};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

/// `first` depends on `a`, `second` on `b`, `third` is `b` itself.
const LAYERS: &str = r#"
graph "layers" {
  param @a: bf16[4, 4]
  param @b: bf16[4, 4]
  input request %r: bf16[2, 4]
  input step %x: bf16[2, 4]
  %0: bf16[4, 4] = exp @a
  %1: bf16[4, 4] = matmul @b, @b
  %2: bf16[2, 4] = linear %r, %0  # first
  %3: bf16[2, 4] = linear %x, %1  # second
  %4: bf16[2, 4] = linear %x, @b  # third
  %5: bf16[2, 4] = add %2, %3
  %6: bf16[2, 4] = add %5, %4
  output y = %6
}"#;

type Bits = Vec<(String, String, Vec<u8>)>;

fn parameters(a: u64, b: u64) -> Parameters {
    let values = |seed| tensor(DType::BF16, [4, 4], seed);
    let builder = Parameters::builder()
        .tensor("a", values(a))
        .tensor("b", values(b));
    builder.build().unwrap()
}

fn request() -> Tensors {
    Tensors::new().with("r", tensor(DType::BF16, [2, 4], 11))
}

fn step() -> Tensors {
    Tensors::new().with("x", tensor(DType::BF16, [2, 4], 12))
}

fn result(executable: &dyn Executable) -> Bits {
    let mut session = executable.session().unwrap();
    let state = session.prepare(&request()).unwrap();
    bits(&session.step(state.as_ref(), &step()).unwrap())
}

fn fresh(parameters: &Parameters, overlays: &[Overlay]) -> Bits {
    let executable = compile(&parse(LAYERS).unwrap());
    let changes = Changes::all(parameters).with_overlays(overlays);
    executable.refit(&changes).unwrap();
    result(executable.as_ref())
}

fn overlay(parameter: &str, fragment: &str) -> Overlay {
    Overlay::new(parameter, parse(fragment).unwrap()).unwrap()
}

/// Adds a parameter of its own.
fn shift(parameter: &str) -> Overlay {
    let text = r#"graph "shift" {
  param @base: bf16[4, 4]
  param @shift: bf16[4, 4]
  %0: bf16[4, 4] = add @base, @shift
  output value = %0
}"#;
    overlay(parameter, text)
}

fn with_shift(parameters: &Parameters, seed: u64) -> Parameters {
    let shift = tensor(DType::BF16, [4, 4], seed);
    let builder = Parameters::builder().parameters(parameters);
    builder.tensor("shift", shift).build().unwrap()
}

#[test]
fn only_what_changed_is_computed_and_it_equals_a_full_refit() {
    let executable = compile(&parse(LAYERS).unwrap());
    let report = executable.refit(&Changes::all(&parameters(1, 2))).unwrap();
    assert_eq!((report.weights, report.bytes), (3, 3 * 32));
    let report = |a, b, name| {
        let report = executable
            .refit(&Changes::all(&parameters(a, b)).only_names([name]))
            .unwrap();
        assert_eq!(result(executable.as_ref()), fresh(&parameters(a, b), &[]));
        report.weights
    };
    assert_eq!(report(3, 2, "a"), 1);
    assert_eq!(report(3, 4, "b"), 2);
    assert_eq!(report(3, 4, "unknown"), 0);
}

#[test]
fn a_change_set_says_what_changed() {
    let mut parameters = parameters(1, 2);
    let executable = compiled(LAYERS, &parameters);
    let changed = parameters.set("a", tensor(DType::BF16, [4, 4], 9)).unwrap();
    let changes = Changes::all(&parameters).only(&changed);
    assert_eq!(executable.refit(&changes).unwrap().weights, 1);
    assert_eq!(result(executable.as_ref()), fresh(&parameters, &[]));
}

#[test]
fn the_first_refit_computes_everything_whatever_it_is_told() {
    let executable = compile(&parse(LAYERS).unwrap());
    let changes = parameters(1, 2);
    let changes = Changes::all(&changes).only_names(["a"]);
    assert_eq!(executable.refit(&changes).unwrap().weights, 3);
}

#[test]
fn a_failed_refit_leaves_the_old_weights() {
    let good = parameters(1, 2);
    let executable = compiled(LAYERS, &good);
    let before = result(executable.as_ref());
    let wrong_shape = Parameters::builder()
        .tensor("a", tensor(DType::BF16, [4, 4], 5))
        .tensor("b", tensor(DType::BF16, [4, 5], 5));
    let wrong_shape = wrong_shape.build().unwrap();
    let missing = Parameters::builder().tensor("a", tensor(DType::BF16, [4, 4], 5));
    let missing = missing.build().unwrap();
    let other = parameters(3, 4);
    let wide = overlay(
        "a",
        "graph \"wide\" {\n  param @wide: bf16[4, 5]\n  output value = @wide\n}",
    );
    let nowhere = overlay(
        "c",
        "graph \"same\" {\n  param @base: bf16[4, 4]\n  output value = @base\n}",
    );
    let cases = [
        (
            Changes::all(&wrong_shape),
            "tensor `b`: expected shape [4, 4], found [4, 5]",
        ),
        (Changes::all(&missing), "tensor `b`"),
        (Changes::all(&missing).only_names(["a", "b"]), "tensor `b`"),
        (
            Changes::all(&other).with_overlays(std::slice::from_ref(&wide)),
            "overlay on `a`: expected bf16[4, 4], found bf16[4, 5]",
        ),
        (
            Changes::all(&other).with_overlays(std::slice::from_ref(&nowhere)),
            "overlay on `c`: graph `layers.weight` has no such parameter",
        ),
    ];
    for (changes, expected) in cases {
        let error = executable.refit(&changes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(result(executable.as_ref()), before);
    }
    // The overlay's own parameter is missing.
    let shift = [shift("b")];
    assert!(
        executable
            .refit(&Changes::all(&other).with_overlays(&shift))
            .is_err()
    );
    assert_eq!(result(executable.as_ref()), before);
}

#[test]
fn a_state_keeps_the_weights_that_it_began_with() {
    let executable = compiled(LAYERS, &parameters(1, 2));
    let mut session = executable.session().unwrap();
    let old = session.prepare(&request()).unwrap();
    let before = bits(&session.step(old.as_ref(), &step()).unwrap());
    executable.refit(&Changes::all(&parameters(3, 4))).unwrap();
    let new = session.prepare(&request()).unwrap();
    assert_eq!(bits(&session.step(old.as_ref(), &step()).unwrap()), before);
    let after = bits(&session.step(new.as_ref(), &step()).unwrap());
    assert_eq!(after, fresh(&parameters(3, 4), &[]));
    assert_ne!(after, before);
}

#[test]
fn overlays_come_and_go_without_a_trace() {
    let plain = parameters(1, 2);
    let all = with_shift(&plain, 6);
    let executable = compiled(LAYERS, &plain);
    let before = result(executable.as_ref());
    for parameter in ["a", "b"] {
        let overlays = [shift(parameter), shift(parameter)];
        let attached = Changes::all(&all)
            .with_overlays(&overlays)
            .only_names([parameter]);
        executable.refit(&attached).unwrap();
        assert_eq!(result(executable.as_ref()), fresh(&all, &overlays));
        assert_ne!(result(executable.as_ref()), before);
        executable
            .refit(&Changes::all(&plain).only_names([parameter]))
            .unwrap();
        assert_eq!(result(executable.as_ref()), before);
    }
}

#[test]
fn a_changed_parameter_of_an_overlay_reaches_what_it_lies_on() {
    let plain = parameters(1, 2);
    let overlays = [shift("a")];
    let (first, second) = (with_shift(&plain, 6), with_shift(&plain, 8));
    let executable = compiled(LAYERS, &plain);
    executable
        .refit(&Changes::all(&first).with_overlays(&overlays))
        .unwrap();
    let changes = Changes::all(&second)
        .with_overlays(&overlays)
        .only_names(["shift"]);
    assert_eq!(executable.refit(&changes).unwrap().weights, 1);
    assert_eq!(result(executable.as_ref()), fresh(&second, &overlays));
}

/// A replacement that reads no parameter at all was not noticed by a partial refit.
#[test]
fn an_overlay_that_reads_nothing_takes_effect() {
    let plain = parameters(1, 2);
    let text = r#"graph "zero" {
  %0: bf16[4, 4] = constant {values = [0.0]}
  output value = %0
}"#;
    let zero = [overlay("b", text)];
    let executable = compiled(LAYERS, &plain);
    let changes = Changes::all(&plain).with_overlays(&zero).only_names(["b"]);
    assert_eq!(executable.refit(&changes).unwrap().weights, 2);
    assert_eq!(result(executable.as_ref()), fresh(&plain, &zero));
}

#[test]
fn weights_are_rounded_once_from_wider_files() {
    let values = vec![1.0 + 1.0 / 512.0, 3.0e38, -0.1, 7.0];
    let text = r#"graph "read" {
  param @w: bf16[4]
  input request %x: bf16[4]
  %0: bf16[4] = mul %x, @w
  output y = %0
}"#;
    let wide = Tensor::from_f32([4], values.clone()).unwrap();
    let executable = compiled(
        text,
        &Parameters::builder().tensor("w", wide).build().unwrap(),
    );
    let ones = Tensor::from_f32_as(DType::BF16, [4], vec![1.0; 4]).unwrap();
    let mut session = executable.session().unwrap();
    let state = session.prepare(&Tensors::new().with("x", ones)).unwrap();
    let expected: Vec<f32> = values
        .iter()
        .map(|&value| DType::BF16.round(value))
        .collect();
    assert_eq!(
        state.outputs().host("y").unwrap().to_f32_vec().unwrap(),
        expected
    );
}

#[test]
fn refits_from_several_threads_lose_nothing() {
    let executable = compiled(LAYERS, &parameters(1, 2));
    for round in 0..20 {
        let (a, b) = (100 + round, 200 + round);
        let all = parameters(a, b);
        std::thread::scope(|scope| {
            for name in ["a", "b"] {
                let (executable, all) = (executable.as_ref(), &all);
                scope.spawn(move || {
                    executable
                        .refit(&Changes::all(all).only_names([name]))
                        .unwrap()
                });
            }
        });
        assert_eq!(result(executable.as_ref()), fresh(&all, &[]));
    }
}
