//! The split by stage: names that stay, overlays, reached weights.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;

use tintype_ir::{Graph, Overlay, Stage, StagedGraph, parse, verify};

fn model(extra: &str) -> Graph {
    let text = format!(
        r#"graph "model" {{
  dim s = 1..=8
  param @a.weight: bf16[4, 4]
  param @b.weight: bf16[4, 4]
  param @b.bias: bf16[4]
  param @shared: bf16[4]
  input request %c: bf16[1, 4]
  input step %x: bf16[s, 4]
  %0: bf16[1, 4] = linear %c, @a.weight  # mod
  %1: bf16[1, 4] = silu %0
  {extra}
  %2: bf16[s, 4] = mul %x, %1
  %3: bf16[8, 4] = concat @b.weight, @a.weight {{axis = 0}}
  %4: bf16[s, 8] = linear %2, %3  # proj
  %5: bf16[s, 4] = slice %4 {{axis = 1, start = 0, end = 4}}
  %6: bf16[s, 4] = add %5, @shared
  %7: bf16[s, 4] = rms_norm %6, @shared {{epsilon = 1e-6}}  # norm
  %8: bf16[s, 4] = linear %7, @b.weight, @b.bias  # out
  output y = %8
}}"#
    );
    let graph = parse(&text).unwrap();
    verify(&graph).unwrap();
    graph
}

fn weight_names(staged: &StagedGraph) -> Vec<&str> {
    staged
        .weight
        .outputs()
        .iter()
        .map(|output| output.name.as_str())
        .collect()
}

#[test]
fn weights_are_named_by_what_consumes_them() {
    let staged = StagedGraph::split(&model("")).unwrap();
    let mut names = weight_names(&staged);
    names.sort_unstable();
    // The addition has no label: its kind and number stand for it. `shared` has one name.
    assert_eq!(
        names,
        [
            "add.0.right",
            "mod.weight",
            "out.bias",
            "out.weight",
            "proj.weight"
        ]
    );
    verify(&staged.weight).unwrap();
    verify(&staged.request).unwrap();
    verify(&staged.step).unwrap();
}

#[test]
fn the_weight_program_does_not_enter_the_names_of_the_others() {
    let plain = StagedGraph::split(&model("")).unwrap();
    let other = "%20: bf16[4, 4] = neg @a.weight %21: bf16[4, 4] = exp %20";
    let changed = StagedGraph::split(&model(other)).unwrap();
    assert_eq!(plain.request, changed.request);
    assert_eq!(plain.step, changed.step);
    // A request value more moves neither weights nor the step's label names.
    let other = "%20: bf16[1, 4] = neg %1";
    let changed = StagedGraph::split(&model(other)).unwrap();
    assert_eq!(weight_names(&plain), weight_names(&changed));
    assert_eq!(plain.step, changed.step);
}

#[test]
fn a_change_reaches_the_weights_that_are_computed_from_it() {
    let staged = StagedGraph::split(&model("")).unwrap();
    let reached = |name: &str| {
        let mut names = StagedGraph::reached_weights(&staged.weight, &HashSet::from([name]));
        names.sort_unstable();
        names
    };
    assert_eq!(reached("a.weight"), ["mod.weight", "proj.weight"]);
    assert_eq!(reached("b.weight"), ["out.weight", "proj.weight"]);
    assert_eq!(reached("b.bias"), ["out.bias"]);
    assert!(reached("unknown").is_empty());
}

#[test]
fn an_overlay_changes_the_weight_program_alone() {
    let staged = StagedGraph::split(&model("")).unwrap();
    let fragment = "graph lora { param @base: bf16[4, 4] param @up: bf16[4, 1] param @down: bf16[1, 4] \
                    %0: bf16[4, 4] = matmul @up, @down %1: bf16[4, 4] = add @base, %0 output w = %1 }";
    let overlay = Overlay::new("a.weight", parse(fragment).unwrap()).unwrap();
    let program = staged.weight_with(&[overlay]).unwrap();
    verify(&program).unwrap();
    let mut reached = StagedGraph::reached_weights(&program, &HashSet::from(["up"]));
    reached.sort_unstable();
    assert_eq!(reached, ["mod.weight", "proj.weight"]);
    let names: Vec<_> = program
        .outputs()
        .iter()
        .map(|output| output.name.as_str())
        .collect();
    assert_eq!(names, weight_names(&staged));
}

#[test]
fn two_overlays_stack_and_misfits_are_refused() {
    let staged = StagedGraph::split(&model("")).unwrap();
    let scale = |ty: &str| {
        let text = format!("graph s {{ param @base: {ty} %0: {ty} = neg @base output w = %0 }}");
        parse(&text).unwrap()
    };
    let twice = [
        Overlay::new("b.bias", scale("bf16[4]")).unwrap(),
        Overlay::new("b.bias", scale("bf16[4]")).unwrap(),
    ];
    let program = staged.weight_with(&twice).unwrap();
    verify(&program).unwrap();
    assert_eq!(program.nodes().len(), staged.weight.nodes().len() + 2);
    let misfit = Overlay::new("b.bias", scale("bf16[5]")).unwrap();
    let message = staged.weight_with(&[misfit]).unwrap_err().to_string();
    assert_eq!(
        message,
        "overlay on `b.bias`: expected bf16[4], found bf16[5]"
    );
    let unknown = Overlay::new("none", scale("bf16[5]")).unwrap();
    assert!(staged.weight_with(&[unknown]).is_err());
    let two_outputs = parse("graph s { param @base: f32[1] output a = @base output b = @base }");
    assert!(Overlay::new("x", two_outputs.unwrap()).is_err());
}

#[test]
fn inputs_are_looked_up_by_stage() {
    let staged = StagedGraph::split(&model("")).unwrap();
    assert_eq!(staged.inputs_of(Stage::Step).count(), 1);
    assert_eq!(staged.expect_input(Stage::Request, "c").unwrap().name, "c");
    let message = staged
        .expect_input(Stage::Step, "c")
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "`c`: expected one of the step inputs x, found no such input"
    );
    assert_eq!(staged.handed_to_step().collect::<Vec<_>>(), ["request.0"]);
}
