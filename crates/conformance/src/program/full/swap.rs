//! From one LoRA to another and back: how long, how many bytes, and whether the bits are the same.
//!
//! Two LoRAs of random factors lie on every linear layer of attention and of the feed-forward
//! parts. Time runs from the adapters, which are loaded and bound as a pipeline's are, to the last
//! write on the device; a second figure begins at the file.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tintype_backend::{Backend, Changes, CompileOptions, KeepWeights, RefitReport};
use tintype_ir::Graph;
use tintype_lora::{AdapterScale, BoundAdapter, Component, LoraFile, LoraModel, Mixer};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use super::super::flux::memory::mebibytes;
use super::super::machine::{Found, Machine};
use super::super::report::{Label, Report};
use super::super::{Arguments, Result, on_each};
use super::loaded::{Gauge, Loaded, parameters};
use super::median;
use super::precision::Narrow;
use super::random::noise;
use super::size::Size;

/// What a swap may take at full size on an H100, with parameters on the device.
const CUDA_MILLISECONDS: f64 = 60.0;

/// The same where weights are codes, whose scales are computed anew.
const CUDA_NARROW_MILLISECONDS: f64 = 90.0;
const TENSORRT_MILLISECONDS: f64 = 1500.0;

pub(in super::super) fn run(
    machine: &Machine,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let size = Size {
        steps: 1,
        ..Size::new(arguments)
    };
    let graph = size.graph()?;
    let parameters = parameters(&size, arguments, report)?;
    let rank = arguments.full.rank;
    let files = ["a", "b"].map(|name| lora(&graph, name, rank));
    let [a, b] = files;
    let files = [a?, b?];
    let model = LoraModel::new(Component::Transformer, &graph);
    let case = Case {
        size,
        changed: changed(&graph),
        parameters,
        adapters: [bound(&model, 0, &files[0])?, bound(&model, 1, &files[1])?],
        model,
        files,
    };
    on_each(
        machine,
        report,
        arguments.full.keep.len(),
        |name, found: &Found, report| {
            for &keep in &arguments.full.keep {
                let done = case.measure(name, found.backend.as_ref(), keep, arguments, report);
                if let Err(error) = done {
                    let what = format!("swaps, parameters kept: {keep}");
                    report.check(
                        Label::new(&what, name),
                        std::time::Duration::ZERO,
                        Err(error),
                    );
                }
            }
            Ok(())
        },
    )
}

/// What all places of parameters are measured with.
struct Case {
    size: Size,
    /// The parameters that the LoRAs lie on.
    changed: BTreeSet<String>,
    parameters: Parameters,
    model: LoraModel,
    files: [LoraFile; 2],
    adapters: [Arc<BoundAdapter>; 2],
}

impl Case {
    fn measure(
        &self,
        on: &'static str,
        backend: &dyn Backend,
        keep: KeepWeights,
        arguments: &Arguments,
        report: &mut Report,
    ) -> Result<()> {
        println!("        {on}, parameters kept: {keep}");
        let gauge = Gauge::new(on)?;
        gauge.trim()?;
        let options = CompileOptions::default().with_keep_weights(keep);
        let mut loaded = Loaded::new(
            &self.size,
            backend,
            &options,
            &self.parameters,
            &gauge,
            report,
        )?;
        let named = |what: &str| format!("{on}, {keep}: {what}");
        gauge.say_used(&named("memory with weights"), report)?;
        let plain = loaded.sample(&self.size, 0)?;
        let mut mixer = Mixer::default();
        let start = Instant::now();
        let (first, _) = self.switch(&loaded, &mut mixer, &gauge, Some(0))?;
        let bytes = [
            ("bytes of changed weights", first.bytes),
            ("bytes moved between host and device", first.moved),
        ];
        for (what, bytes) in bytes {
            report.figure(named(what), mebibytes(bytes), "MiB", None)?;
        }
        report.figure(named("weights changed"), first.weights as f64, "", None)?;
        report.figure(named("the first time"), milliseconds(start), "ms", None)?;
        let with_a = loaded.sample(&self.size, 0)?;
        let mut times = Vec::new();
        let mut binds = Vec::new();
        gauge.pause(true);
        for round in 0..arguments.full.swaps.max(1) {
            let start = Instant::now();
            let (_, bind) = self.switch(&loaded, &mut mixer, &gauge, Some((round + 1) % 2))?;
            times.push(milliseconds(start));
            binds.push(bind);
        }
        // Whatever was last, B then A.
        self.switch(&loaded, &mut mixer, &gauge, Some(1))?;
        gauge.pause(false);
        let with_b = loaded.sample(&self.size, 0)?;
        self.switch(&loaded, &mut mixer, &gauge, Some(0))?;
        let again = loaded.sample(&self.size, 0)?;
        let limit = limit(on, keep, arguments);
        report.figure(named("a swap, p50"), median(&times), "ms", limit)?;
        report.figure(named("of it mixing adapters"), median(&binds), "ms", None)?;
        let most = times.iter().copied().fold(0.0, f64::max);
        report.figure(named("a swap, the longest"), most, "ms", None)?;
        self.swap_files(&loaded, &gauge, &named("a swap from the file"), report)?;
        let (none, _) = self.switch(&loaded, &mut mixer, &gauge, None)?;
        report.figure(
            named("weights of none again"),
            none.weights as f64,
            "",
            None,
        )?;
        let plain_again = loaded.sample(&self.size, 0)?;
        gauge.say_peak(&named("peak of memory"), report)?;
        let label = |what: &str| named(what);
        for (what, found, expected, is_same) in [
            ("A changes the sample", &with_a, &plain, false),
            ("B is not A", &with_b, &with_a, false),
            ("A after B is A", &again, &with_a, true),
            ("none after A is none", &plain_again, &plain, true),
        ] {
            let result = same(found, expected, is_same);
            report.check(
                Label::new(&label(what), on),
                std::time::Duration::ZERO,
                result,
            );
        }
        drop(loaded);
        gauge.trim()
    }

    /// Attaches one of the LoRAs, or none, and waits for the device; milliseconds of mixing.
    fn switch(
        &self,
        loaded: &Loaded,
        mixer: &mut Mixer,
        gauge: &Gauge,
        which: Option<usize>,
    ) -> Result<(RefitReport, f64)> {
        let adapter = which.map(|index| Arc::clone(&self.adapters[index]));
        self.attach(loaded, mixer, gauge, adapter)
    }

    fn attach(
        &self,
        loaded: &Loaded,
        mixer: &mut Mixer,
        gauge: &Gauge,
        adapter: Option<Arc<BoundAdapter>>,
    ) -> Result<(RefitReport, f64)> {
        let start = Instant::now();
        let expected = adapter.as_ref().map_or(0, |_| self.changed.len());
        let scaled: Vec<_> = adapter
            .into_iter()
            .map(|adapter| (adapter, AdapterScale::new(0.8)))
            .collect();
        let mixed = mixer.mix(&self.model, &scaled)?;
        expect_all(mixed.overlays.len(), expected)?;
        let all = Parameters::builder()
            .parameters(&self.parameters)
            .parameters(&mixed.parameters)
            .build()?;
        let mixing = milliseconds(start);
        let changes = Changes::all(&all)
            .with_overlays(&mixed.overlays)
            .only_names(self.changed.clone());
        let report = loaded.executable.refit(&changes)?;
        gauge.settle()?;
        Ok((report, mixing))
    }

    /// The same from a file on disk, which is in the system's cache.
    fn swap_files(
        &self,
        loaded: &Loaded,
        gauge: &Gauge,
        name: &str,
        report: &mut Report,
    ) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |index: usize| folder.path().join(format!("{index}.safetensors"));
        for (index, file) in self.files.iter().enumerate() {
            let bytes = super::fidelity::safetensors_of(file.tensors())?;
            std::fs::write(path(index), bytes)?;
        }
        let mut times = Vec::new();
        for round in 0..4 {
            let index = (round + 1) % 2;
            let start = Instant::now();
            let adapter = bound(&self.model, index, &LoraFile::open(path(index))?)?;
            self.attach(loaded, &mut Mixer::default(), gauge, Some(adapter))?;
            times.push(milliseconds(start));
        }
        report.figure(name, median(&times), "ms", None)
    }
}

/// A LoRA as it is when it was loaded.
fn bound(model: &LoraModel, index: usize, file: &LoraFile) -> Result<Arc<BoundAdapter>> {
    let name = ["a", "b"][index];
    Ok(Arc::new(BoundAdapter::new(model, name, file)?))
}

/// Whether every module took its update.
fn expect_all(found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(format!("expected overlays on {expected} parameters, found {found}").into())
}

/// Names of the parameters that the LoRAs lie on.
fn changed(graph: &Graph) -> BTreeSet<String> {
    let names = graph.parameters().iter().map(|parameter| &parameter.name);
    names.filter(|name| is_adapted(name)).cloned().collect()
}

/// Linear layers of attention and of the feed-forward parts, by their weights.
fn is_adapted(name: &str) -> bool {
    let Some(module) = name.strip_suffix(".weight") else {
        return false;
    };
    let is_block = name.contains("transformer_blocks.");
    is_block && MODULES.iter().any(|end| module.ends_with(end))
}

/// The ends of their modules' names.
const MODULES: [&str; 12] = [
    ".attn.to_q",
    ".attn.to_k",
    ".attn.to_v",
    ".attn.to_out.0",
    ".attn.add_q_proj",
    ".attn.add_k_proj",
    ".attn.add_v_proj",
    ".attn.to_add_out",
    ".net.0.proj",
    ".net.2",
    ".proj_mlp",
    ".proj_out",
];

/// Random factors of the usual size: what they add is about a tenth of a weight.
fn lora(graph: &Graph, adapter: &str, rank: usize) -> Result<LoraFile> {
    let mut builder = Parameters::builder();
    for name in changed(graph) {
        let parameter = graph.parameter(&name).ok_or("a parameter has gone")?;
        let shape = parameter
            .ty
            .static_shape()
            .ok_or("a parameter without a shape")?;
        let &[rows, columns] = &shape[..] else {
            return Err(format!("`{name}` is no matrix: {shape}").into());
        };
        let module = name.trim_end_matches(".weight");
        let factors = [
            ("lora_A", [rank, columns], columns),
            ("lora_B", [rows, rank], 100 * rank),
        ];
        for (factor, shape, width) in factors {
            let key = format!("transformer.{module}.{factor}.weight");
            let tensor = noise(&format!("{adapter}.{key}"), DType::F32, shape)?;
            let scale = 1.0 / (width as f32).sqrt();
            let values = tensor.to_f32_vec()?.into_iter().map(|value| value * scale);
            let tensor = Tensor::from_f32_as(DType::BF16, shape, values.collect())?;
            builder = builder.tensor(key, tensor);
        }
    }
    Ok(LoraFile::from_parameters(&builder.build()?)?)
}

fn limit(on: &str, keep: KeepWeights, arguments: &Arguments) -> Option<f64> {
    let is_asked = keep == KeepWeights::Device && !arguments.full.small;
    match on {
        "cuda" if is_asked && arguments.full.dtype.narrow != Narrow::Nothing => {
            Some(CUDA_NARROW_MILLISECONDS)
        }
        "cuda" if is_asked => Some(CUDA_MILLISECONDS),
        "tensorrt" if is_asked => Some(TENSORRT_MILLISECONDS),
        _ => None,
    }
}

fn same(found: &Tensor, expected: &Tensor, is_same: bool) -> Result<String> {
    match (found.bytes() == expected.bytes(), is_same) {
        (true, true) => Ok("to the bit".to_owned()),
        (false, false) => Ok("another sample".to_owned()),
        (true, false) => Err("expected another sample, found the same bits".into()),
        (false, true) => {
            let pairs = found.bytes().iter().zip(expected.bytes());
            let differing = pairs.filter(|(a, b)| a != b).count();
            Err(format!("expected the same bits, found {differing} other bytes").into())
        }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
