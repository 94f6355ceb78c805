//! The canonical form and the hash: what changes them, and what does not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/random.rs"]
mod random;

use proptest::prelude::*;
use tintype_ir::passes::canonical;
use tintype_ir::{Graph, GraphHash, Overlay, StagedGraph, parse, verify};

const MODEL: &str = r#"graph "model" {
  dim s = 1..=8
  dim unused = 1..=2
  param @a: bf16[4, 4]
  param @b: bf16[4, 4]
  input request %c: bf16[1, 4]
  input step %x: bf16[s, 4]
  %0: bf16[1, 4] = linear %c, @a  # mod
  %1: bf16[1, 4] = gelu_tanh %0
  %2: bf16[1, 4] = clamp %c {min = 0.0, max = 1.0}
  %3: bf16[s, 4] = mul %x, %1
  %4: bf16[s, 4] = sub %3, %2
  %5: bf16[4, 4] = add @a, @b
  %6: bf16[s, 4] = linear %4, %5
  output y = %6
}"#;

fn graph(text: &str) -> Graph {
    let graph = parse(text).unwrap();
    verify(&graph).unwrap();
    graph
}

fn hash(text: &str) -> GraphHash {
    graph(text).hash()
}

/// The model with every `from` replaced.
fn with(from: &str, to: &str) -> String {
    assert!(MODEL.contains(from), "`{from}` is not in the model");
    MODEL.replace(from, to)
}

#[test]
fn whatever_changes_the_result_changes_the_hash() {
    let changes = [
        ("gelu_tanh", "gelu_erf"),
        ("max = 1.0", "max = 1.0000001"),
        ("min = 0.0", "min = -0.0"),
        ("sub %3, %2", "sub %2, %3"),
        ("add @a, @b", "add @b, @a"),
        ("dim s = 1..=8", "dim s = 1..=9"),
        ("bf16", "f16"),
        ("%x", "%z"),
        ("output y", "output z"),
        ("@a", "@c"),
        ("request %c", "step %c"),
        (", 4]", ", 4, 1]"),
    ];
    let plain = hash(MODEL);
    for (from, to) in changes {
        let changed = parse(&with(from, to)).unwrap();
        assert_ne!(changed.hash(), plain, "{from} → {to}");
    }
}

#[test]
fn names_numbers_and_order_do_not_change_the_hash() {
    let changes = [
        ("graph \"model\"", "graph \"other\""),
        ("  # mod", "  # another"),
        ("  dim unused = 1..=2\n", ""),
        (
            "param @a: bf16[4, 4]\n  param @b: bf16[4, 4]",
            "param @b: bf16[4, 4]\n  param @a: bf16[4, 4]",
        ),
        // In another place, with another number.
        (
            "  output y",
            "  %9: bf16[s, 4] = exp %x %10: bf16[s, 4] = add %9, %6\n  output y",
        ),
    ];
    let plain = hash(MODEL);
    for (from, to) in changes {
        assert_eq!(hash(&with(from, to)), plain, "{from} → {to}");
    }
}

/// Nodes in another order, with dead ones between them that read weights and request values.
const RENUMBERED: &str = r#"graph "model" {
  dim s = 1..=8
  param @b: bf16[4, 4]
  param @a: bf16[4, 4]
  param @dead: bf16[4, 4]
  input request %c: bf16[1, 4]
  input step %x: bf16[s, 4]
  %0: bf16[4, 4] = add @a, @b
  %1: bf16[1, 4] = clamp %c {min = 0.0, max = 1.0}
  %2: bf16[s, 4] = linear %x, %0
  %3: bf16[s, 4] = linear %2, @dead
  %4: bf16[s, 4] = mul %3, %1
  %5: bf16[1, 4] = linear %c, @a  # mod
  %6: bf16[1, 4] = gelu_tanh %5
  %7: bf16[s, 4] = mul %x, %6
  %8: bf16[s, 4] = sub %7, %1
  %9: bf16[s, 4] = linear %8, %0
  output y = %9
}"#;

#[test]
fn renumbered_values_and_dead_code_leave_the_programs_as_they_are() {
    let plain = StagedGraph::split(&graph(MODEL)).unwrap();
    let renumbered = StagedGraph::split(&graph(RENUMBERED)).unwrap();
    assert_eq!(plain.source.hash(), renumbered.source.hash());
    // The counted names differ as long as the graph is split as it stands.
    assert_ne!(plain.step.hash(), renumbered.step.hash());
    let (plain, renumbered) = (plain.canonical().unwrap(), renumbered.canonical().unwrap());
    assert_eq!(plain.weight.hash(), renumbered.weight.hash());
    assert_eq!(plain.request.hash(), renumbered.request.hash());
    assert_eq!(plain.step.hash(), renumbered.step.hash());
    assert_eq!(plain.step.outputs(), renumbered.step.outputs());
    assert_eq!(plain.step.nodes(), renumbered.step.nodes());
}

#[test]
fn an_overlay_changes_the_weight_program_only() {
    let doubled =
        "graph o { param @base: bf16[4, 4] %0: bf16[4, 4] = add @base, @base output w = %0 }";
    let overlays = [Overlay::new("a", graph(doubled)).unwrap()];
    let plain = StagedGraph::split(&graph(MODEL)).unwrap();
    let attached = Overlay::attach(&plain.source, &overlays).unwrap();
    let attached = StagedGraph::split(&attached).unwrap();
    assert_ne!(attached.weight.hash(), plain.weight.hash());
    assert_eq!(
        attached.weight.hash(),
        plain.weight_with(&overlays).unwrap().hash()
    );
    let (plain, attached) = (plain.canonical().unwrap(), attached.canonical().unwrap());
    assert_eq!(attached.request, plain.request);
    assert_eq!(attached.step, plain.step);
}

#[test]
fn the_hash_is_the_same_on_every_machine() {
    let found = hash(MODEL).to_string();
    assert_eq!(
        found,
        "2596eeeca593f331e57e98c311f0566d677fbd26b980a49bdc76f2ef5958d834"
    );
}

proptest! {
    #[test]
    fn the_canonical_form_verifies_and_is_its_own(choices in random::choices(40)) {
        let graph = random::graph(&choices);
        let once = canonical(&graph);
        verify(&once).unwrap();
        prop_assert_eq!(&canonical(&once), &once);
        prop_assert_eq!(once.hash(), graph.hash());
        let staged = StagedGraph::split(&graph).unwrap();
        let programs = staged.canonical().unwrap();
        prop_assert_eq!(&programs.canonical().unwrap(), &programs);
        prop_assert!(programs.weight.outputs().len() <= staged.weight.outputs().len());
    }
}
