//! Every operation alone: in each dtype, folded, at size zero, with values it refuses.
//!
//! Formulas are tested beside the kernels and in the conformance crate; here is what the
//! executor adds to them.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod support;

use std::collections::BTreeSet;

use support::{bits, inputs, parameters, run_whole, tensor};
use tintype_cpu::CpuEvaluator;
use tintype_ir::{BinaryOp, Binding, Evaluator, Graph, ReduceOp, UnaryOp, Value, parse};
use tintype_tensor::{DType, Tensor, relative_error};
use tintype_weights::Parameters;

/// Graphs of one operation: inputs, result type and operation. `T` is a float dtype.
const CASES: &[(&str, &str)] = &[
    ("", "T[2] = constant {values = [0.1, 3.0]}"),
    ("", "T[3, 2] = iota {axis = 0}"),
    (
        "c: bool[2, 1], x: T[2, 3], y: T[3]",
        "T[2, 3] = select %c, %x, %y",
    ),
    ("x: T[5, 3]", "T[5, 3] = clamp %x {min = -0.3, max = 0.7}"),
    ("x: T[4, 3]", "T[6, 2] = reshape %x"),
    ("x: T[3, 1]", "T[2, 3, 4] = broadcast %x"),
    (
        "x: T[2, 3, 4]",
        "T[4, 2, 3] = transpose %x {permutation = [2, 0, 1]}",
    ),
    (
        "x: T[2, 5]",
        "T[2, 3] = slice %x {axis = 1, start = 1, end = 4}",
    ),
    (
        "x: T[2, 3], y: T[2, 1]",
        "T[2, 4] = concat %x, %y {axis = 1}",
    ),
    (
        "x: T[3, 2, 2], i: i64[4]",
        "T[3, 4, 2] = gather %x, %i {axis = 1}",
    ),
    ("x: T[3, 2, 4], i: i32[3]", "T[3, 4] = gather_rows %x, %i"),
    ("x: T[3, 7]", "i64[3] = argmax %x"),
    ("x: T[3, 4, 5], y: T[3, 5, 2]", "T[3, 4, 2] = matmul %x, %y"),
    (
        "",
        "i64[5, 7] = relative_buckets {buckets = 8, max_distance = 16, bidirectional = true}",
    ),
    (
        "x: T[3, 8], w: T[6, 8], b: T[6]",
        "T[3, 6] = linear %x, %w, %b",
    ),
    ("x: T[19, 8], w: T[6, 8]", "T[19, 6] = linear %x, %w"),
    ("x: T[3, 9]", "T[3, 9] = softmax %x"),
    (
        "x: T[3, 8], w: T[8], b: T[8]",
        "T[3, 8] = layer_norm %x, %w, %b {epsilon = 1e-5}",
    ),
    (
        "x: T[3, 8], w: T[8]",
        "T[3, 8] = rms_norm %x, %w {epsilon = 1e-5}",
    ),
    (
        "x: T[2, 4, 3, 3], w: T[4], b: T[4]",
        "T[2, 4, 3, 3] = group_norm %x, %w, %b {groups = 2, epsilon = 1e-5}",
    ),
    (
        "x: T[2, 3, 4], s: T[2, 1, 4], h: T[2, 1, 4]",
        "T[2, 3, 4] = modulate %x, %s, %h",
    ),
    (
        "x: T[2, 3, 4], s: T[4], h: T[1, 3, 1]",
        "T[2, 3, 4] = modulate %x, %s, %h",
    ),
    (
        "r: T[2, 3, 4], g: T[2, 1, 4], x: T[2, 3, 4]",
        "T[2, 3, 4] = gated_residual %r, %g, %x",
    ),
    (
        "r: T[2, 3, 4], g: T[1], x: T[2, 3, 4]",
        "T[2, 3, 4] = gated_residual %r, %g, %x",
    ),
    (
        "x: T[2, 3, 2, 4], t: f32[3, 2, 2]",
        "T[2, 3, 2, 4] = rotary %x, %t",
    ),
    (
        "x: T[3, 2]",
        "f32[3, 3, 2] = rotary_table %x {theta = 100.0, dims = [2, 4]}",
    ),
    (
        "q: T[1, 5, 2, 4], k: T[1, 6, 2, 4], v: T[1, 6, 2, 4], b: T[1, 1, 5, 6]",
        "T[1, 5, 2, 4] = attention %q, %k, %v, %b {scale = 0.5, causal = false}",
    ),
    (
        "q: T[2, 5, 1, 4]",
        "T[2, 5, 1, 4] = attention %q, %q, %q {scale = 0.5, causal = true}",
    ),
    (
        "x: T[2, 2, 5, 4], w: T[3, 2, 3, 3], b: T[3]",
        "T[2, 3, 3, 2] = conv2d %x, %w, %b {stride = [2, 2], padding = [1, 1, 1, 1], groups = 1}",
    ),
    (
        "x: T[1, 2, 3, 2]",
        "T[1, 2, 6, 4] = upsample_nearest %x {factor = 2}",
    ),
    (
        "x: T[1, 2, 3, 2]",
        "T[1, 2, 9, 6] = upsample_nearest %x {factor = 3}",
    ),
];

/// Those above, and every unary and binary operation, reduction and cast.
fn cases() -> Vec<(String, String)> {
    let mut cases: Vec<_> = CASES
        .iter()
        .map(|(inputs, op)| ((*inputs).to_owned(), (*op).to_owned()))
        .collect();
    let mut add = |inputs: &str, op: String| cases.push((inputs.to_owned(), op));
    for op in UnaryOp::ALL {
        add("x: T[3, 7]", format!("T[3, 7] = {} %x", op.name()));
    }
    for op in BinaryOp::ALL {
        let dtype = if op.is_comparison() { "bool" } else { "T" };
        add(
            "x: T[3, 5], y: T[5]",
            format!("{dtype}[3, 5] = {} %x, %y", op.name()),
        );
    }
    for op in ReduceOp::ALL {
        add(
            "x: T[3, 4, 5]",
            format!("T[3, 1, 1] = {} %x {{axes = [1, 2]}}", op.name()),
        );
    }
    for to in [
        "f32", "bf16", "f16", "f8e4m3", "f4e2m1", "i64", "i32", "u8", "bool",
    ] {
        add("x: T[3, 5]", format!("{to}[3, 5] = cast %x"));
    }
    cases
}

/// The graph of a case in `dtype`, its inputs being inputs of a request.
fn graph((inputs, op): &(String, String), dtype: DType) -> Graph {
    let mut text = "graph \"case\" {\n".to_owned();
    for input in declarations(inputs) {
        text += &format!("  input request %{input}\n");
    }
    text += &format!("  %0: {op}\n  output y = %0\n}}");
    parse(&text.replace("T[", &format!("{dtype}["))).unwrap()
}

/// `x: T[2, 3], y: T[3]` at the commas that stand outside of brackets.
fn declarations(inputs: &str) -> Vec<&str> {
    let mut depth = 0;
    let at_top = move |letter: char| {
        depth += i32::from(letter == '[') - i32::from(letter == ']');
        letter == ',' && depth == 0
    };
    inputs
        .split(at_top)
        .map(str::trim)
        .filter(|input| !input.is_empty())
        .collect()
}

#[test]
fn every_operation_runs() {
    let mut covered = BTreeSet::new();
    for case in cases() {
        let graph = graph(&case, DType::F32);
        let inputs = inputs(&graph, None, &Binding::new(), 1);
        let outputs = run_whole(&graph, &Parameters::default(), &inputs);
        let expected = graph.nodes()[0].ty.static_shape().unwrap();
        assert_eq!(*outputs.get("y").unwrap().shape(), expected, "{}", case.1);
        covered.insert(graph.nodes()[0].op.name().to_owned());
    }
    let missing: Vec<_> = all_operations().difference(&covered).cloned().collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

/// The names in `Op::name`, read from its source: an operation that is added there and
/// not here fails the test above.
fn all_operations() -> BTreeSet<String> {
    let source = include_str!("../../ir/src/op.rs");
    let start = source.find("impl Op {").unwrap();
    let end = source.find("pub fn role").unwrap();
    let names = source[start..end].split("=> \"").skip(1);
    let mut names: BTreeSet<String> = names
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    assert!(names.len() > 20, "{names:?}");
    names.extend(UnaryOp::ALL.iter().map(|op| op.name().to_owned()));
    names.extend(BinaryOp::ALL.iter().map(|op| op.name().to_owned()));
    names.extend(ReduceOp::ALL.iter().map(|op| op.name().to_owned()));
    names
}

/// What constant folding computes is what execution computes.
#[test]
fn folding_equals_execution() {
    for case in cases() {
        for dtype in [DType::F32, DType::BF16] {
            let graph = graph(&case, dtype);
            let inputs = inputs(&graph, None, &Binding::new(), 2);
            let outputs = run_whole(&graph, &Parameters::default(), &inputs);
            let node = &graph.nodes()[0];
            let operands: Vec<Tensor> = node
                .operands
                .iter()
                .map(|operand| match operand {
                    Value::Input(index) => inputs[*index].1.clone(),
                    other => panic!("{other:?}"),
                })
                .collect();
            let folded = CpuEvaluator
                .evaluate(&node.op, &operands, &node.ty)
                .unwrap();
            let found = outputs.host("y").unwrap();
            assert_eq!(
                (folded.dtype(), folded.shape()),
                (found.dtype(), found.shape())
            );
            assert_eq!(folded.bytes(), found.bytes(), "{dtype}: {}", case.1);
        }
    }
}

/// The result in a small dtype is the rounded result of f32 on the same values.
#[test]
fn every_result_is_rounded_once() {
    for case in cases() {
        for dtype in [DType::BF16, DType::F16, DType::F8E4M3] {
            let narrow = graph(&case, dtype);
            let wide = graph(&case, DType::F32);
            let given = inputs(&narrow, None, &Binding::new(), 3);
            let widened: Vec<_> = given
                .iter()
                .zip(wide.inputs())
                .map(|((name, tensor), input)| {
                    (name.clone(), tensor.to_dtype(input.ty.dtype).unwrap())
                })
                .collect();
            let found = run_whole(&narrow, &Parameters::default(), &given)
                .host("y")
                .unwrap();
            let expected = run_whole(&wide, &Parameters::default(), &widened)
                .host("y")
                .unwrap();
            let expected = expected.to_dtype(found.dtype()).unwrap();
            let pairs = found
                .to_f32_vec()
                .unwrap()
                .into_iter()
                .zip(expected.to_f32_vec().unwrap());
            for (found, expected) in pairs {
                let same = found == expected || (found.is_nan() && expected.is_nan());
                assert!(same, "{dtype}: {}: {found} for {expected}", case.1);
            }
        }
    }
}

/// Operations that run as one kernel, and the same with the value between them read too,
/// which keeps them apart.
#[test]
fn joined_kernels_drop_one_rounding_and_add_none() {
    let pairs = [
        (
            "x: T[9, 8], w: T[6, 8], b: T[6]",
            "T[9, 6] = linear %x, %w, %b",
            "T[9, 6] = ACT %0",
        ),
        (
            "x: T[9, 8], s: T[9, 1], h: T[8]",
            "T[9, 8] = layer_norm %x {epsilon = 1e-5}",
            "T[9, 8] = modulate %0, %s, %h",
        ),
        (
            "x: T[9, 8, 4], s: T[9, 1, 4], h: T[9, 1, 4]",
            "T[9, 8, 4] = layer_norm %x {epsilon = 1e-5}",
            "T[9, 8, 4] = modulate %0, %s, %h",
        ),
        (
            "x: T[2, 4, 3, 3], w: T[4], b: T[4]",
            "T[2, 4, 3, 3] = group_norm %x, %w, %b {groups = 2, epsilon = 1e-5}",
            "T[2, 4, 3, 3] = silu %0",
        ),
    ];
    for (given, first, second) in pairs {
        for activation in ["silu", "gelu_erf", "gelu_tanh", "gelu_quick"] {
            let text = |dtype: &str, also: &str| {
                let mut text = "graph \"pair\" {\n".to_owned();
                for input in declarations(given) {
                    text += &format!("  input request %{input}\n");
                }
                text += &format!("  %0: {first}\n  %1: {second}\n  output y = %1\n{also}}}");
                text.replace("ACT", activation)
                    .replace("T[", &format!("{dtype}["))
            };
            let joined = parse(&text("f32", "")).unwrap();
            let apart = parse(&text("f32", "  output between = %0\n")).unwrap();
            let narrow = parse(&text("bf16", "")).unwrap();
            let small = inputs(&narrow, None, &Binding::new(), 4);
            let wide: Vec<_> = small
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::F32).unwrap()))
                .collect();
            let y = |graph: &Graph, inputs: &[(String, Tensor)]| {
                run_whole(graph, &Parameters::default(), inputs)
                    .host("y")
                    .unwrap()
            };
            let joined = y(&joined, &wide);
            let error = relative_error(
                &joined.to_f32().unwrap(),
                &y(&apart, &wide).to_f32().unwrap(),
            );
            assert!(error < 1e-6, "{first}, {second}: {error:e}");
            let expected = joined.to_dtype(DType::BF16).unwrap();
            assert_eq!(
                y(&narrow, &small).bytes(),
                expected.bytes(),
                "{first}, {second}"
            );
        }
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn sizes_of_zero_run() {
    let cases: &[(&str, &str, &[f32])] = &[
        (
            "x: T[3, 0], w: T[2, 0], b: T[2]",
            "T[3, 2] = linear %x, %w, %b",
            &[0.5, -2.0, 0.5, -2.0, 0.5, -2.0],
        ),
        (
            "x: T[12, 0], w: T[1, 0]",
            "T[12, 1] = linear %x, %w",
            &[0.0; 12],
        ),
        ("x: T[0, 3], w: T[2, 3]", "T[0, 2] = linear %x, %w", &[]),
        ("x: T[3, 2], w: T[0, 2]", "T[3, 0] = linear %x, %w", &[]),
        (
            "x: T[2, 0], y: T[0, 1]",
            "T[2, 1] = matmul %x, %y",
            &[0.0, 0.0],
        ),
        ("x: T[2, 0]", "T[2, 0] = softmax %x", &[]),
        (
            "x: T[2, 0]",
            "T[2, 0] = layer_norm %x {epsilon = 1e-5}",
            &[],
        ),
        (
            "x: T[2, 0]",
            "T[2, 1] = reduce_sum %x {axes = [1]}",
            &[0.0, 0.0],
        ),
        (
            "x: T[0, 2]",
            "T[1, 2] = reduce_sum %x {axes = [0]}",
            &[0.0, 0.0],
        ),
        (
            "x: T[2, 0], y: T[2, 1]",
            "T[2, 1] = concat %x, %y {axis = 1}",
            &[0.5, -2.0],
        ),
        (
            "x: T[0, 2], i: i64[0]",
            "T[0, 2] = gather %x, %i {axis = 0}",
            &[],
        ),
        (
            "x: T[3, 0], i: i64[2]",
            "T[2, 0] = gather %x, %i {axis = 0}",
            &[],
        ),
        (
            "x: i64[3, 0], i: i64[2]",
            "i64[2, 0] = gather %x, %i {axis = 0}",
            &[],
        ),
        ("x: T[0, 3]", "i64[0] = argmax %x", &[]),
        (
            "x: T[2, 4, 0, 3], w: T[4], b: T[4]",
            "T[2, 4, 0, 3] = group_norm %x, %w, %b {groups = 2, epsilon = 1e-5}",
            &[],
        ),
        (
            "x: T[1, 0, 2, 2], w: T[2, 0, 1, 1], b: T[2]",
            "T[1, 2, 2, 2] = conv2d %x, %w, %b {stride = [1, 1], padding = [0, 0, 0, 0], groups = 1}",
            &[0.5, 0.5, 0.5, 0.5, -2.0, -2.0, -2.0, -2.0],
        ),
        (
            "x: T[0, 1, 2, 2], w: T[1, 1, 1, 1]",
            "T[0, 1, 2, 2] = conv2d %x, %w {stride = [1, 1], padding = [0, 0, 0, 0], groups = 1}",
            &[],
        ),
        (
            "x: T[1, 2, 0, 2]",
            "T[1, 2, 0, 6] = upsample_nearest %x {factor = 3}",
            &[],
        ),
        (
            "q: T[1, 0, 2, 4], k: T[1, 3, 2, 4]",
            "T[1, 0, 2, 4] = attention %q, %k, %k {scale = 0.5, causal = false}",
            &[],
        ),
        (
            "q: T[1, 1, 1, 2], k: T[1, 0, 1, 2]",
            "T[1, 1, 1, 2] = attention %q, %k, %k {scale = 0.5, causal = false}",
            &[f32::NAN; 2],
        ),
        (
            "x: T[1, 2, 2, 0], t: T[2, 0, 2]",
            "T[1, 2, 2, 0] = rotary %x, %t",
            &[],
        ),
        (
            "x: T[0, 2]",
            "f32[0, 2, 2] = rotary_table %x {theta = 100.0, dims = [2, 2]}",
            &[],
        ),
        (
            "x: T[0, 3, 4], s: T[0, 1, 4]",
            "T[0, 3, 4] = modulate %x, %s, %s",
            &[],
        ),
        (
            "x: T[2, 0, 4], s: T[2, 1, 4]",
            "T[2, 0, 4] = modulate %x, %s, %s",
            &[],
        ),
        (
            "x: T[2, 0, 3]",
            "T[3, 0, 2] = transpose %x {permutation = [2, 1, 0]}",
            &[],
        ),
        (
            "x: T[2, 1]",
            "T[2, 0] = slice %x {axis = 1, start = 1, end = 1}",
            &[],
        ),
        ("", "i64[0, 3] = iota {axis = 1}", &[]),
    ];
    for (given, op, expected) in cases {
        let graph = graph(&((*given).to_owned(), (*op).to_owned()), DType::F32);
        let inputs: Vec<_> = inputs(&graph, None, &Binding::new(), 5)
            .into_iter()
            .map(|(name, given)| {
                // Values that show where they end up; indices stay.
                let is_known = given.dtype() == DType::F32 && given.element_count() == 2;
                let known = || Tensor::from_f32(given.shape().clone(), vec![0.5, -2.0]).unwrap();
                (name, if is_known { known() } else { given.clone() })
            })
            .collect();
        let y = run_whole(&graph, &Parameters::default(), &inputs)
            .host("y")
            .unwrap();
        let found = y.to_f32_vec().unwrap();
        let same = found.len() == expected.len()
            && found
                .iter()
                .zip(*expected)
                .all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
        assert!(same, "{op}: {found:?}");
    }
}

fn integers(text: &str, given: &[(&str, Tensor)]) -> tintype_backend::Result<Vec<i64>> {
    let outputs = tintype_cpu::run(&parse(text).unwrap(), &Parameters::default(), given)?;
    Ok(outputs.host("y")?.to_i64_vec()?)
}

fn whole(op: &str, dtype: DType, x: i64, y: i64) -> tintype_backend::Result<i64> {
    let text = format!(
        "graph \"whole\" {{\n  input request %x: {dtype}[]\n  input request %y: {dtype}[]\n  \
         %0: {dtype}[] = {op} %x, %y  # here\n  output y = %0\n}}"
    );
    let scalar = |value: i64| Tensor::scalar(value).to_dtype(dtype).unwrap();
    Ok(integers(&text, &[("x", scalar(x)), ("y", scalar(y))])?[0])
}

#[test]
fn whole_numbers_wrap_and_divide_towards_zero() {
    let cases = [
        ("add", DType::I64, i64::MAX, 1, i64::MIN),
        (
            "add",
            DType::I32,
            i64::from(i32::MAX),
            1,
            i64::from(i32::MIN),
        ),
        ("add", DType::U8, 200, 100, 44),
        ("sub", DType::U8, 1, 2, 255),
        ("mul", DType::I32, 1 << 20, 1 << 20, 0),
        ("div", DType::I64, -7, 2, -3),
        ("div", DType::I64, i64::MIN, -1, i64::MIN),
        ("max", DType::I64, i64::MAX, i64::MAX - 1, i64::MAX),
        ("min", DType::I64, i64::MIN, i64::MIN + 1, i64::MIN),
        ("pow", DType::I64, -3, 3, -27),
        ("pow", DType::I64, 5, 0, 1),
    ];
    for (op, dtype, x, y, expected) in cases {
        assert_eq!(whole(op, dtype, x, y).unwrap(), expected, "{op} {dtype}");
    }
    let error = whole("div", DType::I64, 1, 0).unwrap_err().to_string();
    assert_eq!(error, "div of `here`: division of whole numbers by zero");
    let error = whole("pow", DType::I64, 2, -1).unwrap_err().to_string();
    assert!(
        error.starts_with("pow of `here`: expected an exponent in 0.."),
        "{error}"
    );
}

#[test]
fn an_index_out_of_range_names_the_operation() {
    let text = r#"graph "rows" {
  param @table: f32[3, 2]
  input request %i: i64[2]
  %0: f32[2, 2] = gather @table, %i {axis = 0}  # embed_tokens
  output y = %0
}"#;
    let graph = parse(text).unwrap();
    let parameters = parameters(&graph, 1);
    for (indices, wrong) in [
        ([0, 3], "3"),
        ([-1, 0], "-1"),
        ([0, i64::MAX], "9223372036854775807"),
    ] {
        let indices = Tensor::new([2], indices.to_vec()).unwrap();
        let error = tintype_cpu::run(&graph, &parameters, &[("i", indices)]).unwrap_err();
        assert!(matches!(error, tintype_backend::Error::Value { .. }));
        let expected =
            format!("gather of `embed_tokens`: index {wrong} is out of range, there are 3");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn any_byte_but_zero_is_true() {
    let text = "graph \"flags\" {\n  input request %x: bool[3]\n  %0: i64[3] = cast %x\n  output y = %0\n}";
    let flags = Tensor::from_bytes(DType::Bool, [3], vec![0, 1, 255]).unwrap();
    assert_eq!(integers(text, &[("x", flags)]).unwrap(), [0, 1, 1]);
}

#[test]
fn folding_refuses_what_does_not_fit() {
    let graph = graph(
        &("x: T[2, 3]".to_owned(), "T[2, 3] = neg %x".to_owned()),
        DType::F32,
    );
    let node = &graph.nodes()[0];
    let evaluate = |operands: &[Tensor]| CpuEvaluator.evaluate(&node.op, operands, &node.ty);
    assert!(evaluate(&[tensor(DType::F32, [2, 3], 1)]).is_ok());
    assert!(evaluate(&[]).is_err());
    assert!(evaluate(&[tensor(DType::F32, [3, 2], 1)]).is_err());
    assert!(evaluate(&[tensor(DType::I64, [2, 3], 1)]).is_err());
}

#[test]
fn the_number_of_outputs_does_not_change_their_bits() {
    let text = "graph \"two\" {\n  input request %x: bf16[3, 4]\n  %0: bf16[3, 4] = exp %x\n  \
                %1: bf16[3, 4] = neg %0\n  output y = %1\n  output z = %0\n}";
    let graph = parse(text).unwrap();
    let given = inputs(&graph, None, &Binding::new(), 1);
    let both = run_whole(&graph, &Parameters::default(), &given);
    let alone = parse(&text.replace("  output z = %0\n", "")).unwrap();
    let alone = run_whole(&alone, &Parameters::default(), &given);
    assert_eq!(bits(&both)[0], bits(&alone)[0]);
}
