//! What may run side by side touches no byte that the other side writes.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tintype_ir::{Binding, parse};

use super::super::random::{choices, graph};
use super::super::{codes, groups, lower, reuse};
use super::*;
use crate::{Plan, PlanOptions};

fn plan(graph: &tintype_ir::Graph) -> Plan {
    Plan::with(graph, &Binding::new(), PlanOptions { branches: true }).unwrap()
}

/// The bytes of a view of a buffer, in the workspace.
fn bytes(plan: &Plan, view: &View) -> Vec<usize> {
    let Place::Buffer(buffer) = view.place else {
        return Vec::new();
    };
    let mut elements = vec![view.offset];
    for axis in &view.axes {
        let along = |offset| (0..axis.size).map(move |at| offset + at * axis.stride);
        elements = elements.into_iter().flat_map(along).collect();
    }
    let size = view.dtype.bits() / 8;
    let start = plan.offset(buffer);
    let bytes = elements.into_iter().map(|element| start + element * size);
    bytes.flat_map(|first| first..first + size).collect()
}

fn touched(plan: &Plan, views: &[&View]) -> HashSet<usize> {
    views.iter().flat_map(|view| bytes(plan, view)).collect()
}

/// Two steps that may run at once although one writes what the other touches.
fn clash(plan: &Plan) -> Option<[usize; 2]> {
    let reads = |step: usize| touched(plan, &plan.steps[step].work.reads());
    let writes = |step: usize| touched(plan, &plan.steps[step].work.writes());
    let pairs = plan.forks.iter().flat_map(|fork| {
        let second = fork.second.clone();
        fork.first
            .clone()
            .flat_map(move |a| second.clone().map(move |b| [a, b]))
    });
    pairs.into_iter().find(|&[a, b]| {
        let (first, second) = (writes(a), writes(b));
        let writes_both = !first.is_disjoint(&second);
        writes_both || !first.is_disjoint(&reads(b)) || !second.is_disjoint(&reads(a))
    })
}

/// Graphs of a fixed row of random numbers.
fn samples(count: usize) -> impl Iterator<Item = tintype_ir::Graph> {
    let mut runner = TestRunner::deterministic();
    let choices = choices();
    (0..count).map(move |_| graph(&choices.new_tree(&mut runner).unwrap().current()))
}

#[test]
fn random_graphs_have_forks() {
    let with_forks = samples(100).filter(|graph| !plan(graph).forks.is_empty());
    assert!(with_forks.count() > 30);
}

#[test]
fn memory_laid_out_as_if_steps_ran_in_order_clashes() {
    let unaware = |graph: &tintype_ir::Graph| {
        let mut plan = plan(graph);
        let binding = Binding::new();
        let shapes = groups::Shapes::of_graph(&plan.graph, &binding).unwrap();
        let reads = codes::Reads::of(&plan.graph, &shapes);
        let units = groups::Units::of(&plan.graph, &reads, &shapes);
        let mut lowered = lower::Lowering::new(&plan.graph, &reads, &shapes, &binding)
            .run(&units)
            .unwrap();
        (lowered.steps, _) = branch(lowered.steps);
        (plan.memory_of, plan.workspace) = reuse::share(&lowered, &[]);
        plan
    };
    let clashes = samples(100).filter(|graph| clash(&unaware(graph)).is_some());
    assert!(clashes.count() > 10, "else the other test shows nothing");
}

proptest! {
    #[test]
    fn branches_share_no_byte_that_either_writes(choices in choices()) {
        let plan = plan(&graph(&choices));
        prop_assert_eq!(clash(&plan), None, "{}", plan);
        let meet = |fork: &Fork| fork.first.end == fork.second.start;
        prop_assert!(plan.forks.iter().all(meet));
    }

    #[test]
    fn every_step_is_there_once_and_branches_have_products(choices in choices()) {
        let graph = graph(&choices);
        let (serial, plan) = (Plan::new(&graph, &Binding::new()).unwrap(), plan(&graph));
        let names = |plan: &Plan| {
            let mut names: Vec<_> = plan.steps.iter().map(|step| format!("{step:?}")).collect();
            names.sort();
            names
        };
        prop_assert_eq!(names(&serial), names(&plan));
        for (place, fork) in plan.forks.iter().enumerate() {
            let later = plan.forks.get(place + 1);
            prop_assert!(later.is_none_or(|later| fork.second.end <= later.first.start));
            for branch in [&fork.first, &fork.second] {
                let steps = &plan.steps[branch.clone()];
                let products = steps.iter().filter(|step| step.work.kind() == "product");
                prop_assert!(products.count() > 0, "{plan}");
            }
        }
    }
}

/// Two streams that meet in an attention, as often as there are blocks.
fn streams(rows: usize, width: usize) -> Plan {
    let text = format!(
        "graph g {{ param @w: bf16[{width}, {width}] param @v: bf16[{width}, {width}] \
         input step %x: bf16[{rows}, {width}] input step %y: bf16[{rows}, {width}] \
         %0: bf16[{rows}, {width}] = linear %x, @w %1: bf16[{rows}, {width}] = linear %0, @w \
         %2: bf16[{rows}, {width}] = linear %y, @v \
         %3: bf16[{rows}, {width}] = add %1, %2 output y = %3 }}"
    );
    plan(&parse(&text).unwrap())
}

#[test]
fn the_lesser_branch_is_the_second() {
    let plan = streams(64, 32);
    assert_eq!(
        plan.forks,
        [Fork {
            first: 0..2,
            second: 2..3
        }]
    );
    assert!(plan.to_string().contains("  fork\n  0  linear"), "{plan}");
    assert!(plan.to_string().contains("  beside\n  2  linear"), "{plan}");
    assert!(plan.to_string().contains("  join\n  3  add"), "{plan}");
    assert_eq!(
        (plan.branch_of(1), plan.branch_of(2), plan.branch_of(3)),
        (0, 1, 0)
    );
}

#[test]
fn products_that_fill_the_device_run_alone() {
    assert!(streams(4096, 3072).forks.is_empty());
    assert_eq!(streams(512, 3072).forks.len(), 1);
}

#[test]
fn order_is_known_within_a_branch_and_around_a_fork_alone() {
    let forks = [Fork {
        first: 2..4,
        second: 4..6,
    }];
    let before = |a, b| is_before(&forks, a, b);
    assert!(before(1, 2) && before(1, 4) && before(2, 3) && before(4, 5) && before(5, 6));
    assert!(!before(2, 4) && !before(3, 5) && !before(4, 2) && !before(3, 3));
    assert_eq!([moment(&forks, 3, 0), moment(&forks, 3, 1)], [3..4, 2..6]);
    assert_eq!([moment(&forks, 5, 0), moment(&forks, 6, 1)], [2..6, 6..7]);
}
