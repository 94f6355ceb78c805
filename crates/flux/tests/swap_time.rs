//! What a change of LoRAs costs on the host, at the size of FLUX.1-dev: names, fragments and
//! parameters of 494 linears, without the arithmetic that a device would do.
//!
//! The weights are holes in files, which nobody reads.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tintype_backend::{
    Backend, Capabilities, Changes, CompileOptions, Executable, RefitReport, RequestState, Result,
    Scope, Session, Tensors, WeightPrograms,
};
use tintype_cpu::CpuBackend;
use tintype_flux::{AdapterScale, Blocks, ChangeReport, FluxPipeline, ModelKind, Request};
use tintype_ir::{Op, StagedGraph};
use tintype_tensor::Tensor;

/// The CPU, but for the transformer, of which only what a backend does on the host is done.
struct HostOnly(CpuBackend);

impl Backend for HostOnly {
    fn name(&self) -> &'static str {
        "host-only"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities().with_fuse_qkv(true)
    }

    fn supports(&self, op: &Op) -> bool {
        self.0.supports(op)
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>> {
        if graph
            .source
            .inputs()
            .iter()
            .any(|input| input.name == "timesteps")
        {
            return Ok(Box::new(Transformer {
                programs: WeightPrograms::new(graph),
                graph: graph.clone(),
            }));
        }
        self.0.compile(graph, options)
    }
}

struct Transformer {
    graph: StagedGraph,
    programs: WeightPrograms,
}

impl Executable for Transformer {
    fn graph(&self) -> &StagedGraph {
        &self.graph
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        let start = Instant::now();
        let program = self.programs.with(changes.overlays)?;
        let names = match &changes.scope {
            Scope::All => program.names(),
            Scope::Names(names) => self.programs.reached(&program, names),
        };
        program.check(changes.parameters, &names)?;
        Ok(RefitReport {
            weights: names.len(),
            bytes: program.bytes(&names),
            duration: start.elapsed(),
            ..RefitReport::default()
        })
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(Nothing(Tensors::new())))
    }
}

/// Predicts that nothing moves.
struct Nothing(Tensors);

impl Session for Nothing {
    fn prepare(&mut self, _: &Tensors) -> Result<Box<dyn RequestState>> {
        Ok(Box::new(Self(Tensors::new())))
    }

    fn step(&mut self, _: &dyn RequestState, inputs: &Tensors) -> Result<Tensors> {
        let shape = inputs.host("hidden_states")?.shape().clone();
        let count = shape.element_count();
        let zeros = Tensor::from_f32_as(tintype_tensor::DType::F32, shape, vec![0.0; count]);
        Ok(Tensors::new().with("sample", zeros?))
    }
}

impl RequestState for Nothing {
    fn outputs(&self) -> &Tensors {
        &self.0
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A safetensors file of bf16 zeros that takes no room.
fn holes(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let info =
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), info);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

/// The small pipeline with a transformer of FLUX.1-dev's depth and width.
fn folder(path: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/fixtures");
    let source = fixtures.join("pipelines/dev");
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        let target = path.join(entry.file_name());
        if entry.path().is_file() {
            std::fs::copy(entry.path(), target).unwrap();
            continue;
        }
        std::fs::create_dir(&target).unwrap();
        for file in std::fs::read_dir(entry.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), target.join(file.file_name())).unwrap();
        }
    }
    let config = path.join("transformer/config.json");
    let mut settings: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    for (name, value) in [
        ("num_layers", 19),
        ("num_single_layers", 38),
        ("num_attention_heads", 24),
        ("attention_head_dim", 128),
    ] {
        settings[name] = value.into();
    }
    settings["axes_dims_rope"] = serde_json::json!([16, 56, 56]);
    std::fs::write(&config, settings.to_string()).unwrap();
}

/// Shapes of all parameters of the transformer.
fn parameters(pipeline: &FluxPipeline) -> Vec<(String, Vec<usize>)> {
    let graph = pipeline.graph(ModelKind::Transformer).unwrap();
    let parameters = graph.parameters().iter();
    let shape = |ty: &tintype_ir::TensorType| ty.static_shape().unwrap().to_vec();
    parameters
        .map(|one| (one.name.clone(), shape(&one.ty)))
        .collect()
}

/// A LoRA on every linear of every block.
fn lora(path: &Path, parameters: &[(String, Vec<usize>)]) -> usize {
    let linears = parameters
        .iter()
        .filter(|(name, shape)| name.contains("transformer_blocks") && shape.len() == 2);
    let mut tensors = Vec::new();
    for (name, shape) in linears {
        let module = name.strip_suffix(".weight").unwrap();
        tensors.push((
            format!("transformer.{module}.lora_A.weight"),
            vec![4, shape[1]],
        ));
        tensors.push((
            format!("transformer.{module}.lora_B.weight"),
            vec![shape[0], 4],
        ));
    }
    holes(path, &tensors);
    tensors.len() / 2
}

/// The median of what changes took of this thread's time, in milliseconds: machines that test are
/// busy. Where the system does not tell, it is the time that passed.
fn median(mut change: impl FnMut(usize) -> ChangeReport) -> f64 {
    let mut times: Vec<Duration> = (0..21)
        .map(|turn| {
            let start = thread_time();
            let report = change(turn);
            match (start, thread_time()) {
                (Some(start), Some(end)) => end.saturating_sub(start),
                _ => report.duration,
            }
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn thread_time() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = told.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

#[test]
fn a_change_of_loras_at_full_size_takes_milliseconds_on_the_host() {
    let scratch = tempfile::tempdir().unwrap();
    folder(scratch.path());
    let open = || FluxPipeline::from_pretrained(scratch.path()).unwrap();
    let all = parameters(&open());
    let weights = scratch.path().join("transformer.safetensors");
    holes(&weights, &all);
    let files = ["a", "b"].map(|name| scratch.path().join(format!("{name}.safetensors")));
    let linears = files.each_ref().map(|file| lora(file, &all))[0];
    assert_eq!(linears, 19 * 14 + 38 * 6);
    let pipeline = open()
        .transformer_file(&weights)
        .shared_backend(Arc::new(HostOnly(CpuBackend::new())));
    let request = Request::new("fox").size(16, 16).steps(1).seed(1);
    let request = request.max_sequence_length(4);
    pipeline.generate(&request).unwrap();
    let load = Instant::now();
    let loaded = pipeline.load_lora(&files[0], "a").unwrap();
    let load = load.elapsed().as_secs_f64() * 1e3;
    assert_eq!(loaded.applied[0], ("transformer", linears));
    pipeline.load_lora_with(&files[1], "b", 0.0).unwrap();
    let set = |scales: &[(&str, AdapterScale)]| {
        let report = pipeline.set_adapters(scales).unwrap();
        assert!(report.weights() > 0, "{report}");
        report
    };
    let scale = |turn: usize| AdapterScale::new(2.0 + turn as f32);
    let scaled = median(|turn| set(&[("a", scale(turn))]));
    let swapped = median(|turn| set(&[(["b", "a"][turn % 2], scale(0))]));
    let both = median(|turn| set(&[("a", scale(0)), ("b", scale(turn + 1))]));
    let block = median(|turn| {
        let block = AdapterScale::new(1.0).block(Blocks::Single, 7, turn as f32 + 2.0);
        set(&[("a", block), ("b", scale(0))])
    });
    println!(
        "{linears} linears: load {load:.1} ms, another scale {scaled:.2} ms, another LoRA \
         {swapped:.2} ms, two at once {both:.2} ms, one block {block:.2} ms"
    );
    // Many times what it takes, since machines that test are slow and busy.
    assert!(scaled.max(swapped).max(both).max(block) < 1000.0);
}
