//! Models that do not fit on a device are refused before the first is loaded, with what they need.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tintype_backend::{Backend, Capabilities, CompileOptions, Executable, Forecast};
use tintype_cpu::CpuBackend;
use tintype_flux::{Error, FluxPipeline, Request};
use tintype_ir::{Binding, Evaluator, Op, StagedGraph};

/// The CPU with so many bytes, which it does not use up; it counts what is compiled.
struct Small {
    cpu: CpuBackend,
    free: Arc<AtomicUsize>,
    compiled: Arc<AtomicUsize>,
}

impl Backend for Small {
    fn name(&self) -> &'static str {
        "small"
    }

    fn capabilities(&self) -> Capabilities {
        self.cpu.capabilities()
    }

    fn supports(&self, op: &Op) -> bool {
        self.cpu.supports(op)
    }

    fn evaluator(&self) -> Option<&dyn Evaluator> {
        self.cpu.evaluator()
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> tintype_backend::Result<Box<dyn Executable>> {
        self.compiled.fetch_add(1, Ordering::Relaxed);
        self.cpu.compile(graph, options)
    }

    fn forecast(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
        sizes: &Binding,
    ) -> tintype_backend::Result<Forecast> {
        self.cpu.forecast(graph, options, sizes)
    }

    fn free_memory(&self, _: usize) -> tintype_backend::Result<Option<usize>> {
        Ok(Some(self.free.load(Ordering::Relaxed)))
    }
}

struct Bench {
    pipeline: FluxPipeline,
    free: Arc<AtomicUsize>,
    compiled: Arc<AtomicUsize>,
}

impl Bench {
    fn new(low_memory: bool) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../conformance/fixtures/pipelines/dev");
        let (free, compiled) = (Arc::default(), Arc::default());
        let backend = Small {
            cpu: CpuBackend::new(),
            free: Arc::clone(&free),
            compiled: Arc::clone(&compiled),
        };
        let pipeline = FluxPipeline::from_pretrained(folder).unwrap();
        Self {
            pipeline: pipeline.backend(backend).low_memory(low_memory),
            free,
            compiled,
        }
    }

    /// What a picture with so many bytes says: its models and needs, or nothing if it is made.
    fn refusal(&self, request: &Request, free: usize) -> Option<(String, usize, Option<usize>)> {
        self.free.store(free, Ordering::Relaxed);
        match self.pipeline.generate(request) {
            Ok(_) => None,
            Err(Error::Memory {
                models,
                needed,
                free: found,
                in_turn,
                ..
            }) => {
                assert_eq!(found, free);
                Some((models, needed, in_turn))
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn compiled(&self) -> usize {
        self.compiled.load(Ordering::Relaxed)
    }
}

fn request() -> Request {
    let request = Request::new("a red circle").size(32, 48).steps(2);
    request.max_sequence_length(16).seed(11)
}

const ALL: &str = "text_encoder, text_encoder_2, transformer, vae_decoder";

#[test]
fn what_does_not_fit_is_refused_with_both_needs_before_anything_is_loaded() {
    let bench = Bench::new(false);
    let (models, needed, in_turn) = bench.refusal(&request(), 0).unwrap();
    assert_eq!(models, ALL);
    let in_turn = in_turn.unwrap();
    assert!(0 < in_turn && in_turn < needed, "{in_turn} {needed}");
    assert_eq!(
        bench.refusal(&request(), needed - 1),
        Some((models, needed, Some(in_turn)))
    );
    assert_eq!(bench.compiled(), 0);
    let error = bench.pipeline.generate(&request()).unwrap_err().to_string();
    let free = needed - 1;
    assert_eq!(
        error,
        format!(
            "the models of this request ({ALL}) need {needed} bytes on small, {free} are free; \
             one after the other (`--low-memory`) they need {in_turn}"
        )
    );
    assert_eq!(bench.refusal(&request(), needed), None);
    // What is loaded has its memory.
    let loaded = bench.compiled();
    assert!(loaded >= 4);
    assert_eq!(bench.refusal(&request(), 0), None);
    assert_eq!(bench.compiled(), loaded);
}

#[test]
fn one_after_the_other_the_greatest_must_fit() {
    let (_, _, in_turn) = Bench::new(false).refusal(&request(), 0).unwrap();
    let (bench, greatest) = (Bench::new(true), in_turn.unwrap());
    let refused = bench.refusal(&request(), greatest - 1);
    assert_eq!(refused, Some((ALL.to_owned(), greatest, None)));
    assert_eq!(bench.compiled(), 0);
    assert_eq!(bench.refusal(&request(), greatest), None);
    let error = bench.refusal(&request(), 0);
    assert!(error.is_some(), "each request loads all of them again");
}

#[test]
fn only_what_a_request_needs_is_counted() {
    let bench = Bench::new(false);
    let (_, whole, _) = bench.refusal(&request(), 0).unwrap();
    let mut latents = request();
    latents.latents_only = true;
    let (models, needed, _) = bench.refusal(&latents, 0).unwrap();
    assert_eq!(models, "text_encoder, text_encoder_2, transformer");
    assert!(needed < whole);
    let larger = bench.refusal(&request().size(64, 64), 0).unwrap().1;
    assert!(larger > whole, "{larger} {whole}");
}
