//! The whole way on the CPU: observe a small network, keep scales in a table, quantize its graph,
//! see what that costs, and keep the worst layer.
//!
//! ```sh
//! cargo run -p tintype-quant --example calibrate
//! ```

use std::error::Error;

use tintype_backend::Tensors;
use tintype_cpu::CpuBackend;
use tintype_ir::{Graph, GraphBuilder, Stage, StagedGraph, TensorType, UnaryOp};
use tintype_quant::{
    Examples, Granularity, Method, ModelIdentity, Recipe, Rule, ScaleTable, calibrate, compare,
    keep_worst, quantize,
};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_weights::Parameters;

const WIDTH: usize = 64;
const LAYERS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let graph = network()?;
    let mut noise = TorchGenerator::new(1);
    let backend = CpuBackend::new();
    let mut model = Examples {
        backend: &backend,
        parameters: parameters(&graph, &mut noise)?,
        examples: (0..4)
            .map(|_| example(&mut noise))
            .collect::<Result<_, _>>()?,
        graph,
    };
    let recipe = Recipe::new([Rule::linears(["layers.**"], Granularity::PerTensor)]);
    println!("the recipe:\n{recipe}\n");

    // Scales, in a file that is checked when it is read.
    let calibration = calibrate(&mut model, &recipe, Method::Max)?;
    let identity = ModelIdentity::of(&model.graph, &model.parameters)?;
    let table = ScaleTable::new(identity.clone(), recipe.clone(), Method::Max, calibration);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("scales.json");
    table.write(&path)?;
    let table = ScaleTable::read(&path)?;
    table.check("scales.json", &identity, &model.graph)?;
    let scales = table.scales()?;
    println!(
        "{} scales, {} bytes of JSON",
        table.scales.len(),
        path.metadata()?.len()
    );

    // The graph with quantize and dequantize; its weights are handed on as codes.
    let quantized = quantize(&model.graph, &table.recipe, &scales)?;
    let programs = StagedGraph::split(&quantized.graph)?;
    let narrow = programs.step.parameters().iter();
    let narrow = narrow.filter(|parameter| parameter.ty.dtype == DType::F8E4M3);
    println!("{} weights of 8 bits in the step program\n", narrow.count());

    // What it costs, and what helps.
    let report = compare(&mut model, &recipe, &scales)?;
    println!("{report}");
    let kept = keep_worst(&mut model, &recipe, &scales, report.worst() * 0.8)?;
    println!(
        "four fifths of the error, with these kept: {}",
        kept.layers.join(", ")
    );
    println!("{}", kept.report);
    Ok(())
}

/// Linears with residuals between them.
fn network() -> tintype_ir::Result<Graph> {
    let mut b = GraphBuilder::new("network");
    let rows = b.symbol("rows", 1..=64);
    let ty = TensorType::new(DType::F32, [rows, WIDTH.into()]);
    let mut x = b.input("x", Stage::Step, ty);
    for layer in 0..LAYERS {
        let hidden = b.linear_named(&format!("layers.{layer}.up"), x, 4 * WIDTH, WIDTH, true);
        let hidden = b.unary(UnaryOp::GeluTanh, hidden);
        let change = b.linear_named(
            &format!("layers.{layer}.down"),
            hidden,
            WIDTH,
            4 * WIDTH,
            true,
        );
        x = b.add(x, change);
    }
    let y = b.linear_named("head", x, 8, WIDTH, true);
    b.output("y", y);
    b.finish()
}

fn parameters(graph: &Graph, noise: &mut TorchGenerator) -> Result<Parameters, Box<dyn Error>> {
    let mut builder = Parameters::builder();
    for parameter in graph.parameters() {
        let shape = parameter.ty.static_shape().ok_or("parameters have sizes")?;
        let columns = shape.last().copied().unwrap_or(1);
        let values = noise.randn(&*shape)?.to_f32_vec()?;
        let factor = 1.0 / (columns as f32).sqrt();
        let values = values.into_iter().map(|value| value * factor).collect();
        builder = builder.tensor(parameter.name.as_str(), Tensor::from_f32(shape, values)?);
    }
    Ok(builder.build()?)
}

/// No request inputs, and two steps.
fn example(noise: &mut TorchGenerator) -> Result<(Tensors, Vec<Tensors>), Box<dyn Error>> {
    let mut step = || -> Result<Tensors, Box<dyn Error>> {
        Ok(Tensors::new().with("x", noise.randn([16, WIDTH])?))
    };
    Ok((Tensors::new(), vec![step()?, step()?]))
}
