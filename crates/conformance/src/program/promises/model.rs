//! A small model with all three stages, its parameters and its inputs.

use tintype_backend::{Backend, Changes, CompileOptions, Executable, Tensors};
use tintype_conformance::Tolerance;
use tintype_cpu::CpuBackend;
use tintype_ir::{Graph, Overlay, StagedGraph, parse, verify};
use tintype_tensor::{DType, Tensor, TorchGenerator, relative_error};
use tintype_weights::Parameters;

use super::super::Result;
use super::super::report::Measured;

/// A block of a transformer as far as it needs: modulation for all steps at once, of which a
/// step reads its row; a norm; a product with a weight that is computed; attention.
const MODEL: &str = r#"graph "block" {
  dim steps = 1..=8
  dim tokens = 1..=256
  param @modulation.weight: DTYPE[128, 64]
  param @modulation.bias: DTYPE[128]
  param @qkv.weight: DTYPE[192, 64]
  param @gain: DTYPE[64]
  param @out.weight: DTYPE[64, 64]
  param @out.bias: DTYPE[64]
  input request %timesteps: DTYPE[steps, 64]
  input request %scale: DTYPE[64]
  input step %step_index: i64[1]
  input step %x: DTYPE[tokens, 64]
  %0: DTYPE[steps, 64] = silu %timesteps
  %1: DTYPE[steps, 128] = linear %0, @modulation.weight, @modulation.bias  # modulation
  %2: DTYPE[1, 128] = gather %1, %step_index {axis = 0}
  %3: DTYPE[1, 64] = slice %2 {axis = 1, start = 0, end = 64}
  %4: DTYPE[1, 64] = slice %2 {axis = 1, start = 64, end = 128}
  %5: DTYPE[tokens, 64] = layer_norm %x {epsilon = 1e-6}
  %6: DTYPE[tokens, 64] = modulate %5, %3, %4
  %7: DTYPE[192, 64] = mul @qkv.weight, @gain
  %8: DTYPE[tokens, 192] = linear %6, %7  # qkv
  %9: DTYPE[1, tokens, 12, 16] = reshape %8
  %10: DTYPE[1, tokens, 4, 16] = slice %9 {axis = 2, start = 0, end = 4}
  %11: DTYPE[1, tokens, 4, 16] = slice %9 {axis = 2, start = 4, end = 8}
  %12: DTYPE[1, tokens, 4, 16] = slice %9 {axis = 2, start = 8, end = 12}
  %13: DTYPE[1, tokens, 4, 16] = attention %10, %11, %12 {scale = 0.25, causal = false}
  %14: DTYPE[tokens, 64] = reshape %13
  %15: DTYPE[tokens, 64] = linear %14, @out.weight, @out.bias  # out
  %16: DTYPE[tokens, 64] = mul %15, %scale
  %17: DTYPE[tokens, 64] = add %x, %16
  %18: DTYPE[steps, 64] = gelu_tanh %timesteps
  output y = %17
  output embedded = %18
}"#;

/// Low-rank update of `out.weight`.
const LORA: &str = r#"graph "lora" {
  param @base: DTYPE[64, 64]
  param @lora.up: f32[64, 4]
  param @lora.down: f32[4, 64]
  %0: f32[64, 64] = matmul @lora.up, @lora.down
  WIDENED
  %2: f32[64, 64] = add BASE, %0
  ROUNDED
  output weight = RESULT
}"#;

/// A model compiled by the backend and by the CPU, and where its numbers come from.
pub(crate) struct Model {
    pub(crate) dtype: DType,
    pub(crate) parameters: Parameters,
    pub(crate) executable: Box<dyn Executable>,
    pub(crate) reference: Box<dyn Executable>,
    generator: TorchGenerator,
}

impl Model {
    pub(crate) fn new(backend: &dyn Backend, dtype: DType) -> Result<Self> {
        Self::with(backend, dtype, &CompileOptions::default())
    }

    pub(crate) fn with(
        backend: &dyn Backend,
        dtype: DType,
        options: &CompileOptions,
    ) -> Result<Self> {
        let staged = staged(dtype)?;
        let mut model = Self {
            dtype,
            parameters: Parameters::builder().build()?,
            executable: backend.compile(&staged, options)?,
            reference: CpuBackend::new().compile(&staged, &CompileOptions::default())?,
            generator: TorchGenerator::new(7),
        };
        for parameter in staged.source.parameters() {
            let shape = parameter.ty.static_shape().ok_or("a shape")?;
            let scale = if parameter.name == "gain" { 1.0 } else { 0.1 };
            let tensor = model.random(&shape, scale)?;
            model.parameters.insert(parameter.name.clone(), tensor)?;
        }
        for (name, shape) in [("lora.up", [64, 4]), ("lora.down", [4, 64])] {
            let tensor = model.random(&shape, 0.3)?.to_dtype(DType::F32)?;
            model.parameters.insert(name, tensor)?;
        }
        Ok(model)
    }

    /// Random values in the model's dtype.
    pub(crate) fn random(&mut self, shape: &[usize], scale: f32) -> Result<Tensor> {
        let values = self.generator.randn(shape.to_vec())?.to_f32_vec()?;
        let values = values.into_iter().map(|value| value * scale).collect();
        Ok(Tensor::from_f32(shape.to_vec(), values)?.to_dtype(self.dtype)?)
    }

    /// Inputs of a request of so many steps.
    pub(crate) fn request(&mut self, steps: usize) -> Result<Tensors> {
        let timesteps = self.random(&[steps, 64], 1.0)?;
        Ok(Tensors::new()
            .with("timesteps", timesteps)
            .with("scale", self.random(&[64], 1.0)?))
    }

    /// Inputs of the step of this number with so many tokens.
    pub(crate) fn step(&mut self, index: i64, tokens: usize) -> Result<Tensors> {
        Ok(Tensors::new()
            .with("step_index", Tensor::new([1], vec![index])?)
            .with("x", self.random(&[tokens, 64], 1.0)?))
    }

    pub(crate) fn lora(&self) -> Result<Overlay> {
        let is_f32 = self.dtype == DType::F32;
        let parts = if is_f32 {
            ["", "@base", "", "%1"]
        } else {
            [
                "%1: f32[64, 64] = cast @base",
                "%1",
                "%3: DTYPE[64, 64] = cast %2",
                "%3",
            ]
        };
        let text = LORA
            .replace("WIDENED", parts[0])
            .replace("BASE", parts[1])
            .replace("ROUNDED", parts[2])
            .replace("RESULT", if is_f32 { "%2" } else { parts[3] });
        Ok(Overlay::new("out.weight", graph(&text, self.dtype)?)?)
    }

    /// Both refitted.
    pub(crate) fn refit(&self, changes: &Changes<'_>) -> Result<()> {
        self.executable.refit(changes)?;
        self.reference.refit(changes)?;
        Ok(())
    }

    /// What both give for one request and one step of it.
    pub(crate) fn both(&self, request: &Tensors, step: &Tensors) -> Result<[Tensor; 2]> {
        let run = |executable: &dyn Executable| -> Result<Tensor> {
            let mut session = executable.session()?;
            let state = session.prepare(request)?;
            Ok(session.step(state.as_ref(), step)?.host("y")?)
        };
        Ok([
            run(self.executable.as_ref())?,
            run(self.reference.as_ref())?,
        ])
    }

    /// How far a result is from the CPU's.
    pub(crate) fn near(&self, found: &Tensor, expected: &Tensor) -> Result<Measured> {
        if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
            let (dtype, shape) = (found.dtype(), found.shape());
            return Err(format!("found {dtype}{shape}").into());
        }
        Ok(Measured {
            error: relative_error(&found.to_f32_vec()?, &expected.to_f32_vec()?),
            allowed: Tolerance::relative(self.dtype),
            note: String::new(),
        })
    }

    /// The same, as an error if it is too far.
    pub(crate) fn expect_near(&self, found: &Tensor, expected: &Tensor) -> Result<String> {
        let Measured { error, allowed, .. } = self.near(found, expected)?;
        let text = format!("error {error:.1e}, at most {allowed:.0e}");
        if error <= allowed {
            Ok(text)
        } else {
            Err(text.into())
        }
    }
}

/// The model's programs.
pub(crate) fn staged(dtype: DType) -> Result<StagedGraph> {
    Ok(StagedGraph::split(&graph(MODEL, dtype)?)?)
}

fn graph(text: &str, dtype: DType) -> Result<Graph> {
    let graph = parse(&text.replace("DTYPE", dtype.name()))?;
    verify(&graph)?;
    Ok(graph)
}
