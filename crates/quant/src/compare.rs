//! What quantizing costs, measured in the graph itself.
//!
//! One graph computes the model as it is and the quantized one side by side, and each quantized
//! layer a third time on what it reads in the model as it is. What leaves it are sums of
//! squares, so that any backend will do and nothing large is copied. The model's own outputs are
//! those of the model as it is: whatever feeds it goes the way that it would go anyway.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use tintype_backend::Tensors;
use tintype_ir::{BinaryOp, Graph, GraphBuilder, ReduceOp, Stage, Value};
use tintype_tensor::DType;

use crate::insert::Inserter;
use crate::rebuild::all_axes;
use crate::report::{Errors, LayerReport, OutputReport, Report};
use crate::sites::Sites;
use crate::{Feed, Recipe, Result, Scales};

/// Measures, on all of `feed`, what the layers of `recipe` lose with `scales`.
///
/// # Errors
/// As [`quantize`](crate::quantize()), and what `feed` gives.
pub fn compare(feed: &mut dyn Feed, recipe: &Recipe, scales: &Scales) -> Result<Report> {
    let graph = feed.graph()?;
    let compared = Compared::new(&graph, recipe, scales)?;
    let mut sums = Sums::default();
    feed.feed(
        &compared.graph,
        &scales.parameters()?,
        &mut |moment, outputs| compared.read(moment.step, outputs, &mut sums),
    )?;
    Ok(compared.report(&sums))
}

/// A graph that compares itself with its quantized form.
struct Compared {
    graph: Graph,
    /// What is compared at the request and at a step.
    rows: [Vec<Row>; 2],
    unscaled: Vec<String>,
}

/// One comparison of two values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A layer alone, on the input that it has without any quantizing.
    Local,
    /// A layer where all are quantized.
    Whole,
    /// An output of the graph where all are quantized.
    Output,
}

/// Sums by comparison and step.
#[derive(Default)]
struct Sums {
    all: BTreeMap<(Row, usize), Errors>,
    /// Of outputs: those of each example.
    examples: BTreeMap<(Row, usize), Vec<Errors>>,
}

impl Sums {
    fn add(&mut self, row: &Row, step: usize, errors: Errors) {
        let key = (row.clone(), step);
        if row.kind == Kind::Output {
            self.examples.entry(key.clone()).or_default().push(errors);
        }
        self.all.entry(key).or_default().add(errors);
    }
}

/// A comparison with the two values in the graph: as it is, and quantized.
type Pair = (Row, [Value; 2]);

impl Compared {
    fn new(graph: &Graph, recipe: &Recipe, scales: &Scales) -> Result<Self> {
        let sites = Sites::of(graph, recipe)?;
        let mut inserter = Inserter::new(graph, &sites, scales);
        let stages = graph.stages();
        let mut pairs: [Vec<Pair>; 2] = [Vec::new(), Vec::new()];
        let (mut plain, mut narrow) = (Vec::new(), Vec::new());
        for index in 0..graph.nodes().len() {
            let operands = inserter.rebuild.operands(index, &plain);
            let reference = inserter.rebuild.copy(index, &operands);
            let whole = match sites.by_node.get(&index) {
                None => {
                    let others = inserter.rebuild.operands(index, &narrow);
                    if others == operands {
                        reference
                    } else {
                        inserter.rebuild.copy(index, &others)
                    }
                }
                Some(site) => {
                    let operands = inserter.operands(index, &plain);
                    let local = inserter.quantized(index, &operands)?;
                    let others = inserter.operands(index, &narrow);
                    let whole = if others == operands {
                        local
                    } else {
                        inserter.quantized(index, &others)?
                    };
                    let pairs = &mut pairs[usize::from(stages[index] == Stage::Step)];
                    for (kind, value) in [(Kind::Local, local), (Kind::Whole, whole)] {
                        let name = site.name.clone();
                        pairs.push((Row { name, kind }, [reference, value]));
                    }
                    whole
                }
            };
            plain.push(reference);
            narrow.push(whole);
        }
        for output in graph.outputs() {
            let values = [&plain, &narrow].map(|nodes| inserter.rebuild.value(output.value, nodes));
            let is_step = graph.stage_of(output.value, &stages) == Stage::Step;
            if !graph.type_of(output.value).dtype.is_float() {
                continue;
            }
            let row = Row {
                name: output.name.clone(),
                kind: Kind::Output,
            };
            pairs[usize::from(is_step)].push((row, values));
        }
        inserter.rebuild.outputs(&plain);
        let unscaled = inserter.unscaled;
        let b = &mut inserter.rebuild.b;
        for (name, pairs) in OUTPUTS.iter().zip(&mut pairs) {
            pairs.retain(|(row, _)| !unscaled.contains(&row.name));
            if !pairs.is_empty() {
                let sums: Vec<Value> = pairs
                    .iter()
                    .flat_map(|(_, [reference, other])| sums_of(b, *reference, *other))
                    .collect();
                let all = b.concat(0, &sums);
                b.output(name, all);
            }
        }
        Ok(Self {
            graph: inserter.rebuild.finish()?,
            rows: pairs.map(|pairs| pairs.into_iter().map(|pair| pair.0).collect()),
            unscaled,
        })
    }

    fn read(&self, step: Option<usize>, outputs: &Tensors, sums: &mut Sums) -> Result<()> {
        let part = usize::from(step.is_some());
        if self.rows[part].is_empty() {
            return Ok(());
        }
        let values = outputs.host(OUTPUTS[part])?.to_f32_vec()?;
        let (triples, _) = values.as_chunks::<3>();
        for (row, &[difference, reference, other]) in self.rows[part].iter().zip(triples) {
            let errors = Errors::new(difference, reference, other);
            sums.add(row, step.unwrap_or(0), errors);
        }
        Ok(())
    }

    fn report(&self, sums: &Sums) -> Report {
        let steps_of = |row: &Row| -> Vec<Errors> {
            let steps = sums.all.range(steps_of_row(row));
            steps.map(|(_, errors)| *errors).collect()
        };
        let rows = || self.rows.iter().flatten();
        let layers = rows().filter(|row| row.kind == Kind::Local).map(|row| {
            let whole = Row {
                kind: Kind::Whole,
                ..row.clone()
            };
            LayerReport {
                name: row.name.clone(),
                alone: steps_of(row),
                together: steps_of(&whole),
            }
        });
        let outputs = rows().filter(|row| row.kind == Kind::Output);
        let outputs = outputs.map(|row| OutputReport {
            name: row.name.clone(),
            steps: steps_of(row),
            examples: {
                let steps = sums.examples.range(steps_of_row(row));
                steps.map(|(_, examples)| examples.clone()).collect()
            },
        });
        Report {
            layers: layers.collect(),
            outputs: outputs.collect(),
            unscaled: self.unscaled.clone(),
        }
    }
}

/// All steps of a comparison.
fn steps_of_row(row: &Row) -> RangeInclusive<(Row, usize)> {
    (row.clone(), 0)..=(row.clone(), usize::MAX)
}

/// The sums of squares of the difference, of the reference and of the other value, `[1]` each.
fn sums_of(b: &mut GraphBuilder, reference: Value, other: Value) -> [Value; 3] {
    let [reference, other] = [reference, other].map(|value| b.cast(value, DType::F32));
    let difference = b.binary(BinaryOp::Sub, other, reference);
    [difference, reference, other].map(|value| {
        let square = b.mul(value, value);
        let axes = all_axes(b, square);
        let sum = if axes.is_empty() {
            square
        } else {
            b.reduce(ReduceOp::Sum, square, &axes)
        };
        b.reshape(sum, [1usize])
    })
}

/// The outputs of the request and of a step.
const OUTPUTS: [&str; 2] = ["compared.request", "compared.step"];
