//! Builder, binding of symbols, constants, and the runner of passes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use tintype_ir::passes::{Pass, run};
use tintype_ir::{
    Binding, Constant, Dim, Error, Graph, GraphBuilder, Result, Stage, TensorType, broadcast_dims,
    parse,
};
use tintype_tensor::{DType, Shape, Tensor};

fn sized() -> Graph {
    let text = "graph g { dim b = 1..=4 dim t = 1..=8 input step %x: f32[b, t] \
                input step %y: f32[2*b*t, 3] output y = %y }";
    parse(text).unwrap()
}

#[test]
fn inputs_bind_symbols_and_are_held_against_them() {
    let graph = sized();
    let mut binding = Binding::new();
    let mut bind = |name: &str, shape: &[usize]| {
        binding.bind_input(&graph, name, DType::F32, &Shape::new(shape))
    };
    bind("y", &[7, 3]).unwrap(); // Nothing is bound yet that could disagree.
    bind("x", &[2, 5]).unwrap();
    bind("y", &[20, 3]).unwrap();
    let message = |result: Result<()>| result.unwrap_err().to_string();
    assert_eq!(
        message(bind("y", &[21, 3])),
        "`y`: expected f32[2*b*t, 3], found f32[21, 3]"
    );
    assert_eq!(
        message(bind("y", &[20])),
        "`y`: expected f32[2*b*t, 3], found f32[20]"
    );
    assert_eq!(
        message(bind("x", &[3, 5])),
        "`x`: dimension `b` is 2 already, found 3"
    );
    assert_eq!(
        message(bind("x", &[9, 5])),
        "`x`: dimension `b` must lie in 1..=4, found 9"
    );
    assert_eq!(
        message(bind("z", &[1])),
        "`z`: expected one of the inputs x, y, found f32[1]"
    );
}

#[test]
fn a_conflict_leaves_the_binding_as_it_was() {
    let graph = sized();
    let mut binding = Binding::new();
    binding
        .bind_input(&graph, "x", DType::F32, &Shape::new([2, 5]))
        .unwrap();
    assert!(
        binding
            .bind_input(&graph, "x", DType::F32, &Shape::new([3, 5]))
            .is_err()
    );
    assert_eq!(binding.get("b"), Some(2));
}

#[test]
fn dimensions_are_evaluated_or_refused() {
    let mut binding = Binding::new();
    let dim = Dim::symbol("a") * 2 + -7;
    assert_eq!(binding.evaluate(&dim), Err(Error::Unbound("a".to_owned())));
    binding.set("a", 5);
    assert_eq!(binding.evaluate(&dim), Ok(3));
    binding.set("a", 3);
    assert!(matches!(binding.evaluate(&dim), Err(Error::Overflow(_))));
    binding.set("a", usize::MAX);
    assert!(matches!(binding.evaluate(&dim), Err(Error::Overflow(_))));
}

#[test]
fn the_builder_keeps_the_first_error_with_its_module() {
    let mut b = GraphBuilder::new("wrong");
    let x = b.input("x", Stage::Step, TensorType::new(DType::F32, [2, 3]));
    let y = b.linear_named("block.proj", x, 4, 5, false);
    let z = b.add(y, x);
    b.output("z", z);
    let message = b.finish().unwrap_err().to_string();
    assert_eq!(
        message,
        "linear of `block.proj`: weight: expected f32[4, 3], found f32[4, 5]"
    );
    let mut b = GraphBuilder::new("two types");
    b.parameter("w", TensorType::new(DType::F32, [2]));
    let w = b.parameter("w", TensorType::new(DType::F32, [3]));
    b.output("w", w);
    let message = b.finish().unwrap_err().to_string();
    assert_eq!(message, "parameter `w`: expected f32[2], found f32[3]");
}

#[test]
fn constants_round_and_repeat() {
    let constant = Constant::floats(DType::BF16, [2, 3], vec![1.001]).unwrap();
    assert_eq!(constant.as_splat(), Some(1.0));
    assert_eq!(
        constant.to_tensor().unwrap().to_f32_vec().unwrap(),
        [1.0; 6]
    );
    let tensor = Tensor::from_f32([3], vec![2.0; 3]).unwrap();
    assert_eq!(
        Constant::from_tensor(&tensor).unwrap().as_splat(),
        Some(2.0)
    );
    let flags = Constant::integers(DType::Bool, [2], vec![0, 1]).unwrap();
    assert_eq!(flags.to_tensor().unwrap().bytes(), [0, 1]);
    assert!(Constant::integers(DType::Bool, [2], vec![0, 2]).is_err());
    assert!(Constant::integers(DType::F32, [1], vec![0]).is_err());
    assert!(Constant::floats(DType::I64, [1], vec![0.0]).is_err());
    let nan = |bits| Constant::floats(DType::F32, [], vec![f32::from_bits(bits)]).unwrap();
    assert_eq!(nan(0x7fc0_0000), nan(0x7fc0_0000));
    assert_ne!(nan(0x7fc0_0000), nan(0x7fc0_0001));
}

#[test]
fn sizes_of_one_broadcast() {
    let dims = |text: &[i64]| text.iter().map(|&size| Dim::from(size)).collect::<Vec<_>>();
    assert_eq!(
        broadcast_dims(&dims(&[3, 1]), &dims(&[5])),
        Some(dims(&[3, 5]))
    );
    assert_eq!(broadcast_dims(&dims(&[]), &dims(&[2])), Some(dims(&[2])));
    assert_eq!(broadcast_dims(&dims(&[3]), &dims(&[2])), None);
    assert_eq!(broadcast_dims(&[Dim::symbol("a")], &dims(&[2])), None);
}

/// A pass that breaks the graph.
struct Breaks;

impl Pass for Breaks {
    fn name(&self) -> &'static str {
        "breaks"
    }

    fn run(&self, _: &Graph) -> Result<Graph> {
        parse("graph broken { input step %x: f32[2] }")
    }
}

#[test]
fn a_failing_pass_is_named() {
    let message = run(&sized(), &[&Breaks], true).unwrap_err().to_string();
    assert_eq!(
        message,
        "pass `breaks`: graph `broken` breaks rule `outputs` at the graph: there is no output"
    );
    assert!(run(&sized(), &[&Breaks], false).is_ok());
}
