//! Attention as graphs of cuDNN: what form a call has, and which graphs can compute it.
//!
//! | form | path |
//! |---|---|
//! | FLUX: no bias, no mask, width 128 | `unified`, and `composite` where the library is older or faster so |
//! | CLIP: causal, width 64 | `composite` |
//! | T5: a bias for each head, scale 1, width 64 | `composite` |
//! | codes of 8-bit floats, neither bias nor mask | `narrow` |
//! | VAE: one head of width 512 | none: cuDNN goes to 256 |
//! | f32 | none |
//!
//! `unified` is one operation (cuDNN 9.13.1), which takes bias and mask from 9.21 on only;
//! `composite` is the product, the softmax in pieces and the product, which the library knows
//! by their pattern: scores stay in f32, the weights of values are rounded to the values' dtype.
//! The logarithm of the sum is part of the pattern, though nothing reads it.

use tintype_ir::Attention;
use tintype_tensor::DType;

use super::graph::{Function, GraphDescription, Operation, Reduction, Tensor, TensorId};
use super::library::Version;
use super::narrow;
use crate::plan::AttentionCall;
use crate::{Axis, View};

/// What decides how a call is computed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    /// Of query, key, value and output.
    pub(crate) dtype: DType,
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// Of a head of queries and keys, in elements.
    pub(crate) width: usize,
    /// Of a head of values.
    pub(crate) value_width: usize,
    pub(crate) has_bias: bool,
    pub(crate) is_causal: bool,
    pub(crate) scale: f32,
    /// Why the layout cannot be given to cuDNN, if it cannot.
    pub(crate) obstacle: Option<String>,
}

/// A graph that computes attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// One operation.
    Unified,
    /// Products, and the softmax in pieces.
    Composite,
    /// The same of codes.
    Narrow,
}

impl Path {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::Composite => "composite",
            Self::Narrow => "narrow",
        }
    }
}

/// The form of a call.
pub(crate) fn form_of(call: &AttentionCall) -> Form {
    let [query, key, value] = &call.query_key_value;
    let size = |view: &View, axis: usize| view.axes.get(axis).map_or(0, |axis| axis.size);
    let Attention { scale, causal } = call.attributes;
    Form {
        dtype: query.dtype,
        batch: size(query, 0),
        heads: size(query, 2),
        queries: size(query, 1),
        keys: size(key, 1),
        width: size(query, 3),
        value_width: size(value, 3),
        has_bias: call.bias.is_some(),
        is_causal: causal,
        scale,
        obstacle: obstacle(call),
    }
}

impl Form {
    /// The graphs to try, the likelier first, with this library on a GPU of this compute
    /// capability (90 for 9.0); or why there is none.
    pub(crate) fn paths(&self, version: Version, capability: u32) -> Result<Vec<Path>, String> {
        if let Some(obstacle) = &self.obstacle {
            return Err(obstacle.clone());
        }
        if self.dtype == DType::F8E4M3 {
            return narrow::check(self, version, capability).map(|()| vec![Path::Narrow]);
        }
        if !matches!(self.dtype, DType::F16 | DType::BF16) {
            return Err(format!("attention of {}", self.dtype));
        }
        for width in [self.width, self.value_width] {
            if width > GREATEST_WIDTH || !width.is_multiple_of(8) {
                return Err(format!("heads of width {width}"));
            }
        }
        if capability < 80 {
            return Err(format!(
                "a GPU of compute capability {}",
                f64::from(capability) / 10.0
            ));
        }
        let mut paths = Vec::new();
        if version >= UNIFIED && !self.has_bias && !self.is_causal {
            paths.push(Path::Unified);
        }
        if version >= COMPOSITE {
            paths.push(Path::Composite);
        }
        if paths.is_empty() {
            return Err(format!("attention needs cuDNN {COMPOSITE}"));
        }
        Ok(paths)
    }
}

/// Heads may be this wide on Ampere and Hopper.
const GREATEST_WIDTH: usize = 256;

/// The first version with the one operation.
const UNIFIED: Version = Version(91_301);

/// 9.10.0 and 9.10.1 compute it wrongly, and nothing here was tried with what is older.
pub(super) const COMPOSITE: Version = Version(91_002);

/// What of the layout keeps a call from cuDNN.
fn obstacle(call: &AttentionCall) -> Option<String> {
    let [query, key, value] = &call.query_key_value;
    let named = [
        ("queries", query),
        ("keys", key),
        ("values", value),
        ("output", &call.output),
    ];
    for (name, view) in named {
        let problem = problem_of(view, query.dtype);
        if let Some(problem) = problem {
            return Some(format!("{name} {view} {problem}"));
        }
    }
    let shapes = named.map(|(_, view)| view.shape());
    let [q, k, v, o] = &shapes;
    let fits = k[0] == q[0]
        && v[0] == q[0]
        && k[2] == q[2]
        && v[2] == q[2]
        && k[3] == q[3]
        && v[1] == k[1]
        && *o == [q[0], q[1], q[2], v[3]];
    if !fits {
        return Some(format!("sizes that do not fit: {q:?} {k:?} {v:?} to {o:?}"));
    }
    if let Some(problem) = problem_of_factor(call) {
        return Some(problem);
    }
    call.bias
        .as_ref()
        .and_then(|bias| problem_of_bias(bias, query.dtype, [q[0], q[2], q[1], k[1]]))
}

fn problem_of(view: &View, dtype: DType) -> Option<String> {
    let [.., last] = &view.axes[..] else {
        return Some("has no axes".to_owned());
    };
    if view.axes.len() != 4 {
        return Some("is not [b, s, h, d]".to_owned());
    }
    if view.dtype != dtype {
        return Some(format!("is not {dtype}"));
    }
    if view.index.is_some() {
        return Some("begins where only the device knows".to_owned());
    }
    if view.count() == 0 {
        return Some("is empty".to_owned());
    }
    if last.stride != 1 {
        return Some("has heads with gaps".to_owned());
    }
    // Rows are read 16 bytes at a time.
    let pack = 128 / view.dtype.bits();
    let is_odd =
        |axis: &Axis| axis.size > 1 && (axis.stride == 0 || !axis.stride.is_multiple_of(pack));
    if view.axes[..3].iter().any(is_odd) || !view.offset.is_multiple_of(pack) {
        return Some("has rows that are not aligned to 16 bytes".to_owned());
    }
    None
}

/// What the result is multiplied with is one number, and codes alone are multiplied.
fn problem_of_factor(call: &AttentionCall) -> Option<String> {
    let factor = call.output_factor.as_ref()?;
    let fits = factor.dtype == DType::F32 && factor.count() == 1 && factor.index.is_none();
    let is_narrow = call.output.dtype == DType::F8E4M3;
    (!fits || !is_narrow).then(|| format!("factor {factor} of {}", call.output.dtype))
}

/// A bias must be there for each query and key; batch and heads may repeat.
fn problem_of_bias(bias: &View, dtype: DType, [b, h, s, t]: [usize; 4]) -> Option<String> {
    let shape = bias.shape();
    let fits = shape.len() == 4
        && [1, b].contains(&shape[0])
        && [1, h].contains(&shape[1])
        && shape[2..] == [s, t];
    let problem = if !fits {
        format!("is not [{b} or 1, {h} or 1, {s}, {t}]")
    } else if bias.dtype != dtype {
        format!("is not {dtype}")
    } else if bias.index.is_some() {
        "begins where only the device knows".to_owned()
    } else if bias.axes[3].stride != 1 || (s > 1 && bias.axes[2].stride == 0) {
        "repeats or has gaps".to_owned()
    } else {
        return None;
    };
    Some(format!("bias {bias} {problem}"))
}

/// The graph of a call whose form has this path.
pub(super) fn graph_of(call: &AttentionCall, path: Path) -> GraphDescription {
    match path {
        Path::Unified => unified(call),
        Path::Composite => composite(call),
        Path::Narrow => narrow::graph_of(call),
    }
}

/// `[b, h, s, d]` of `[b, s, h, d]`.
pub(super) fn heads_first(view: &View) -> Tensor {
    Tensor::of_view(&view.transpose(&[0, 2, 1, 3]))
}

fn unified(call: &AttentionCall) -> GraphDescription {
    let mut graph = GraphDescription::default();
    let [query, key, value] = call
        .query_key_value
        .each_ref()
        .map(|view| graph.tensor(heads_first(view)));
    let scale = graph.tensor(Tensor::scalar(call.attributes.scale, 1));
    let output = graph.tensor(heads_first(&call.output));
    graph.operations.push(Operation::Attention {
        query,
        key,
        value,
        scale,
        output,
    });
    graph
}

fn composite(call: &AttentionCall) -> GraphDescription {
    let mut graph = GraphDescription::default();
    let [query, key, value] = &call.query_key_value;
    let dtype = query.dtype;
    let query = graph.tensor(heads_first(query));
    let key = graph.tensor(heads_first(key).transposed());
    let [batch, heads, queries, _] = graph.of(query).dims[..] else {
        unreachable!("a form with a path has four axes")
    };
    let scores = [batch, heads, queries, graph.of(key).dims[3]];
    let mut last = graph.tensor(Tensor::passing(&scores, DType::F32));
    graph.operations.push(Operation::Product {
        left: query,
        right: key,
        output: last,
    });
    if call.attributes.scale != 1.0 {
        let scale = graph.tensor(Tensor::scalar(call.attributes.scale, 4));
        last = graph.pointwise(Function::Multiply, &[last, scale], DType::F32, DType::F32);
    }
    if let Some(bias) = &call.bias {
        let bias = graph.tensor(Tensor::of_view(bias));
        last = graph.pointwise(Function::Add, &[last, bias], DType::F32, DType::F32);
    }
    if call.attributes.causal {
        last = masked(&mut graph, last);
    }
    let weights = softmax(&mut graph, last, dtype);
    let value = graph.tensor(heads_first(value));
    let output = graph.tensor(heads_first(&call.output));
    graph.operations.push(Operation::Product {
        left: weights,
        right: value,
        output,
    });
    graph
}

/// Scores of keys after the query become −∞.
fn masked(graph: &mut GraphDescription, scores: TensorId) -> TensorId {
    let mut position =
        |axis| graph.pointwise(Function::Position(axis), &[scores], DType::I32, DType::F32);
    let (row, column) = (position(2), position(3));
    let is_seen = graph.pointwise(Function::AtLeast, &[row, column], DType::Bool, DType::Bool);
    let unseen = graph.tensor(Tensor::scalar(f32::NEG_INFINITY, 4));
    graph.pointwise(
        Function::Select,
        &[scores, unseen, is_seen],
        DType::F32,
        DType::F32,
    )
}

/// The softmax of rows of f32, rounded to `dtype`.
pub(super) fn softmax(graph: &mut GraphDescription, scores: TensorId, dtype: DType) -> TensorId {
    let greatest = graph.reduce_rows(Reduction::Max, scores);
    let below = graph.pointwise(
        Function::Subtract,
        &[scores, greatest],
        DType::F32,
        DType::F32,
    );
    let power = graph.pointwise(Function::Exp, &[below], DType::F32, DType::F32);
    let sum = graph.reduce_rows(Reduction::Sum, power);
    let log = graph.pointwise(Function::Log, &[sum], DType::F32, DType::F32);
    graph.pointwise(Function::Add, &[greatest, log], DType::F32, DType::F32);
    graph.pointwise(Function::Divide, &[power, sum], dtype, DType::F32)
}
