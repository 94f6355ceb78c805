//! Attributes of operations, one flat table in each direction.

use tintype_tensor::DType;

use crate::{
    Attention, BinaryOp, Constant, Conv2d, Dim, Op, ReduceOp, RelativeBuckets, TensorType, UnaryOp,
};

/// The value of an attribute in the text form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Attribute {
    Integer(i64),
    Float(f32),
    Bool(bool),
    Dim(Dim),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
}

/// The attributes of `op` that its result's type does not show.
pub(crate) fn attributes(op: &Op) -> Vec<(&'static str, Attribute)> {
    use Attribute as A;
    let integer = |value: usize| A::Integer(value as i64);
    let integers = |values: &[usize]| A::Integers(values.iter().map(|&v| v as i64).collect());
    match op {
        Op::Constant(constant) => vec![("values", constant_values(constant))],
        Op::Iota { axis, .. } | Op::Concat { axis } | Op::Gather { axis } => {
            vec![("axis", integer(*axis))]
        }
        Op::Clamp { min, max } => vec![("min", A::Float(*min)), ("max", A::Float(*max))],
        Op::Transpose { permutation } => vec![("permutation", integers(permutation))],
        Op::Slice { axis, start, end } => vec![
            ("axis", integer(*axis)),
            ("start", A::Dim(start.clone())),
            ("end", A::Dim(end.clone())),
        ],
        Op::Reduce { axes, .. } => vec![("axes", integers(axes))],
        Op::RelativeBuckets(attributes) => vec![
            ("buckets", integer(attributes.buckets)),
            ("max_distance", integer(attributes.max_distance)),
            ("bidirectional", A::Bool(attributes.bidirectional)),
        ],
        Op::LayerNorm { epsilon } | Op::RmsNorm { epsilon } => {
            vec![("epsilon", A::Float(*epsilon))]
        }
        Op::GroupNorm { groups, epsilon } => {
            vec![
                ("groups", integer(*groups)),
                ("epsilon", A::Float(*epsilon)),
            ]
        }
        Op::RotaryTable { theta, dims } => {
            vec![("theta", A::Float(*theta)), ("dims", integers(dims))]
        }
        Op::Attention(attributes) => vec![
            ("scale", A::Float(attributes.scale)),
            ("causal", A::Bool(attributes.causal)),
        ],
        Op::Conv2d(attributes) => vec![
            ("stride", integers(&attributes.stride)),
            ("padding", integers(&attributes.padding)),
            ("groups", integer(attributes.groups)),
        ],
        Op::UpsampleNearest { factor } => vec![("factor", integer(*factor))],
        Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Cast { .. }
        | Op::Reshape { .. }
        | Op::Broadcast { .. }
        | Op::GatherRows
        | Op::ArgMax
        | Op::MatMul
        | Op::Linear
        | Op::Softmax
        | Op::Modulate
        | Op::GatedResidual
        | Op::Rotary => vec![],
    }
}

fn constant_values(constant: &Constant) -> Attribute {
    match (constant.float_values(), constant.integer_values()) {
        (Some([value]), _) => Attribute::Float(*value),
        (Some(values), _) => Attribute::Floats(values.to_vec()),
        (None, Some([value])) => Attribute::Integer(*value),
        (None, values) => Attribute::Integers(values.unwrap_or_default().to_vec()),
    }
}

/// The operation `name` with the given attributes and declared result type.
pub(super) fn build(
    name: &str,
    given: Vec<(String, Attribute)>,
    ty: &TensorType,
) -> Result<Op, String> {
    let mut given = Given(given);
    let op = given.op(name, ty)?;
    match given.0.first() {
        None => Ok(op),
        Some((extra, _)) => Err(format!("`{name}` has no attribute `{extra}`")),
    }
}

struct Given(Vec<(String, Attribute)>);

impl Given {
    fn op(&mut self, name: &str, ty: &TensorType) -> Result<Op, String> {
        if let Some(op) = UnaryOp::from_name(name) {
            return Ok(Op::Unary(op));
        }
        if let Some(op) = BinaryOp::from_name(name) {
            return Ok(Op::Binary(op));
        }
        if let Some(kind) = ReduceOp::from_name(name) {
            return Ok(Op::Reduce {
                kind,
                axes: self.sizes("axes")?,
            });
        }
        Ok(match name {
            "constant" => Op::Constant(self.constant(ty)?),
            "iota" => Op::Iota {
                ty: ty.clone(),
                axis: self.size("axis")?,
            },
            "select" => Op::Select,
            "cast" => Op::Cast { dtype: ty.dtype },
            "clamp" => Op::Clamp {
                min: self.float("min")?,
                max: self.float("max")?,
            },
            "reshape" => Op::Reshape {
                dims: ty.dims.clone(),
            },
            "broadcast" => Op::Broadcast {
                dims: ty.dims.clone(),
            },
            "transpose" => Op::Transpose {
                permutation: self.sizes("permutation")?,
            },
            "slice" => Op::Slice {
                axis: self.size("axis")?,
                start: self.dim("start")?,
                end: self.dim("end")?,
            },
            "concat" => Op::Concat {
                axis: self.size("axis")?,
            },
            "gather" => Op::Gather {
                axis: self.size("axis")?,
            },
            "gather_rows" => Op::GatherRows,
            "argmax" => Op::ArgMax,
            "matmul" => Op::MatMul,
            "relative_buckets" => Op::RelativeBuckets(self.relative_buckets(ty)?),
            "linear" => Op::Linear,
            "softmax" => Op::Softmax,
            "layer_norm" => Op::LayerNorm {
                epsilon: self.float("epsilon")?,
            },
            "rms_norm" => Op::RmsNorm {
                epsilon: self.float("epsilon")?,
            },
            "group_norm" => Op::GroupNorm {
                groups: self.size("groups")?,
                epsilon: self.float("epsilon")?,
            },
            "modulate" => Op::Modulate,
            "gated_residual" => Op::GatedResidual,
            "rotary" => Op::Rotary,
            "rotary_table" => Op::RotaryTable {
                theta: self.float("theta")?,
                dims: self.sizes("dims")?,
            },
            "attention" => Op::Attention(Attention {
                scale: self.float("scale")?,
                causal: self.bool("causal")?,
            }),
            "conv2d" => Op::Conv2d(Conv2d {
                stride: self.array("stride")?,
                padding: self.array("padding")?,
                groups: self.size("groups")?,
            }),
            "upsample_nearest" => Op::UpsampleNearest {
                factor: self.size("factor")?,
            },
            _ => return Err(format!("unknown operation `{name}`")),
        })
    }

    fn relative_buckets(&mut self, ty: &TensorType) -> Result<RelativeBuckets, String> {
        let [queries, keys] = ty.dims.as_slice() else {
            return Err(format!("expected i64[queries, keys], found {ty}"));
        };
        Ok(RelativeBuckets {
            buckets: self.size("buckets")?,
            max_distance: self.size("max_distance")?,
            bidirectional: self.bool("bidirectional")?,
            queries: queries.clone(),
            keys: keys.clone(),
        })
    }

    fn constant(&mut self, ty: &TensorType) -> Result<Constant, String> {
        let Some(shape) = ty.static_shape() else {
            return Err(format!("a constant has no symbols, found {ty}"));
        };
        let values = self.take("values")?;
        let constant = if ty.dtype.is_float() {
            Constant::floats(ty.dtype, shape, floats(values)?)
        } else {
            Constant::integers(ty.dtype, shape, integers(values)?)
        };
        constant.map_err(|error| error.to_string())
    }

    fn take(&mut self, name: &str) -> Result<Attribute, String> {
        let position = self.0.iter().position(|(given, _)| given == name);
        position
            .map(|position| self.0.remove(position).1)
            .ok_or_else(|| format!("expected the attribute `{name}`"))
    }

    fn size(&mut self, name: &str) -> Result<usize, String> {
        match self.take(name)? {
            Attribute::Integer(value) => to_size(value),
            other => Err(format!(
                "`{name}`: expected a whole number, found {other:?}"
            )),
        }
    }

    fn sizes(&mut self, name: &str) -> Result<Vec<usize>, String> {
        integers(self.take(name)?)?
            .into_iter()
            .map(to_size)
            .collect()
    }

    fn array<const N: usize>(&mut self, name: &str) -> Result<[usize; N], String> {
        let sizes = self.sizes(name)?;
        <[usize; N]>::try_from(sizes)
            .map_err(|found| format!("`{name}`: expected {N} numbers, found {}", found.len()))
    }

    fn float(&mut self, name: &str) -> Result<f32, String> {
        match floats(self.take(name)?)?.as_slice() {
            [value] => Ok(*value),
            other => Err(format!(
                "`{name}`: expected one number, found {}",
                other.len()
            )),
        }
    }

    fn bool(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name)? {
            Attribute::Bool(value) => Ok(value),
            other => Err(format!("`{name}`: expected true or false, found {other:?}")),
        }
    }

    fn dim(&mut self, name: &str) -> Result<Dim, String> {
        match self.take(name)? {
            Attribute::Dim(dim) => Ok(dim),
            Attribute::Integer(value) => Ok(Dim::from(value)),
            other => Err(format!("`{name}`: expected a dimension, found {other:?}")),
        }
    }
}

fn to_size(value: i64) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| format!("expected a size, found {value}"))
}

fn integers(attribute: Attribute) -> Result<Vec<i64>, String> {
    match attribute {
        Attribute::Integer(value) => Ok(vec![value]),
        Attribute::Integers(values) => Ok(values),
        other => Err(format!("expected whole numbers, found {other:?}")),
    }
}

fn floats(attribute: Attribute) -> Result<Vec<f32>, String> {
    match attribute {
        Attribute::Float(value) => Ok(vec![value]),
        Attribute::Floats(values) => Ok(values),
        Attribute::Integer(value) => Ok(vec![value as f32]),
        Attribute::Integers(values) => Ok(values.into_iter().map(|v| v as f32).collect()),
        other => Err(format!("expected numbers, found {other:?}")),
    }
}

/// Every dtype can be named in the text; kept here so that the table is whole.
pub(super) fn dtype(name: &str) -> Result<DType, String> {
    name.parse()
        .map_err(|error: tintype_tensor::Error| error.to_string())
}
