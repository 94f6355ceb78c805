//! Each named fusion, from the smallest graph that has it, and what must not be fused.

use tintype_cuda::Plan;
use tintype_ir::{Binding, parse};

/// The names of the steps of a graph with these lines, whose last value is the output.
fn steps_of(lines: &[&str]) -> Vec<String> {
    let mut text = String::from(
        "graph g {
          param @w: bf16[32, 32]
          param @wide: bf16[96, 32]
          param @codes: f8e4m3[32, 32]
          param @s: f32[]
          param @rows: f32[32, 1]
          param @n: bf16[8]
          param @c: bf16[32]
          input step %x: bf16[1, 16, 32]
          input step %r: bf16[1, 16, 32]
          input step %m: bf16[1, 1, 32]
          input step %p: bf16[1, 32, 4, 4]
          input step %table: f32[16, 4, 2]
          input step %dt: f32[]\n",
    );
    for (number, line) in lines.iter().enumerate() {
        text.push_str(&format!("%{number}: {line}\n"));
    }
    text.push_str(&format!("output y = %{} }}", lines.len() - 1));
    let graph = parse(&text).expect("a graph");
    let plan = Plan::new(&graph, &Binding::new()).expect("a plan");
    plan.steps.into_iter().map(|step| step.name).collect()
}

const STREAM: &str = "bf16[1, 16, 32]";

fn stream(operation: &str) -> String {
    format!("{STREAM} = {operation}")
}

#[test]
fn norm_and_modulation_are_one_kernel() {
    let norm = stream("layer_norm %x {epsilon = 1e-6}");
    assert_eq!(
        steps_of(&[&norm, &stream("modulate %0, %m, %m")]),
        ["norm_modulate"]
    );
    let residual = stream("gated_residual %x, %m, %r");
    let norm = stream("layer_norm %0 {epsilon = 1e-6}");
    let all = [
        residual.as_str(),
        &norm,
        &stream("modulate %1, %m, %m"),
        &stream("add %2, %0"),
    ];
    let names = steps_of(&all);
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(steps_of(&all[..3]), ["residual_norm_modulate"]);
}

#[test]
fn queries_and_keys_are_normed_and_turned_together() {
    let heads = "bf16[1, 16, 4, 8]";
    let mut lines = vec!["bf16[1, 16, 96] = linear %x, @wide".to_owned()];
    for (part, start) in [0, 32, 64].into_iter().enumerate() {
        let first = lines.len();
        let end = start + 32;
        lines.push(stream(&format!(
            "slice %0 {{axis = 2, start = {start}, end = {end}}}"
        )));
        lines.push(format!("{heads} = reshape %{first}"));
        if part < 2 {
            lines.push(format!(
                "{heads} = rms_norm %{}, @n {{epsilon = 1e-6}}",
                first + 1
            ));
            lines.push(format!("{heads} = rotary %{}, %table", first + 2));
        }
    }
    lines.push(format!(
        "{heads} = attention %4, %8, %10 {{scale = 1.0, causal = false}}"
    ));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(
        steps_of(&lines),
        ["linear", "query_key_norm_rotary", "attention"]
    );
}

#[test]
fn gelu_is_the_products_where_nothing_else_reads_the_sum() {
    let product = stream("linear %x, @w");
    let gelu = stream("gelu_tanh %0");
    assert_eq!(steps_of(&[&product, &gelu]), ["linear_gelu"]);
    let both = [product.as_str(), &gelu, &stream("mul %0, %1")];
    assert_eq!(steps_of(&both), ["linear", "gated_gelu"]);
    // The library knows the tanh form alone.
    assert_eq!(
        steps_of(&[&product, &stream("gelu_erf %0")]),
        ["linear", "gelu_erf"]
    );
}

/// Appends what makes codes of a value of the stream; gives the number of the codes.
fn quantized(lines: &mut Vec<String>, value: &str, scale: &str) -> usize {
    let first = lines.len();
    lines.push(format!("f32[1, 16, 32] = cast {value}"));
    lines.push(format!("f32[1, 16, 32] = div %{first}, {scale}"));
    lines.push(format!("f8e4m3[1, 16, 32] = cast %{}", first + 1));
    first + 2
}

/// Appends the value of codes; gives its number.
fn dequantized(lines: &mut Vec<String>, codes: &str, scale: &str, shape: &str) -> usize {
    let first = lines.len();
    lines.push(format!("f32{shape} = cast {codes}"));
    lines.push(format!("f32{shape} = mul %{first}, {scale}"));
    lines.push(format!("bf16{shape} = cast %{}", first + 1));
    first + 2
}

fn names(lines: &[String]) -> Vec<String> {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    steps_of(&lines)
}

#[test]
fn layers_on_codes_are_products_of_codes() {
    for (scale, activation, expected) in [
        (
            "@s",
            false,
            vec![
                "reciprocals",
                "norm_modulate_quantize",
                "fp8_linear_quantize",
                "fp8_linear",
            ],
        ),
        (
            "@s",
            true,
            vec![
                "reciprocals",
                "norm_modulate_quantize",
                "fp8_linear_gelu_quantize",
                "fp8_linear",
            ],
        ),
        // A scale may be an input.
        (
            "%dt",
            true,
            vec![
                "reciprocals",
                "norm_modulate_quantize",
                "fp8_linear_gelu_quantize",
                "fp8_linear",
            ],
        ),
    ] {
        let mut lines = vec![
            stream("layer_norm %x {epsilon = 1e-6}"),
            stream("modulate %0, %m, %m"),
        ];
        let codes = quantized(&mut lines, "%1", "@s");
        let input = dequantized(&mut lines, &format!("%{codes}"), "@s", "[1, 16, 32]");
        let weight = dequantized(&mut lines, "@codes", "@rows", "[32, 32]");
        lines.push(stream(&format!("linear %{input}, %{weight}")));
        if activation {
            lines.push(stream(&format!("gelu_tanh %{}", lines.len() - 1)));
        }
        let last = format!("%{}", lines.len() - 1);
        let codes = quantized(&mut lines, &last, scale);
        let input = dequantized(&mut lines, &format!("%{codes}"), scale, "[1, 16, 32]");
        lines.push(stream(&format!("linear %{input}, %{weight}")));
        assert_eq!(names(&lines), expected);
    }
}

#[test]
fn values_that_others_read_too_are_computed() {
    let mut lines = Vec::new();
    let codes = quantized(&mut lines, "%x", "@s");
    let input = dequantized(&mut lines, &format!("%{codes}"), "@s", "[1, 16, 32]");
    let weight = dequantized(&mut lines, "@codes", "@s", "[32, 32]");
    lines.push(stream(&format!("linear %{input}, %{weight}")));
    let product = lines.len() - 1;
    lines.push(stream(&format!("add %{product}, %{input}")));
    let found = names(&lines);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[1..], ["fp8_linear", "add"]);
    // Of one operand in codes there is no product of codes.
    let mut lines = Vec::new();
    let weight = dequantized(&mut lines, "@codes", "@s", "[32, 32]");
    lines.push(stream(&format!("linear %x, %{weight}")));
    assert_eq!(names(&lines), ["cast_mul_cast", "linear"]);
}

#[test]
fn parts_of_a_concatenation_become_codes_where_they_are_computed() {
    let wide = "[1, 16, 64]";
    let lines = [
        stream("silu %x"),
        stream("linear %r, @w"),
        format!("bf16{wide} = concat %0, %1 {{axis = 2}}"),
        format!("f32{wide} = cast %2"),
        format!("f32{wide} = div %3, @s"),
        format!("f8e4m3{wide} = cast %4"),
    ];
    assert_eq!(names(&lines), ["linear", "silu_quantize", "quantize"]);
}

#[test]
fn group_norm_takes_what_is_around_it() {
    let picture = "bf16[1, 32, 4, 4]";
    let norm = format!("{picture} = group_norm %p, @c, @c {{groups = 4, epsilon = 1e-6}}");
    let silu = format!("{picture} = silu %0");
    assert_eq!(steps_of(&[&norm, &silu]), ["group_norm_silu"]);
}

#[test]
fn an_euler_step_is_one_kernel() {
    let wide = "f32[1, 16, 32]";
    let lines = [
        format!("{wide} = cast %x"),
        format!("{wide} = cast %r"),
        format!("{wide} = mul %1, %dt"),
        format!("{wide} = add %0, %2"),
        stream("cast %3"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(steps_of(&lines), ["euler_step"]);
}

#[test]
fn a_group_is_not_formed_around_a_product() {
    let lines = [
        stream("silu %x"),
        stream("linear %0, @w"),
        stream("add %0, %1"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(steps_of(&lines), ["silu", "linear", "add"]);
}

#[test]
fn a_concatenation_of_products_is_written_in_place() {
    let lines = [
        stream("linear %x, @w"),
        stream("linear %r, @w"),
        "bf16[1, 16, 64] = concat %0, %1 {axis = 2}".to_owned(),
        "bf16[1, 16, 64] = silu %2".to_owned(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(steps_of(&lines), ["linear", "linear", "silu"]);
}

#[test]
fn a_group_reads_no_views_of_its_own_values() {
    let half = |start: usize, end: usize| {
        format!("bf16[1, 8, 32] = slice %0 {{axis = 1, start = {start}, end = {end}}}")
    };
    let lines = [
        stream("silu %x"),
        half(8, 16),
        half(0, 8),
        stream("concat %1, %2 {axis = 1}"),
        stream("add %0, %3"),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let names = steps_of(&lines);
    assert_eq!(
        (names[0].as_str(), names[names.len() - 1].as_str()),
        ("silu", "add")
    );
}
