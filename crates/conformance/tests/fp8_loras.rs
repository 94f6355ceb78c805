//! FP8 with the trained model's LoRAs: what a scale of the merged weight is worth against one that
//! was computed before the LoRA came.
//!
//! The program never computes a stale scale, so this builds one: in the quantized graph each
//! weight's greatest magnitude becomes a number, that of the weight without the LoRA. All else is
//! the same: both merge in f32, and both are compared with the same model and LoRA unquantized.
//!
//! `TINTYPE_CAPTIONS=FILE cargo test --release -p tintype-conformance --test fp8_loras -- --nocapture`
//! measures on more captions.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use tintype_cpu::CpuBackend;
use tintype_flux::{FluxPipeline, PromptFeed, Request, Rewrite};
use tintype_ir::passes::Rewriter;
use tintype_ir::{Graph, Node, Op, ReduceOp, UnaryOp, Value};
use tintype_quant::{
    Errors, Feed, Method, OutputReport, Recipe, Result as QuantResult, Scales, Seen, calibrate,
    compare, psnr, quantize,
};
use tintype_tensor::DType;
use tintype_weights::Parameters;

/// The greatest magnitude of each weight by its name.
type Ends = BTreeMap<String, f32>;

/// The graph with scales of weights that follow from `ends` instead of the weights.
fn stale(graph: &Graph, ends: &Ends) -> Graph {
    let node_of = |value: Value| match value {
        Value::Node(index) => Some(&graph.nodes()[index]),
        _ => None,
    };
    let end_of = |node: &Node| -> Option<f32> {
        if !matches!(node.op, Op::Reshape { .. }) {
            return None;
        }
        let reduce = node_of(node.operands[0])?;
        if !matches!(
            reduce.op,
            Op::Reduce {
                kind: ReduceOp::Max,
                ..
            }
        ) {
            return None;
        }
        let magnitude = node_of(reduce.operands[0])?;
        match (&magnitude.op, magnitude.operands[0]) {
            (Op::Unary(UnaryOp::Abs), Value::Parameter(index)) => {
                ends.get(&graph.parameters()[index].name).copied()
            }
            _ => None,
        }
    };
    let mut replaced = 0;
    let stale = Rewriter::rewrite(graph, |rewriter, _, node| {
        let Some(end) = end_of(node) else {
            return Ok(None);
        };
        replaced += 1;
        rewriter.scalar(DType::F32, end).map(Some)
    });
    assert_eq!(replaced, ends.len());
    stale.unwrap()
}

/// Feeds graphs with stale scales.
struct Stale<'a> {
    feed: PromptFeed<'a>,
    ends: Ends,
}

impl Feed for Stale<'_> {
    fn graph(&self) -> QuantResult<Graph> {
        self.feed.graph()
    }

    fn feed(&mut self, graph: &Graph, extra: &Parameters, seen: &mut Seen<'_>) -> QuantResult<()> {
        self.feed.feed(&stale(graph, &self.ends), extra, seen)
    }
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shapes/model")
}

fn pipeline() -> FluxPipeline {
    let pipeline = FluxPipeline::from_pretrained(model()).unwrap();
    pipeline.backend(CpuBackend::new()).dtype(DType::BF16)
}

fn requests() -> Vec<Request> {
    let captions = match std::env::var_os("TINTYPE_CAPTIONS") {
        Some(path) => std::fs::read_to_string(path).unwrap(),
        None => CAPTIONS.to_owned(),
    };
    let request = |(seed, caption): (usize, &str)| Request::new(caption).steps(4).seed(seed as u64);
    captions.lines().enumerate().map(request).collect()
}

/// The ends of the weights that a recipe quantizes, without any LoRA.
fn ends(pipeline: &FluxPipeline, quantized: &Quantized) -> Ends {
    let graph = pipeline.transformer_graph().unwrap();
    let layers = quantize(&graph, &quantized.recipe, &quantized.scales);
    let layers = layers.unwrap().layers;
    let parameters = pipeline.transformer_parameters().unwrap();
    let end = |layer: &String| {
        let name = format!("{layer}.weight");
        let values = parameters.get(&name).unwrap().to_f32_vec().unwrap();
        (
            name,
            values
                .iter()
                .fold(0.0f32, |end, value| end.max(value.abs())),
        )
    };
    layers.iter().map(end).collect()
}

fn pictures(pipeline: &FluxPipeline, requests: &[Request]) -> Vec<Vec<f32>> {
    let picture = |request: &Request| {
        let output = pipeline.generate(request).unwrap();
        output.pixels.unwrap().to_f32_vec().unwrap()
    };
    requests.iter().map(picture).collect()
}

/// How far a quantized model is from the same one as it is.
struct Far {
    output: OutputReport,
    /// The median of all pictures, in dB.
    psnr: f64,
}

impl Far {
    /// With scales that follow from `ends`, or with those of the weights.
    fn measure(pipeline: &mut FluxPipeline, quantized: &Quantized, ends: Option<&Ends>) -> Self {
        let Quantized { recipe, scales } = quantized;
        let requests = requests();
        let plain = pictures(pipeline, &requests);
        let mut feed = PromptFeed::new(pipeline, requests.clone());
        let report = match ends.cloned() {
            None => compare(&mut feed, recipe, scales),
            Some(ends) => compare(&mut Stale { feed, ends }, recipe, scales),
        };
        let output = report.unwrap().outputs.remove(0);
        let (change, ends) = (quantized.clone(), ends.cloned());
        let change = move |graph: &Graph| {
            let graph = quantize(graph, &change.recipe, &change.scales)?.graph;
            Ok(ends
                .as_ref()
                .map_or(graph.clone(), |ends| stale(&graph, ends)))
        };
        let rewrite = Rewrite::new(change, scales.parameters().unwrap());
        pipeline.rewrite_transformer(Some(rewrite));
        let narrow = pictures(pipeline, &requests);
        pipeline.rewrite_transformer(None);
        let pairs = plain.iter().zip(&narrow);
        let mut psnrs: Vec<f64> = pairs.map(|(a, b)| psnr(a, b).unwrap()).collect();
        psnrs.sort_by(f64::total_cmp);
        let psnr = f64::midpoint(psnrs[(psnrs.len() - 1) / 2], psnrs[psnrs.len() / 2]);
        Self { output, psnr }
    }

    /// The mean over all steps.
    fn error(&self) -> f64 {
        let steps = self.output.steps.iter().map(Errors::relative);
        steps.sum::<f64>() / self.output.steps.len() as f64
    }
}

impl fmt::Display for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.output.steps.len() - 1;
        for step in [0, last / 2, last] {
            let error = self.output.steps[step].relative();
            write!(f, "step {} {error:.4}, ", step + 1)?;
        }
        write!(f, "mean {:.4}, PSNR {:.2} dB", self.error(), self.psnr)
    }
}

/// How the model is quantized; the scales of what layers read are measured without a LoRA.
#[derive(Clone)]
struct Quantized {
    recipe: Recipe,
    scales: Scales,
}

impl Quantized {
    fn measure(pipeline: &mut FluxPipeline) -> Self {
        let recipe = Recipe::flux();
        let mut feed = PromptFeed::new(pipeline, requests());
        let calibration = calibrate(&mut feed, &recipe, Method::Max).unwrap();
        let scales = calibration.scales().unwrap();
        Self { recipe, scales }
    }
}

#[test]
fn fresh_scales_are_nearer_than_stale_ones() {
    let mut pipeline = pipeline();
    let quantized = Quantized::measure(&mut pipeline);
    let ends = ends(&pipeline, &quantized);
    for scale in [1.0, 2.0] {
        let mut errors = [0.0; 2];
        for lora in ["neon", "chalk"] {
            pipeline.load_lora(lora, lora).unwrap();
            pipeline.set_adapters(&[(lora, scale)]).unwrap();
            let fresh = Far::measure(&mut pipeline, &quantized, None);
            let stale = Far::measure(&mut pipeline, &quantized, Some(&ends));
            println!("{lora} × {scale}, fresh: {fresh}\n{lora} × {scale}, stale: {stale}");
            errors[0] += fresh.error();
            errors[1] += stale.error();
            pipeline.unload_lora(lora).unwrap();
        }
        assert!(errors[0] < errors[1], "× {scale}: {errors:?}");
    }
}

/// What is drawn where no file of captions is named.
const CAPTIONS: &str = "\
a red circle to the left of a blue square, white background
a small green triangle above a large yellow star
a striped purple hexagon
a pink heart below an orange ring on a black background";
