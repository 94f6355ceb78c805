//! Reads a graph from text and runs it: once whole, once by stages.

use tintype_backend::{Backend, Changes, CompileOptions, Tensors};
use tintype_cpu::CpuBackend;
use tintype_ir::StagedGraph;
use tintype_tensor::{Tensor, TorchGenerator};
use tintype_weights::Parameters;

const GRAPH: &str = r#"
graph "mlp" {
  dim tokens = 1..=64
  param @up.weight: f32[16, 8]
  param @up.bias: f32[16]
  input request %condition: f32[16]
  input step %x: f32[tokens, 8]
  %0: f32[16] = silu %condition
  %1: f32[tokens, 16] = linear %x, @up.weight, @up.bias  # up
  %2: f32[tokens, 16] = gelu_tanh %1
  %3: f32[tokens, 16] = mul %2, %0
  output y = %3
}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let graph = tintype_ir::parse(GRAPH)?;
    let mut generator = TorchGenerator::new(1);
    let parameters = Parameters::builder()
        .tensor("up.weight", generator.randn([16, 8])?)
        .tensor("up.bias", generator.randn([16])?)
        .build()?;
    let condition = generator.randn([16])?;
    let x = generator.randn([5, 8])?;
    let inputs = [("condition", condition.clone()), ("x", x.clone())];
    let whole = tintype_cpu::run(&graph, &parameters, &inputs)?.host("y")?;

    let executable =
        CpuBackend::new().compile(&StagedGraph::split(&graph)?, &CompileOptions::default())?;
    executable.refit(&Changes::all(&parameters))?;
    let mut session = executable.session()?;
    let state = session.prepare(&Tensors::new().with("condition", condition))?;
    let staged = session
        .step(state.as_ref(), &Tensors::new().with("x", x))?
        .host("y")?;
    print_same(&whole, &staged)?;
    Ok(())
}

fn print_same(whole: &Tensor, staged: &Tensor) -> Result<(), Box<dyn std::error::Error>> {
    let (whole, staged) = (whole.to_f32_vec()?, staged.to_f32_vec()?);
    println!("first values {:?}", &whole[..4]);
    println!(
        "relative difference of the two ways {:e}",
        tintype_tensor::relative_error(&staged, &whole)
    );
    Ok(())
}
