//! What changes a plan's key, and what does not.

use tintype_ir::{Overlay, Stage, StagedGraph, parse, verify};
use tintype_tensorrt_sys::Newer;

use super::*;

const MODEL: &str = r#"graph "model" {
  dim tokens = 1..=64
  param @table: bf16[8, 8]
  param @proj.weight: bf16[8, 8]
  param @gain: bf16[8]
  input request %text: bf16[1, 8]
  input step %x: bf16[tokens, 8]
  %0: bf16[1, 8] = linear %text, @table  # modulation
  %1: bf16[1, 8] = gelu_tanh %0
  %2: bf16[tokens, 8] = sub %x, %1
  %3: bf16[8, 8] = mul @proj.weight, @gain
  %4: bf16[tokens, 8] = linear %2, %3  # proj
  %5: f32[tokens, 8] = cast %4
  %6: f32[tokens, 8] = softmax %5
  %7: f32[tokens, 1] = reduce_max %6 {axes = [1]}
  %8: f32[tokens, 8] = div %6, %7
  output y = %8
}"#;

fn staged(text: &str) -> StagedGraph {
    let graph = parse(text).unwrap();
    verify(&graph).unwrap();
    StagedGraph::split(&graph).unwrap()
}

fn recipe() -> Recipe {
    let abi = Abi::of_number(10701, Newer::Refuse).unwrap();
    Recipe::new(abi, "sm89").with("tf32", false)
}

/// The keys of the request and of the step program, as the backend makes them.
fn keys_of(staged: &StagedGraph) -> [PlanKey; 2] {
    let staged = staged.canonical().unwrap();
    [Stage::Request, Stage::Step].map(|stage| PlanKey::new(staged.program(stage), &recipe()))
}

fn keys(text: &str) -> [PlanKey; 2] {
    keys_of(&staged(text))
}

fn with(from: &str, to: &str) -> String {
    assert!(MODEL.contains(from), "`{from}` is not in the model");
    MODEL.replace(from, to)
}

/// Softmax over another axis: the one of this name is over the last.
fn softmax_over_the_first_axis() -> String {
    let other = "%6: f32[8, tokens] = transpose %5 {permutation = [1, 0]}
  %7: f32[8, tokens] = softmax %6
  %8: f32[tokens, 8] = transpose %7 {permutation = [1, 0]}
  %9: f32[tokens, 1] = reduce_max %8 {axes = [1]}
  %10: f32[tokens, 8] = div %8, %9
  output y = %10";
    let from = MODEL.find("%6:").unwrap();
    format!("{}{other}\n}}", &MODEL[..from])
}

#[test]
fn another_axis_of_softmax_is_another_plan() {
    let [request, step] = keys(MODEL);
    let changed = keys(&softmax_over_the_first_axis());
    assert_eq!(changed[0], request, "the request program is the same");
    assert_ne!(changed[1], step);
    let reduced = "f32[1, 8] = reduce_max %6 {axes = [0]}";
    let reduced = with("f32[tokens, 1] = reduce_max %6 {axes = [1]}", reduced);
    assert_ne!(keys(&reduced)[1], step, "an axis as an attribute");
}

#[test]
fn another_form_of_gelu_is_another_plan() {
    let [request, step] = keys(MODEL);
    let [changed, same] = keys(&with("gelu_tanh", "gelu_erf"));
    assert_ne!(changed, request);
    assert_eq!(same, step);
}

#[test]
fn another_width_is_another_plan() {
    let wider = MODEL.replace("8]", "16]").replace("[8,", "[16,");
    let (plain, wider) = (keys(MODEL), keys(&wider));
    assert_ne!(wider[0], plain[0]);
    assert_ne!(wider[1], plain[1]);
}

#[test]
fn another_order_of_operands_is_another_plan() {
    for (from, to) in [("sub %x, %1", "sub %1, %x"), ("div %6, %7", "div %7, %6")] {
        assert_ne!(keys(&with(from, to))[1], keys(MODEL)[1], "{from} → {to}");
    }
}

#[test]
fn a_dtype_a_range_a_constant_and_a_name_are_in_the_key() {
    let step = keys(MODEL)[1];
    for (from, to) in [
        ("bf16", "f16"),
        ("1..=64", "1..=65"),
        ("1..=64", "2..=64"),
        ("# proj", "# other"),
        ("output y", "output z"),
        ("%x", "%z"),
    ] {
        assert_ne!(keys(&with(from, to))[1], step, "{from} → {to}");
    }
}

#[test]
fn renumbered_values_and_dead_code_are_the_same_plan() {
    let renumbered = r#"graph "model" {
  dim tokens = 1..=64
  param @gain: bf16[8]
  param @proj.weight: bf16[8, 8]
  param @table: bf16[8, 8]
  param @dead: bf16[8, 8]
  input request %text: bf16[1, 8]
  input step %x: bf16[tokens, 8]
  %0: bf16[8, 8] = mul @proj.weight, @gain
  %1: bf16[1, 8] = neg %text
  %2: bf16[tokens, 8] = add %x, %1
  %3: bf16[tokens, 8] = linear %2, @dead
  %4: bf16[1, 8] = linear %text, @table  # modulation
  %5: bf16[1, 8] = gelu_tanh %4
  %6: bf16[tokens, 8] = sub %x, %5
  %7: bf16[tokens, 8] = linear %6, %0  # proj
  %8: f32[tokens, 8] = cast %7
  %9: f32[tokens, 8] = softmax %8
  %10: f32[tokens, 1] = reduce_max %9 {axes = [1]}
  %11: f32[tokens, 8] = div %9, %10
  output y = %11
}"#;
    assert_eq!(keys(renumbered), keys(MODEL));
}

#[test]
fn an_overlay_is_the_same_plan() {
    let lora = r#"graph "lora" {
  param @base: bf16[8, 8]
  param @up: f32[8, 2]
  param @down: f32[2, 8]
  %0: f32[8, 8] = matmul @up, @down
  %1: f32[8, 8] = cast @base
  %2: f32[8, 8] = add %1, %0
  %3: bf16[8, 8] = cast %2
  output weight = %3
}"#;
    let overlays = [Overlay::new("proj.weight", parse(lora).unwrap()).unwrap()];
    let plain = staged(MODEL);
    let attached = StagedGraph::split(&Overlay::attach(&plain.source, &overlays).unwrap()).unwrap();
    assert_ne!(attached.weight.hash(), plain.weight.hash());
    assert_eq!(keys_of(&attached), keys_of(&plain));
    // So it is with any other weight program.
    assert_eq!(
        keys(&with("mul @proj.weight, @gain", "add @proj.weight, @gain")),
        keys(MODEL)
    );
}

#[test]
fn library_target_and_options_are_in_the_key() {
    let graph = parse(MODEL).unwrap();
    let key = |recipe: &Recipe| PlanKey::new(&graph, recipe);
    let plain = key(&recipe());
    assert_eq!(key(&recipe()), plain);
    let library = |number| Recipe::new(Abi::of_number(number, Newer::Refuse).unwrap(), "sm89");
    let libraries = [10701, 10700, 10601, 110_400].map(|number| key(&library(number)));
    for (index, library) in libraries.iter().enumerate() {
        assert!(!libraries[..index].contains(library), "library {index}");
    }
    let sm80 = Recipe {
        target: "sm80".to_owned(),
        ..recipe()
    };
    assert_ne!(key(&sm80), plain);
    assert_ne!(key(&recipe().with("tf32", true)), plain);
    assert_ne!(key(&recipe().with("a", "b")), key(&recipe().with("ab", "")));
}

#[test]
fn a_key_is_read_back_from_its_text() {
    let key = PlanKey::new(&parse(MODEL).unwrap(), &recipe());
    assert_eq!(PlanKey::from_hex(&key.to_string()), Some(key));
    assert_eq!(PlanKey::from_hex(&key.to_string().to_uppercase()), None);
    assert_eq!(PlanKey::from_hex("cache"), None);
}
