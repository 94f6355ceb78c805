//! Properties that hold of every graph, dimension and text.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/interpreter.rs"]
mod interpreter;
#[path = "support/meaning.rs"]
mod meaning;
#[path = "support/random.rs"]
mod random;

use std::collections::HashMap;

use interpreter::run_on_noise;
use meaning::Expressions;
use proptest::prelude::*;
use tintype_ir::passes::{FuseQkv, Options, Pass, optimize, run, standard_passes};
use tintype_ir::{Binding, Dim, StagedGraph, decompose, parse, verify};

proptest! {
    #[test]
    fn printing_and_parsing_are_inverse(choices in random::choices(40)) {
        let graph = random::graph(&choices);
        let text = graph.to_string();
        let again = parse(&text).unwrap();
        prop_assert_eq!(&again, &graph);
        prop_assert_eq!(again.to_string(), text);
    }

    #[test]
    fn passes_give_verified_graphs(choices in random::choices(40)) {
        let graph = random::graph(&choices);
        for pass in standard_passes() {
            run(&graph, &[pass], true).unwrap();
        }
        run(&graph, &[&FuseQkv as &dyn Pass], true).unwrap();
        let once = optimize(&graph, &Options::default(), None).unwrap();
        let twice = optimize(&once, &Options::default(), None).unwrap();
        prop_assert!(twice.nodes().len() <= once.nodes().len());
    }

    #[test]
    fn decomposed_graphs_verify_and_optimise(choices in random::choices(30)) {
        let graph = random::graph(&choices);
        let simple = decompose(&graph, &|_| false).unwrap();
        verify(&simple).unwrap();
        prop_assert_eq!(&decompose(&simple, &|_| false).unwrap(), &simple);
        let options = Options::default().with_verify(true);
        let back = optimize(&simple, &options, None).unwrap();
        let types = |graph: &tintype_ir::Graph| -> Vec<_> {
            graph.outputs().iter().map(|o| graph.type_of(o.value).clone()).collect()
        };
        prop_assert_eq!(types(&back), types(&graph));
    }

    /// In f64 without rounding, fusions and what they undo compute the same.
    #[test]
    fn optimising_keeps_what_a_graph_computes(choices in random::choices(12)) {
        let simple = |graph: &tintype_ir::Graph| decompose(graph, &|_| false).unwrap();
        let graph = simple(&random::graph(&choices));
        let optimised = optimize(&graph, &Options::default(), None).unwrap();
        let mut binding = Binding::new();
        binding.set("batch", 3);
        let before = run_on_noise(&graph, &binding);
        let after = run_on_noise(&simple(&optimised), &binding);
        for (name, expected) in before {
            for (a, b) in after[&name].values.iter().zip(&expected.values) {
                // Beyond this the least rounding decides what a sine is.
                let comparable = a.is_finite() && b.is_finite() && b.abs() < 1e3;
                let near = (a - b).abs() <= 1e-5 * b.abs().max(1.0);
                prop_assert!(near || !comparable, "{name}: expected {b}, found {a}\n{graph}\n{optimised}");
            }
        }
    }

    #[test]
    fn the_three_programs_compute_what_the_graph_does(choices in random::choices(40)) {
        let graph = random::graph(&choices);
        let staged = StagedGraph::split(&graph).unwrap();
        let mut expressions = Expressions::default();
        let whole = expressions.outputs(&graph, &HashMap::new());
        prop_assert_eq!(expressions.staged_outputs(&staged), whole);
    }

    #[test]
    fn dimensions_compute_as_numbers_do(
        terms in prop::collection::vec((-9i64..9, 0usize..3, 0usize..3), 1..6),
        others in prop::collection::vec((-9i64..9, 0usize..3, 0usize..3), 1..6),
        sizes in prop::array::uniform3(0i64..50),
    ) {
        let names = ["a", "b", "c"];
        let value = |dim: &Dim| {
            dim.evaluate(|name| names.iter().position(|n| *n == name).map(|i| sizes[i])).unwrap()
        };
        let build = |terms: &[(i64, usize, usize)]| {
            terms.iter().fold(Dim::from(1), |sum, &(c, x, y)| {
                sum + Dim::symbol(names[x]) * Dim::symbol(names[y]) * c
            })
        };
        let (left, right) = (build(&terms), build(&others));
        prop_assert_eq!(value(&left.checked_add(&right).unwrap()), value(&left) + value(&right));
        prop_assert_eq!(value(&left.checked_sub(&right).unwrap()), value(&left) - value(&right));
        let product = left.checked_mul(&right).unwrap();
        prop_assert_eq!(value(&product), value(&left) * value(&right));
        if right != Dim::from(0) {
            prop_assert_eq!(product.div_exact(&right), Some(left.clone()));
        }
        prop_assert_eq!(left.checked_sub(&left).unwrap(), Dim::from(0));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn changed_text_is_read_or_refused(
        choices in random::choices(12),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0u8..3, any::<u8>()), 1..6),
    ) {
        let mut bytes = random::graph(&choices).to_string().into_bytes();
        for (at, kind, byte) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                _ => bytes.insert(at, b"0129-*+[]{},:=%@#\"; e."[usize::from(byte) % 22]),
            }
        }
        if let Ok(graph) = parse(&String::from_utf8_lossy(&bytes))
            && verify(&graph).is_ok()
        {
            prop_assert_eq!(&parse(&graph.to_string()).unwrap(), &graph);
            let _ = StagedGraph::split(&graph).unwrap();
            optimize(&graph, &Options::default().with_verify(true), None).unwrap();
            let _ = decompose(&graph, &|_| false);
        }
    }
}
