//! A module on a backend, and how it is compared.

use std::sync::Arc;

use tintype_backend::{Backend, Tensors};
use tintype_cpu::CpuBackend;
use tintype_ir::{Graph, Overlay, parse};
use tintype_refit::{
    Define, DefineError, Given, ModuleBuilder, MutableModule, Picture, Ranges, Signature, Weights,
};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use super::super::Result;
use super::super::promises::model::{Model, staged};

/// A backend with a small model, whose parameters and inputs are random.
pub(super) struct Subject {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) dtype: DType,
    /// The model's parameters alone.
    pub(super) parameters: Parameters,
    model: Model,
}

/// Inputs of one request and of one step of it.
#[derive(Clone)]
pub(super) struct Inputs {
    pub(super) request: Tensors,
    pub(super) step: Tensors,
}

/// Overlays with their own parameters.
#[derive(Clone, Default)]
pub(super) struct Adapters {
    pub(super) overlays: Vec<Overlay>,
    pub(super) own: Parameters,
}

/// All outputs, as they are.
pub(super) type Outputs = Vec<Tensor>;

impl Subject {
    pub(super) fn new(backend: &Arc<dyn Backend>, dtype: DType) -> Result<Self> {
        let model = Model::new(&CpuBackend::new(), dtype)?;
        let of_model = |name: &str| (!name.starts_with("lora.")).then(|| name.to_owned());
        Ok(Self {
            backend: Arc::clone(backend),
            dtype,
            parameters: model.parameters.renamed(of_model)?,
            model,
        })
    }

    /// The graph with another first activation.
    pub(super) fn graph(&self, activation: &str) -> Result<Graph> {
        let text = staged(self.dtype)?.source.to_string();
        Ok(parse(
            &text.replace("= silu ", &format!("= {activation} ")),
        )?)
    }

    /// A module of the graph as it is, compiled once for all its sizes.
    pub(super) fn module(&self) -> Result<MutableModule> {
        let all = Ranges::new()
            .symbol("steps", 1..=8)
            .symbol("tokens", 1..=256);
        Ok(self.builder(self.graph("silu")?).ranges(all).build())
    }

    /// A module of any definition on the backend.
    pub(super) fn builder(&self, define: impl Define + 'static) -> ModuleBuilder {
        let backend = Arc::clone(&self.backend);
        MutableModule::builder(backend, define, self.parameters.clone())
    }

    /// The model in the dtype of `x`, causal if the argument says so.
    pub(super) fn define() -> impl Define {
        |given: &Given| -> std::result::Result<Graph, DefineError> {
            let causal = given.argument("causal")? != 0;
            let source = staged(given.dtype("x")?).map_err(|error| error.to_string())?;
            let text = source.source.to_string();
            Ok(parse(
                &text.replace("causal = false", &format!("causal = {causal}")),
            )?)
        }
    }

    pub(super) fn inputs(&mut self, steps: usize, tokens: usize) -> Result<Inputs> {
        Ok(Inputs {
            request: self.model.request(steps)?,
            step: self.model.step(steps as i64 - 1, tokens)?,
        })
    }

    pub(super) fn random(&mut self, shape: &[usize], scale: f32) -> Result<Tensor> {
        self.model.random(shape, scale)
    }

    /// A low-rank update of `out.weight` of this name and scale, beside those of other names.
    pub(super) fn adapter(&mut self, name: &str, scale: f32) -> Result<Adapters> {
        let renamed = |text: &str| text.replace("lora.", &format!("{name}."));
        let overlay = self.model.lora()?;
        let fragment = parse(&renamed(&overlay.fragment().to_string()))?;
        let mut own = Parameters::builder();
        for (part, shape) in [("lora.up", [64, 4]), ("lora.down", [4, 64])] {
            let tensor = self.model.random(&shape, scale)?.to_dtype(DType::F32)?;
            own = own.tensor(renamed(part), tensor);
        }
        Ok(Adapters {
            overlays: vec![Overlay::new(overlay.parameter(), fragment)?],
            own: own.build()?,
        })
    }

    /// See [`expect_near`].
    pub(super) fn expect_near(
        &self,
        module: &MutableModule,
        define: impl Define + 'static,
        inputs: &Inputs,
    ) -> Result<String> {
        expect_near(self.dtype, module, define, inputs)
    }

    /// The same for the model's graph.
    pub(super) fn expect_fresh(&self, module: &MutableModule, inputs: &Inputs) -> Result<String> {
        self.expect_near(module, self.graph("silu")?, inputs)
    }
}

impl Adapters {
    /// These and then others.
    pub(super) fn and(mut self, others: &Self) -> Result<Self> {
        self.overlays.extend_from_slice(&others.overlays);
        let own = Parameters::builder().parameters(&self.own);
        self.own = own.parameters(&others.own).build()?;
        Ok(self)
    }

    /// Attaches these and no others.
    pub(super) fn set(&self, module: &MutableModule) -> tintype_refit::Result<()> {
        module.change(|change| {
            change.set_overlays(self.overlays.as_slice(), self.own.clone());
            Ok(())
        })
    }
}

impl Inputs {
    pub(super) fn signature(&self) -> Signature {
        Signature::of(&self.request).and(&self.step)
    }
}

pub(super) fn outputs(module: &MutableModule, inputs: &Inputs) -> Result<Outputs> {
    let call = module.call(&inputs.request, &inputs.step)?;
    in_order(&call.outputs)
}

/// The outputs of each of so many steps of one picture.
pub(super) fn steps(picture: &mut Picture<'_>, inputs: &Inputs, count: usize) -> Result<Outputs> {
    let state = picture.prepare(&inputs.request)?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.extend(in_order(&picture.step(state.as_ref(), &inputs.step)?)?);
    }
    Ok(all)
}

pub(super) fn in_order(outputs: &Tensors) -> Result<Outputs> {
    let mut named: Vec<_> = outputs.iter().collect();
    named.sort_by_key(|(name, _)| *name);
    let hosts = named.into_iter().map(|(_, tensor)| Ok(tensor.to_host()?));
    hosts.collect()
}

pub(super) fn is_same(one: &Outputs, other: &Outputs) -> bool {
    let is_pair_same = |(one, other): (&Tensor, &Tensor)| one.bytes() == other.bytes();
    one.len() == other.len() && one.iter().zip(other).all(is_pair_same)
}

/// Fails unless both are the same to the bit.
pub(super) fn expect_same(found: &Outputs, expected: &Outputs) -> Result<()> {
    if is_same(found, expected) {
        return Ok(());
    }
    Err("the bits differ".into())
}

/// Fails if both are the same to the bit.
pub(super) fn expect_other(found: &Outputs, before: &Outputs) -> Result<()> {
    if is_same(found, before) {
        return Err("nothing changed".into());
    }
    Ok(())
}

/// Fails unless a number is what it should be.
pub(super) fn expect_count(what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(format!("expected {expected} {what}, found {found}").into())
}

/// Fails unless a module, whose graph is in this dtype, gives what one on the CPU gives that is
/// made anew of its weights.
pub(super) fn expect_near(
    dtype: DType,
    module: &MutableModule,
    define: impl Define + 'static,
    inputs: &Inputs,
) -> Result<String> {
    expect_near_to(dtype, module, (define, module.weights()), inputs)
}

/// The same of other weights than the module says that it has.
pub(super) fn expect_near_to(
    dtype: DType,
    module: &MutableModule,
    (define, weights): (impl Define + 'static, Weights),
    inputs: &Inputs,
) -> Result<String> {
    let fresh = MutableModule::builder(Arc::new(CpuBackend::new()), define, Parameters::default());
    // An argument that a graph does not ask for does no harm.
    let fresh = fresh.argument("causal", 0).weights(weights).build();
    let expected = outputs(&fresh, inputs)?;
    compare(dtype, &outputs(module, inputs)?, &expected)
}

fn compare(dtype: DType, found: &Outputs, expected: &Outputs) -> Result<String> {
    expect_count("outputs", found.len(), expected.len())?;
    let mut worst = 0.0f64;
    for (found, expected) in found.iter().zip(expected) {
        worst = worst.max(error(found, expected)?);
    }
    let allowed = tintype_conformance::Tolerance::relative(dtype);
    let text = format!("error {worst:.1e}, at most {allowed:.0e}");
    if worst <= allowed {
        Ok(text)
    } else {
        Err(text.into())
    }
}

fn error(found: &Tensor, expected: &Tensor) -> Result<f64> {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        return Err(format!("found {}{}", found.dtype(), found.shape()).into());
    }
    let (found, expected) = (found.to_f32_vec()?, expected.to_f32_vec()?);
    let error = tintype_tensor::relative_error(&found, &expected);
    // A NaN is not within anything.
    Ok(if error.is_nan() { f64::INFINITY } else { error })
}

/// Weights without overlays.
pub(super) fn plain(parameters: &Parameters) -> Weights {
    Weights::new(parameters.clone())
}
