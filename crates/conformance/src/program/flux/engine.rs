//! An engine with one context: refits from the device, and runs.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tintype_device::{CudaTensor, Staging, Stream};
use tintype_tensor::Tensor;
use tintype_tensorrt::lower::{InputKind, Layers};
use tintype_tensorrt::{Context, ContextOptions, Engine, Refitter};

use super::super::Result;
use super::weights::{Maker, Needed, literal};

/// An engine and what it was lowered from.
pub(super) struct Loaded {
    /// None before the first run.
    context: Option<Context>,
    refitter: Refitter,
    pub(super) layers: Layers,
    pub(super) needed: Needed,
    engine: Engine,
    has_literals: bool,
    /// Names with which the library lacks none.
    complete: HashSet<Vec<String>>,
}

/// What a refit took.
pub(super) struct Refitted {
    /// From the first weight named to the end of the work on the device.
    pub(super) milliseconds: f64,
    /// Of these, for naming the weights.
    pub(super) setting: f64,
    /// Of these, for asking which weights are lacking.
    pub(super) asking: f64,
    /// Weights that the library wanted besides.
    pub(super) added: usize,
}

impl Loaded {
    pub(super) fn new(engine: Engine, layers: Layers) -> Result<Self> {
        let mut refitter = engine.refitter()?;
        refitter.set_validation(false)?;
        let needed = Needed::of(&layers);
        let unknown = refitter
            .weights()
            .find(|own| !needed.0.contains_key(own.name));
        if let Some(unknown) = unknown {
            return Err(format!("the engine wants `{}`, which nobody placed", unknown.name).into());
        }
        Ok(Self {
            context: None,
            refitter,
            layers,
            needed,
            engine,
            has_literals: false,
            complete: HashSet::new(),
        })
    }

    /// Weights that the engine has no use for, or will not have changed.
    pub(super) fn not_taken(&self) -> Vec<&str> {
        let placeholders = self
            .needed
            .0
            .values()
            .filter(|weight| weight.is_placeholder());
        let names = placeholders.map(|weight| weight.name.as_str());
        names
            .filter(|name| self.refitter.find(name).is_none())
            .collect()
    }

    /// All weights that a program of weights gives, in the order of their names.
    pub(super) fn names(&self) -> Vec<String> {
        let offered = self.refitter.weights().map(|own| own.name.to_owned());
        let is_weight = |name: &String| self.needed.0[name].is_placeholder();
        offered.filter(is_weight).collect()
    }

    /// The same, the largest first.
    pub(super) fn largest_first(&self) -> Vec<String> {
        let mut names = self.names();
        names.sort_by_key(|name| std::cmp::Reverse(self.needed.bytes_of(name)));
        names
    }

    /// Sets weights of these names, and what the library says belongs to them. They are made
    /// before time is taken.
    pub(super) fn refit(
        &mut self,
        names: &[String],
        version: usize,
        maker: &Maker,
    ) -> Result<Refitted> {
        let made = self.make(names, version, maker)?;
        let start = Instant::now();
        self.set(&made)?;
        let setting = start.elapsed();
        // As the backend does: once for each set of names.
        let asked = Instant::now();
        let lacking = if self.complete.contains(names) {
            Vec::new()
        } else {
            self.lacking()?
        };
        let asking = asked.elapsed();
        let mut took = start.elapsed();
        let others = self.make(&lacking, 0, maker)?;
        let start = Instant::now();
        self.set(&others)?;
        self.finish(maker.stream())?;
        took += start.elapsed();
        if lacking.is_empty() {
            self.complete.insert(names.to_vec());
        }
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        Ok(Refitted {
            milliseconds: milliseconds(took),
            setting: milliseconds(setting),
            asking: milliseconds(asking),
            added: lacking.len(),
        })
    }

    /// Sets weights of these names and nothing else; gives milliseconds.
    pub(super) fn refit_alone(&mut self, names: &[String], maker: &Maker) -> Result<f64> {
        let made = self.make(names, 0, maker)?;
        let start = Instant::now();
        let done = self.set(&made).and_then(|()| self.finish(maker.stream()));
        if done.is_err() {
            self.refitter.unset_all()?;
        }
        done.map(|()| start.elapsed().as_secs_f64() * 1e3)
    }

    /// The step of this number, from packed latents in host memory; what it gives, and
    /// milliseconds on the device.
    pub(super) fn timed_run(
        &mut self,
        state: &[(String, CudaTensor)],
        latents: &Tensor,
        index: usize,
        stream: &Stream,
    ) -> Result<(Tensor, f64)> {
        let mut inputs = state.to_vec();
        let index = Tensor::scalar(index as i64);
        for (name, tensor) in [("hidden_states", latents), ("step_index", &index)] {
            inputs.push((name.to_owned(), self.upload(name, tensor, stream)?));
        }
        self.bind(&inputs)?;
        stream.synchronize()?;
        let begin = stream.record_timed()?;
        let context = self.context.as_mut().expect("made by `bind`");
        let outputs = context.enqueue(stream)?;
        let end = stream.record_timed()?;
        let milliseconds = f64::from(end.milliseconds_since(&begin)?);
        let (_, sample) = outputs.iter().next().ok_or("no output")?;
        Ok((sample.download(stream)?, milliseconds))
    }

    /// Runs on inputs by their names in the graph; gives outputs by theirs.
    pub(super) fn run(
        &mut self,
        inputs: &[(String, CudaTensor)],
        stream: &Stream,
    ) -> Result<Vec<(String, CudaTensor)>> {
        self.bind(inputs)?;
        let context = self.context.as_mut().expect("made by `bind`");
        let outputs = context.enqueue(stream)?;
        let named = self.layers.outputs().iter().map(|output| {
            let tensor = outputs.get(&output.tensor).ok_or("an output is lacking")?;
            Ok((output.name.clone(), tensor.clone()))
        });
        named.collect()
    }

    fn upload(&self, name: &str, tensor: &Tensor, stream: &Stream) -> Result<CudaTensor> {
        let mut inputs = self.layers.inputs().iter();
        let input = inputs.find(|input| input.name == name);
        let ty = &input.ok_or_else(|| format!("no input `{name}`"))?.ty;
        let shape = ty.static_shape().ok_or("a size is not known")?;
        let tensor = tensor.to_dtype(ty.dtype)?.reshape(shape)?;
        let mut staging = Staging::with_sizes(stream, 2, 1 << 20)?;
        Ok(CudaTensor::upload(&tensor, &mut staging)?)
    }

    fn bind(&mut self, inputs: &[(String, CudaTensor)]) -> Result<()> {
        if self.context.is_none() {
            self.context = Some(self.engine.context(&ContextOptions::default())?);
        }
        let context = self.context.as_mut().expect("made above");
        for input in self.layers.inputs() {
            if input.kind != InputKind::Value {
                return Err(format!("`{}`: all sizes should be known", input.name).into());
            }
            let mut given = inputs.iter();
            let given = given.find(|(name, _)| *name == input.name);
            let (_, tensor) = given.ok_or_else(|| format!("input `{}` is lacking", input.name))?;
            context.set_input(&input.tensor, tensor)?;
        }
        Ok(())
    }

    fn make(
        &self,
        names: &[String],
        version: usize,
        maker: &Maker,
    ) -> Result<Vec<(String, CudaTensor)>> {
        let make = |name: &String| Ok((name.clone(), maker.make(&self.needed.0[name], version)?));
        let made = names.iter().map(make).collect::<Result<_>>()?;
        maker.stream().synchronize()?;
        Ok(made)
    }

    fn set(&mut self, made: &[(String, CudaTensor)]) -> Result<()> {
        for (name, tensor) in made {
            self.refitter.set(name, tensor)?;
        }
        if self.has_literals {
            return Ok(());
        }
        // Constants that no weight reaches may have been stripped, too.
        for (name, weight) in &self.needed.0 {
            if let (Some(values), Some(_)) = (literal(weight), self.refitter.find(name)) {
                self.refitter.set_host(name, values)?;
            }
        }
        Ok(())
    }

    /// Names of weights that the library still wants; literals are set.
    fn lacking(&mut self) -> Result<Vec<String>> {
        let mut lacking = Vec::new();
        for name in self.refitter.missing()? {
            match self.needed.0.get(&name).and_then(literal) {
                Some(values) => self.refitter.set_host(&name, values)?,
                None => lacking.push(name),
            }
        }
        Ok(lacking)
    }

    fn finish(&mut self, stream: &Stream) -> Result<()> {
        self.refitter.refit(stream)?;
        stream.synchronize()?;
        self.has_literals = true;
        Ok(())
    }
}
