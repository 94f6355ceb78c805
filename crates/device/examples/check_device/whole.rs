//! Whole weight programs: all updates, what has no kernel, refits, bad parameters.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tintype_cpu::CpuEvaluator;
use tintype_device::{WeightProgram, WeightReport};
use tintype_ir::{Graph, StagedGraph};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use crate::programs::{adapters, config, transformer};
use crate::{Bench, Result};

pub(crate) fn check(bench: &mut Bench) -> Result<()> {
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 3e-4), (DType::BF16, 2e-3)] {
        updates(bench, dtype, tolerance)?;
    }
    fallback(bench)?;
    let result = bad_parameters(bench);
    bench
        .report
        .result("a bad parameter is an error, and work goes on", result);
    Ok(())
}

/// The weights of a program by the device.
fn run(
    bench: &mut Bench,
    graph: &Arc<Graph>,
    parameters: &Parameters,
    wanted: Option<&HashSet<&str>>,
) -> Result<(BTreeMap<String, Tensor>, WeightReport)> {
    let program = WeightProgram {
        graph,
        parameters,
        wanted,
        evaluator: &CpuEvaluator,
        kept: None,
        in_place: None,
    };
    let mut delivered = Vec::new();
    let report = bench.runner.run(&program, &mut |name, tensor| {
        delivered.push((name.to_owned(), tensor));
        Ok(())
    })?;
    let stream = bench.device.new_stream()?;
    let mut weights = BTreeMap::new();
    for (name, tensor) in delivered {
        weights.insert(name, tensor.download(&stream)?);
    }
    Ok((weights, report))
}

fn updates(bench: &mut Bench, dtype: DType, tolerance: f64) -> Result<()> {
    let config = config();
    let adapters = adapters(&config, &mut bench.generator)?;
    let program = transformer(&config, dtype, &adapters, &mut bench.generator)?;
    let (graph, parameters) = (&program.graph, &program.parameters);
    let (weights, report) = run(bench, graph, parameters, None)?;
    println!("        {report:?}");
    let expected = tintype_cpu::run(graph, parameters, &[])?;
    let mut worst = (0.0f64, String::new());
    for (name, expected) in expected.iter() {
        let (expected, found) = (expected.to_host()?, &weights[name]);
        let same_type = expected.dtype() == found.dtype() && expected.shape() == found.shape();
        let error = tintype_tensor::relative_error(&found.to_f32_vec()?, &expected.to_f32_vec()?);
        let error = if same_type { error } else { f64::INFINITY };
        if error.is_nan() || error >= worst.0 {
            worst = (error, name.to_owned());
        }
    }
    let name = format!("all updates of a transformer in {dtype}");
    let found = format!(
        "{} weights, worst {:.1e} ({})",
        weights.len(),
        worst.0,
        worst.1
    );
    bench.report.line(&name, worst.0 <= tolerance, found);
    let on_device = report.on_host == 0 && report.downloaded == 0;
    bench
        .report
        .line("nothing of it ran on the host", on_device, report.on_host);
    refit(bench, graph, parameters, &weights)
}

/// A part of the program gives the same bits as the whole.
fn refit(
    bench: &mut Bench,
    graph: &Arc<Graph>,
    parameters: &Parameters,
    weights: &BTreeMap<String, Tensor>,
) -> Result<()> {
    let changed = HashSet::from(["transformer_blocks.0.attn.to_q.weight"]);
    let reached: HashSet<&str> = StagedGraph::reached_weights(graph, &changed)
        .into_iter()
        .collect();
    let (again, _) = run(bench, graph, parameters, Some(&reached))?;
    let is_same = |(name, tensor): (&String, &Tensor)| tensor.bytes() == weights[name].bytes();
    let passed = !again.is_empty() && again.len() == reached.len() && again.iter().all(is_same);
    let found = format!("{} weights", again.len());
    bench
        .report
        .line("a refit gives the same bits", passed, found);
    Ok(())
}

/// Operations without kernels before, between and after those that have one.
fn fallback(bench: &mut Bench) -> Result<()> {
    let text = r#"
graph "fallback" {
  param @x: bf16[16, 24]
  param @i: i64[5]
  %0: bf16[16, 24] = exp @x
  %1: f32[16, 24] = cast %0
  %2: f32[16, 24] = mul %1, %1
  %3: f32[16, 24] = tanh %2
  %4: f32[16, 24] = add %3, %1
  %5: f32[5, 24] = gather %4, @i {axis = 0}
  %6: f32[24, 5] = transpose %5 {permutation = [1, 0]}
  output y = %6
  output x = @x
  output i = @i
}
"#;
    let graph = Arc::new(tintype_ir::parse(text)?);
    tintype_ir::verify(&graph)?;
    // Stored as f32, so that the device rounds it.
    let x = bench.generator.randn([16, 24])?;
    let parameters = Parameters::builder()
        .tensor("x", x)
        .tensor("i", Tensor::new([5], vec![3i64, 0, 15, 3, 7])?)
        .build()?;
    let (weights, report) = run(bench, &graph, &parameters, None)?;
    let expected = tintype_cpu::run(&graph, &parameters, &[])?;
    for (name, tolerance) in [("x", 0.0), ("i", 0.0), ("y", 1e-6)] {
        let line = format!("operations without kernels: {name}");
        let expected = expected.host(name)?;
        bench
            .report
            .compare(&line, &weights[name], &expected, tolerance);
    }
    let counts = (report.on_host, report.kernels);
    bench.report.line(
        "they ran where they should",
        counts == (3, 4),
        format!("{counts:?}"),
    );
    Ok(())
}

fn bad_parameters(bench: &mut Bench) -> Result<String> {
    let text = "graph \"bad\" {\n  param @x: f32[4]\n  %0: f32[4] = neg @x\n  output y = %0\n}\n";
    let graph = Arc::new(tintype_ir::parse(text)?);
    let missing = Parameters::builder().build()?;
    let x = Tensor::from_f32([5], vec![0.0; 5])?;
    let wrong = Parameters::builder().tensor("x", x).build()?;
    let x = Tensor::from_f32_as(DType::BF16, [5], vec![0.0; 5])?;
    let wrong_and_small = Parameters::builder().tensor("x", x).build()?;
    let x = Tensor::new([4], vec![1i64, 2, 3, 4])?;
    let integers = Parameters::builder().tensor("x", x).build()?;
    let mut messages = Vec::new();
    for parameters in [missing, wrong, wrong_and_small, integers] {
        match run(bench, &graph, &parameters, None) {
            Ok(_) => return Err("a bad parameter was taken".into()),
            Err(error) => messages.push(error.to_string()),
        }
    }
    let x = Tensor::from_f32([4], vec![1.0, 2.0, 3.0, 4.0])?;
    let good = Parameters::builder().tensor("x", x).build()?;
    let (weights, _) = run(bench, &graph, &good, None)?;
    if weights["y"].to_f32_vec()? != [-1.0, -2.0, -3.0, -4.0] {
        return Err("work does not go on".into());
    }
    Ok(messages.remove(1))
}
