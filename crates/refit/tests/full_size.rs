//! What noticing costs beside a model of full size: FLUX.1-dev's graph and names, with tensors
//! of a sparse file, and a backend that computes nothing.
//!
//! ```text
//! cargo test -p tintype-refit --test full_size -- --nocapture
//! ```
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::any::Any;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tintype_backend::{
    Backend, Capabilities, Changes, CompileOptions, Executable, RefitReport, RequestState, Result,
    Scope, Session, Tensors,
};
use tintype_ir::{Graph, Op, Overlay, StagedGraph, parse};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_refit::{DefineError, Given, MutableModule, Signature};
use tintype_tensor::{DType, Shape, Tensor};
use tintype_weights::Parameters;

/// Takes everything and computes nothing.
struct Nothing;

struct Compiled(StagedGraph);

struct Idle;

impl Backend for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().with_compiles_sizes(true)
    }

    fn supports(&self, _: &Op) -> bool {
        true
    }

    fn compile(&self, graph: &StagedGraph, _: &CompileOptions) -> Result<Box<dyn Executable>> {
        Ok(Box::new(Compiled(graph.clone())))
    }
}

impl Executable for Compiled {
    fn graph(&self) -> &StagedGraph {
        &self.0
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        Ok(RefitReport {
            weights: match &changes.scope {
                Scope::All => self.0.weight.outputs().len(),
                Scope::Names(names) => names.len(),
            },
            ..RefitReport::default()
        })
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(Idle))
    }
}

impl Session for Idle {
    fn prepare(&mut self, _: &Tensors) -> Result<Box<dyn RequestState>> {
        unreachable!("nothing is run")
    }

    fn step(&mut self, _: &dyn RequestState, _: &Tensors) -> Result<Tensors> {
        unreachable!("nothing is run")
    }
}

impl RequestState for Idle {
    fn outputs(&self) -> &Tensors {
        unreachable!("nothing is run")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn flux(dtype: DType) -> Graph {
    let options = FluxTransformerOptions {
        dtype,
        ..FluxTransformerOptions::default()
    };
    FluxTransformerConfig::dev().graph(&options).unwrap()
}

/// A file of 24 GB that takes no place.
fn sparse(graph: &Graph, path: &Path) -> Parameters {
    let (mut header, mut start) = (Vec::new(), 0);
    for parameter in graph.parameters() {
        let shape = parameter.ty.static_shape().unwrap();
        let end = start + shape.byte_len(DType::BF16).unwrap();
        header.push(format!(
            r#""{}":{{"dtype":"BF16","shape":{shape},"data_offsets":[{start},{end}]}}"#,
            parameter.name
        ));
        start = end;
    }
    let header = format!("{{{}}}", header.join(","));
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let length = file.stream_position().unwrap() + start as u64;
    file.set_len(length).unwrap();
    Parameters::open(path).unwrap()
}

/// Inputs for 1024×1024 pixels, of which only the types matter.
fn signature(graph: &Graph) -> Signature {
    let size = |symbol: &str| match symbol {
        "image_tokens" => 4096,
        "text_tokens" => 512,
        "steps" => 28,
        _ => 1,
    };
    let inputs = graph.inputs().iter();
    inputs.fold(Signature::new(), |signature, input| {
        let dims = input.ty.dims.iter();
        let dims = dims.map(|dim| dim.evaluate(|symbol| Some(size(symbol))).unwrap() as usize);
        let shape = Shape::from(dims.collect::<Vec<_>>());
        signature.with(&input.name, input.ty.dtype, shape)
    })
}

/// A LoRA of rank 16 on every matrix of the blocks, with its own parameters.
fn lora(graph: &Graph, scale: f32) -> (Vec<Overlay>, Parameters) {
    let (mut overlays, mut own) = (Vec::new(), Parameters::builder());
    for parameter in graph.parameters() {
        let shape = parameter.ty.static_shape().unwrap();
        let [rows, columns] = *shape else { continue };
        if !parameter.name.contains("blocks.") {
            continue;
        }
        let (name, ty) = (&parameter.name, &parameter.ty);
        let text = format!(
            "graph lora {{
               param @base: {ty}
               param @lora.{name}.up: f32[{rows}, 16]
               param @lora.{name}.down: f32[16, {columns}]
               param @lora.{name}.scale: f32[1]
               %0: f32[{rows}, {columns}] = matmul @lora.{name}.up, @lora.{name}.down
               %1: f32[{rows}, {columns}] = mul %0, @lora.{name}.scale
               %2: f32[{rows}, {columns}] = cast @base
               %3: f32[{rows}, {columns}] = add %2, %1
               %4: {ty} = cast %3
               output weight = %4
             }}"
        );
        overlays.push(Overlay::new(name, parse(&text).unwrap()).unwrap());
        let zeros = |shape: [usize; 2]| Tensor::from_f32(shape, vec![0.0; shape[0] * shape[1]]);
        own = own
            .tensor(format!("lora.{name}.up"), zeros([rows, 16]).unwrap())
            .tensor(format!("lora.{name}.down"), zeros([16, columns]).unwrap())
            .tensor(
                format!("lora.{name}.scale"),
                Tensor::from_f32([1], vec![scale]).unwrap(),
            );
    }
    (overlays, own.build().unwrap())
}

/// The middle of the times of several runs.
fn median(rounds: usize, mut work: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..rounds).map(|_| work()).collect();
    times.sort();
    times[rounds / 2]
}

fn told(what: &str, time: Duration) {
    println!("{what:60} {:8.3} ms", time.as_secs_f64() * 1e3);
}

fn measure(of: &str, module: &MutableModule, graph: &Graph) {
    let signature = signature(graph);
    let start = Instant::now();
    let first = module.picture(&signature).unwrap().report().clone();
    assert_eq!(first.compilations(), 1);
    told(
        &format!("{of}: first picture, passes and all"),
        start.elapsed(),
    );
    let nothing = median(201, || {
        let start = Instant::now();
        let picture = module.picture(&signature).unwrap();
        let took = start.elapsed();
        assert!(picture.report().done.is_empty());
        took
    });
    told(&format!("{of}: a picture begins, nothing changed"), nothing);
    // What is asked for, however slow the machine and the build.
    assert!(nothing < Duration::from_millis(1), "{nothing:?}");
    let mut change = Duration::ZERO;
    let one = median(31, || {
        let name = "single_transformer_blocks.37.proj_out.bias";
        let start = Instant::now();
        let mut edit = module.edit();
        edit.edit(name, |bias| bias[0] += 1.0).unwrap();
        edit.finish().unwrap();
        change = start.elapsed();
        let report = module.apply().unwrap();
        assert_eq!(report.weights(), 1);
        report.check
    });
    told(&format!("{of}: one parameter edited and checked"), change);
    told(&format!("{of}: and noticed at the next picture"), one);
    let loras = [lora(graph, 1.0), lora(graph, 0.5)];
    let (mut round, mut checks) = (0, Vec::new());
    let changed = median(31, || {
        let (overlays, own) = loras[round % 2].clone();
        round += 1;
        let start = Instant::now();
        let change = |change: &mut tintype_refit::Change| {
            change.set_overlays(overlays, own);
            Ok(())
        };
        module.change(change).unwrap();
        let took = start.elapsed();
        let report = module.apply().unwrap();
        assert!(report.weights() >= loras[0].0.len());
        checks.push(report.check);
        took
    });
    let many = format!("{of}: a LoRA on {} matrices", loras[0].0.len());
    told(&format!("{many} set and checked"), changed);
    let mut checks = checks.into_iter();
    told(
        &format!("{many} noticed"),
        median(31, || checks.next().unwrap()),
    );
}

#[test]
fn noticing_that_nothing_changed_takes_less_than_a_millisecond() {
    let graph = flux(DType::BF16);
    let folder = tempfile::tempdir().unwrap();
    let parameters = sparse(&graph, &folder.path().join("flux.safetensors"));
    println!(
        "{} nodes, {} parameters",
        graph.nodes().len(),
        parameters.len()
    );
    let backend: Arc<dyn Backend> = Arc::new(Nothing);
    let fixed = MutableModule::builder(Arc::clone(&backend), graph.clone(), parameters.clone());
    measure("a graph", &fixed.build(), &graph);
    let define = |given: &Given| Ok::<_, DefineError>(flux(given.dtype("hidden_states")?));
    let closure = MutableModule::builder(backend, define, parameters);
    measure("a function", &closure.build(), &graph);
}
