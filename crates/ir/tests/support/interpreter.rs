//! Computes the operations of the first half in f64 without any rounding: enough to
//! hold decompositions against formulas.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::HashMap;

use tintype_ir::{BinaryOp, Binding, Graph, Op, ReduceOp, TensorType, UnaryOp, Value};

/// Values in row-major order. Whole numbers and booleans are numbers too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

impl Array {
    /// Numbers between −1 and 1 that look random.
    pub(crate) fn noise(shape: &[usize], seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self::from_fn(shape, |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
        })
    }

    /// An array of what `value` gives at each index.
    pub(crate) fn from_fn(shape: &[usize], mut value: impl FnMut(&[usize]) -> f64) -> Self {
        let count: usize = shape.iter().product();
        let mut index = vec![0; shape.len()];
        let mut values = Vec::with_capacity(count);
        for flat in 0..count {
            let mut rest = flat;
            for axis in (0..shape.len()).rev() {
                index[axis] = rest % shape[axis];
                rest /= shape[axis];
            }
            values.push(value(&index));
        }
        Self {
            shape: shape.to_vec(),
            values,
        }
    }

    /// The value at an index; axes of size 1 are repeated and outer ones may be missing.
    pub(crate) fn at(&self, index: &[usize]) -> f64 {
        let index = &index[index.len() - self.shape.len()..];
        let place = |flat: usize, (&i, &size): (&usize, &usize)| flat * size + i.min(size - 1);
        self.values[index.iter().zip(&self.shape).fold(0, place)]
    }
}

/// The outputs of a graph for noise in its inputs and parameters, which is the same for
/// the same names.
pub(crate) fn run_on_noise(graph: &Graph, binding: &Binding) -> HashMap<String, Array> {
    let inputs = graph.inputs().iter().map(|i| (i.name.as_str(), &i.ty));
    let parameters = graph.parameters().iter().map(|p| (p.name.as_str(), &p.ty));
    let given = inputs.chain(parameters).map(|(name, ty)| {
        let seed = name
            .bytes()
            .fold(7u64, |sum, byte| sum.wrapping_mul(31) ^ u64::from(byte));
        (name, Array::noise(&ty.shape(binding).unwrap(), seed))
    });
    run(graph, binding, &given.collect())
}

/// The outputs of a graph for inputs and parameters by name.
pub(crate) fn run(
    graph: &Graph,
    binding: &Binding,
    given: &HashMap<&str, Array>,
) -> HashMap<String, Array> {
    let mut nodes: Vec<Array> = Vec::new();
    for node in graph.nodes() {
        let operands: Vec<&Array> = node
            .operands
            .iter()
            .map(|&v| find(graph, given, &nodes, v))
            .collect();
        let result = compute(&node.op, &operands, &node.ty, binding);
        nodes.push(result);
    }
    let outputs = graph.outputs().iter();
    outputs
        .map(|o| (o.name.clone(), find(graph, given, &nodes, o.value).clone()))
        .collect()
}

fn find<'v>(
    graph: &Graph,
    given: &'v HashMap<&str, Array>,
    nodes: &'v [Array],
    value: Value,
) -> &'v Array {
    match value {
        Value::Input(index) => &given[graph.inputs()[index].name.as_str()],
        Value::Parameter(index) => &given[graph.parameters()[index].name.as_str()],
        Value::Node(index) => &nodes[index],
    }
}

fn compute(op: &Op, x: &[&Array], ty: &TensorType, binding: &Binding) -> Array {
    let shape = ty.shape(binding).unwrap().to_vec();
    let size = |dim| binding.evaluate(dim).unwrap();
    match op {
        Op::Constant(constant) => {
            let values = constant.to_tensor().unwrap().to_f32_vec().unwrap();
            Array {
                shape,
                values: values.into_iter().map(f64::from).collect(),
            }
        }
        Op::Iota { axis, .. } => Array::from_fn(&shape, |i| i[*axis] as f64),
        Op::Unary(op) => Array::from_fn(&shape, |i| unary(*op, x[0].at(i))),
        Op::Binary(op) => Array::from_fn(&shape, |i| binary(*op, x[0].at(i), x[1].at(i))),
        Op::Select => Array::from_fn(&shape, |i| {
            if x[0].at(i) == 0.0 {
                x[2].at(i)
            } else {
                x[1].at(i)
            }
        }),
        Op::Cast { .. } => x[0].clone(),
        Op::Reshape { .. } => Array {
            shape,
            values: x[0].values.clone(),
        },
        Op::Broadcast { .. } => Array::from_fn(&shape, |i| x[0].at(i)),
        Op::Transpose { permutation } => Array::from_fn(&shape, |i| {
            let mut source = vec![0; i.len()];
            permutation
                .iter()
                .zip(i)
                .for_each(|(&axis, &position)| source[axis] = position);
            x[0].at(&source)
        }),
        Op::Slice { axis, start, .. } => Array::from_fn(&shape, |i| {
            let mut source = i.to_vec();
            source[*axis] += size(start);
            x[0].at(&source)
        }),
        Op::Concat { axis } => Array::from_fn(&shape, |i| concatenated(x, *axis, i)),
        Op::Gather { axis } => Array::from_fn(&shape, |i| {
            let end = axis + x[1].shape.len();
            let position = x[1].at(&i[*axis..end]) as usize;
            let source = [&i[..*axis], &[position], &i[end..]].concat();
            x[0].at(&source)
        }),
        Op::Reduce { kind, axes } => reduce(*kind, axes, x[0], &shape),
        Op::MatMul => Array::from_fn(&shape, |i| {
            let (outer, inner) = i.split_at(i.len() - 2);
            let depth = x[0].shape[x[0].shape.len() - 1];
            let product = |k: usize| {
                x[0].at(&[outer, &[inner[0], k]].concat())
                    * x[1].at(&[outer, &[k, inner[1]]].concat())
            };
            (0..depth).map(product).sum()
        }),
        other => panic!("{} is not of the first half", other.name()),
    }
}

fn concatenated(parts: &[&Array], axis: usize, index: &[usize]) -> f64 {
    let mut source = index.to_vec();
    for part in parts {
        if source[axis] < part.shape[axis] {
            return part.at(&source);
        }
        source[axis] -= part.shape[axis];
    }
    unreachable!("the sizes add up")
}

fn reduce(kind: ReduceOp, axes: &[usize], x: &Array, shape: &[usize]) -> Array {
    let sizes: Vec<usize> = axes.iter().map(|&axis| x.shape[axis]).collect();
    Array::from_fn(shape, |i| {
        let members = Array::from_fn(&sizes, |inner| {
            let mut source = i.to_vec();
            axes.iter()
                .zip(inner)
                .for_each(|(&axis, &position)| source[axis] = position);
            x.at(&source)
        });
        let count = members.values.len() as f64;
        match kind {
            ReduceOp::Sum => members.values.iter().sum(),
            ReduceOp::Mean => members.values.iter().sum::<f64>() / count,
            _ => members
                .values
                .iter()
                .copied()
                .fold(f64::NEG_INFINITY, f64::max),
        }
    })
}

fn unary(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Erf => erf(x),
        UnaryOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        other => panic!("{} is not of the first half", other.name()),
    }
}

/// By its series, which is exact enough below 4, where the function is 1 to 1e-8.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 4.0 {
        return x.signum();
    }
    let mut term = x;
    let mut sum = x;
    for n in 1..100 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn binary(op: BinaryOp, a: f64, b: f64) -> f64 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Max => a.max(b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Equal => f64::from(a == b),
        BinaryOp::Less => f64::from(a < b),
        other => panic!("{} is not known here", other.name()),
    }
}
