//! A small network with parameters of every kind, and a backend that compiles.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;
use tintype_backend::{
    Backend, Capabilities, Changes, CompileOptions, Executable, Forecast, RefitReport, Session,
    Tensors,
};
use tintype_cpu::CpuBackend;
use tintype_ir::{Binding, Graph, Op, Overlay, StagedGraph};
use tintype_tensor::Tensor;
use tintype_weights::{Parameters, View};

use crate::{LoadOptions, Loaded, MutableModule, Result};

pub(super) const NET: &str = "graph net { dim n = 1..=16
    param @a: f32[4, 4] param @b: f32[4, 4] param @s: f32[4, 4] param @g: f32[4]
    input step %x: f32[n, 4]
    %0: f32[n, 4] = linear %x, @a
    %1: f32[n, 4] = linear %0, @b
    %2: f32[n, 4] = linear %1, @s
    %3: f32[n, 4] = mul %2, @g
    output y = %3 }";

/// A folder with a checkpoint in it.
pub(super) struct Bench {
    pub(super) root: TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let bench = Self {
            root: tempfile::tempdir().unwrap(),
        };
        bench.write_checkpoint();
        bench
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.path("weights.safetensors")
    }

    /// Fresh values of the same shapes.
    pub(super) fn write_checkpoint(&self) {
        write_tensors(&self.checkpoint(), &[("fused", &[8, 4]), ("gain", &[2, 2])]);
    }

    /// Two parts of one tensor, one that is scaled, and one in another shape and order.
    pub(super) fn parameters(&self) -> Parameters {
        Parameters::builder()
            .file(self.checkpoint())
            .unwrap()
            .view("a", "fused", View::Rows { start: 0, end: 4 })
            .view("b", "fused", View::Rows { start: 4, end: 8 })
            .view("swapped", "gain", View::SwapHalves)
            .view("g", "swapped", View::Reshape([4].into()))
            .build()
            .unwrap()
            .renamed(|name| match name {
                "coded.weight" => Some("s".to_owned()),
                "a" | "b" | "g" => Some(name.to_owned()),
                _ => None,
            })
            .unwrap()
    }

    pub(super) fn module(&self) -> MutableModule {
        let backend = Arc::new(CpuBackend::new());
        MutableModule::builder(backend, graph(), self.parameters()).build()
    }

    pub(super) fn load(&self, folder: &str) -> Result<Loaded> {
        let backend = Arc::new(CpuBackend::new());
        MutableModule::load(self.path(folder), backend, LoadOptions::default())
    }

    /// The names in a folder, but for the lock.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let items = std::fs::read_dir(self.path(folder)).unwrap();
        let names = items.map(|item| item.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != "module.lock").collect();
        names.sort();
        names
    }

    pub(super) fn list(&self, folder: &str) -> String {
        std::fs::read_to_string(self.path(folder).join("module.json")).unwrap()
    }
}

pub(super) fn graph() -> Graph {
    tintype_ir::parse(NET).unwrap()
}

/// Tensors of random f32, and one in f8 with a scale for each row.
pub(super) fn write_tensors(path: &Path, tensors: &[(&str, &[usize])]) {
    let mut data: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, shape) in tensors {
        let bytes = values(shape.iter().product());
        let bytes = bytes.into_iter().flat_map(f32::to_le_bytes).collect();
        data.push(((*name).to_owned(), Dtype::F32, shape.to_vec(), bytes));
    }
    // No code of a NaN.
    let codes = values(16)
        .into_iter()
        .map(|value| (value.abs() * 100.0) as u8 & 0x7e);
    let codes = codes.collect();
    data.push(("coded.weight".to_owned(), Dtype::F8_E4M3, vec![4, 4], codes));
    let scales = values(4).into_iter().flat_map(f32::to_le_bytes).collect();
    data.push(("coded.scale_weight".to_owned(), Dtype::F32, vec![4], scales));
    let views = data.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let views: HashMap<_, _> = views.collect();
    let new = path.with_extension("new");
    safetensors::serialize_to_file(views, None, &new).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Random numbers from -1 to 1.
pub(super) fn values(count: usize) -> Vec<f32> {
    let state = RandomState::new();
    let number = |index| state.hash_one(index) as f64 / u64::MAX as f64;
    (0..count)
        .map(|index| (number(index) * 2.0 - 1.0) as f32)
        .collect()
}

pub(super) fn input(rows: usize) -> Tensors {
    let x = Tensor::from_f32([rows, 4], values(4 * rows)).unwrap();
    Tensors::new().with("x", x)
}

pub(super) fn run(module: &MutableModule, x: &Tensors) -> Vec<f32> {
    let call = module.call(&Tensors::new(), x).unwrap();
    call.outputs.host("y").unwrap().to_f32_vec().unwrap()
}

/// An overlay that adds a parameter of its own.
pub(super) fn addition() -> Overlay {
    let text = "graph add { param @base: f32[4, 4] param @delta: f32[4, 4]
        %0: f32[4, 4] = add @base, @delta output y = %0 }";
    Overlay::new("a", tintype_ir::parse(text).unwrap()).unwrap()
}

/// The CPU, which pretends to compile: the form is a file named by the graph's hash.
pub(super) struct Compiling {
    cpu: CpuBackend,
    name: &'static str,
    pub(super) compilations: AtomicUsize,
}

struct Compiled {
    inner: Box<dyn Executable>,
    name: String,
}

impl Compiling {
    pub(super) fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            cpu: CpuBackend::new(),
            name,
            compilations: AtomicUsize::new(0),
        })
    }

    pub(super) fn count(&self) -> usize {
        self.compilations.load(Ordering::Relaxed)
    }
}

/// The name of the compiled form of a graph.
pub(super) fn form(graph: &Graph) -> String {
    format!("{}.form", graph.hash())
}

fn is_there(graph: &StagedGraph, options: &CompileOptions) -> bool {
    let folder = options.folder.as_ref();
    folder.is_some_and(|folder| folder.join(form(&graph.source)).exists())
}

impl Backend for Compiling {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.cpu.capabilities().with_compiles_sizes(true)
    }

    fn supports(&self, op: &Op) -> bool {
        self.cpu.supports(op)
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> tintype_backend::Result<Box<dyn Executable>> {
        if !is_there(graph, options) {
            self.compilations.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Box::new(Compiled {
            inner: self.cpu.compile(graph, options)?,
            name: form(&graph.source),
        }))
    }

    fn forecast(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
        sizes: &Binding,
    ) -> tintype_backend::Result<Forecast> {
        let mut forecast = Forecast::of_graph(graph, sizes)?;
        for program in &mut forecast.programs {
            program.is_compiled = Some(is_there(graph, options));
        }
        Ok(forecast)
    }
}

impl Executable for Compiled {
    fn graph(&self) -> &StagedGraph {
        self.inner.graph()
    }

    fn refit(&self, changes: &Changes<'_>) -> tintype_backend::Result<RefitReport> {
        self.inner.refit(changes)
    }

    fn session(&self) -> tintype_backend::Result<Box<dyn Session>> {
        self.inner.session()
    }

    fn save(&self, folder: &Path) -> tintype_backend::Result<Vec<String>> {
        let name = self.name.clone();
        std::fs::write(folder.join(&name), "compiled").unwrap();
        Ok(vec![name])
    }
}
