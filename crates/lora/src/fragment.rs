//! The fragment of IR that computes one parameter from all updates of it.
//!
//! All low-rank updates become one product, of ups side by side and downs below
//! each other, each down multiplied by its scale:
//!
//! ```text
//! %0: f32[32, 32] = cast @base
//! %1: f32[4, 32] = mul @lora.style.proj.weight.A, @lora.style.proj.weight.scale
//! %2: f32[32, 32] = matmul @lora.style.proj.weight.B, %1
//! %3: f32[32, 32] = add %0, %2
//! %4: bf16[32, 32] = cast %3
//! ```
//!
//! Everything is f32 until the last cast, so there is one rounding however many
//! adapters there are. Nothing is evaluated here.

use tintype_ir::{
    BinaryOp, GraphBuilder, Overlay, Parameter, ReduceOp, TensorType, UnaryOp, Value,
};
use tintype_tensor::{DType, Shape};

use crate::own::OwnParameters;
use crate::{Error, Factor, LoraTarget, Pair, Result, Rows, Stored, Update};

/// One update of the parameter at hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound<'a> {
    pub(crate) target: &'a LoraTarget,
    /// What the names of its own parameters begin with.
    pub(crate) prefix: &'a str,
}

impl Bound<'_> {
    /// The name of its scale among the own parameters.
    pub(crate) fn scale_name(&self) -> String {
        format!("{}.scale", self.prefix)
    }
}

/// What the scale of an update is multiplied by in its parameter; none for an update that has
/// no scale.
pub(crate) fn scale_factor(target: &LoraTarget) -> Option<f32> {
    match (&target.update, &target.magnitude) {
        (Update::Replacement { .. }, _) => None,
        // The factor comes before the lengths are set, so it is a parameter of its own.
        (_, Some(_)) => Some(1.0),
        (_, None) => Some(target.factor),
    }
}

/// The overlay that applies `updates`, whose shapes fit, to `parameter`. What it reads of the
/// adapters' files is noted in `own`.
pub(crate) fn overlay(
    parameter: &Parameter,
    updates: &[Bound<'_>],
    own: &mut OwnParameters,
) -> Result<Overlay> {
    let mut fragment = Fragment {
        b: GraphBuilder::new("lora"),
        parameter,
        base: None,
        own,
    };
    let value = fragment.value(updates);
    let value = fragment.b.cast(value, parameter.ty.dtype);
    fragment.b.output("value", value);
    let graph = fragment.b.finish();
    graph
        .and_then(|graph| Overlay::new(&parameter.name, graph))
        .map_err(|source| Error::Overlay {
            parameter: parameter.name.clone(),
            source,
        })
}

struct Fragment<'a> {
    b: GraphBuilder,
    parameter: &'a Parameter,
    base: Option<Value>,
    own: &'a mut OwnParameters,
}

impl Fragment<'_> {
    fn value(&mut self, updates: &[Bound<'_>]) -> Value {
        let mut start = None;
        for bound in updates {
            if let Update::Replacement { values } = &bound.target.update {
                // The last one wins, as the last loaded does.
                start = Some((bound, values));
            }
        }
        let mut value = match start {
            Some((bound, values)) => self.rows(bound, "value", values, Some(bound.target.rows)),
            None => self.base(),
        };
        if let Some(delta) = self.low_rank(updates) {
            value = self.b.add(value, delta);
        }
        for bound in updates {
            let target = bound.target;
            let is_low_rank = matches!(target.update, Update::LowRank { .. });
            let is_replacement = matches!(target.update, Update::Replacement { .. });
            if is_replacement || (is_low_rank && target.magnitude.is_none()) {
                continue;
            }
            let delta = self.delta(bound);
            value = self.b.add(value, delta);
        }
        value
    }

    /// The parameter below, in f32.
    fn base(&mut self) -> Value {
        *self.base.get_or_insert_with(|| {
            let base = self.b.parameter(Overlay::BASE, self.parameter.ty.clone());
            self.b.cast(base, DType::F32)
        })
    }

    /// The sum of all plain low-rank updates, scales included.
    fn low_rank(&mut self, updates: &[Bound<'_>]) -> Option<Value> {
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        for bound in updates {
            let Update::LowRank { down, up } = &bound.target.update else {
                continue;
            };
            if bound.target.magnitude.is_some() {
                continue;
            }
            ups.push(self.rows(bound, "B", up, Some(bound.target.rows)));
            let down = self.down(bound, down);
            let scale = self.scale(bound);
            downs.push(self.b.mul(down, scale));
        }
        let (up, down) = match (ups.as_slice(), downs.as_slice()) {
            ([], _) => return None,
            (&[up], &[down]) => (up, down),
            (ups, downs) => (self.b.concat(1, ups), self.b.concat(0, downs)),
        };
        Some(self.b.matmul(up, down))
    }

    /// The down matrix, with columns of zeros for inputs that it does not see.
    fn down(&mut self, bound: &Bound<'_>, down: &Stored) -> Value {
        let value = self.rows(bound, "A", down, None);
        let (rank, columns) = (down.shape[0], down.shape[1]);
        let wanted = self
            .parameter
            .ty
            .static_shape()
            .map_or(columns, |shape| shape[1]);
        if wanted <= columns {
            return value;
        }
        let zero = self.b.scalar(DType::F32, 0.0);
        let zeros = self.b.broadcast(zero, [rank, wanted - columns]);
        self.b.concat(1, &[value, zeros])
    }

    /// Any other update, scale included.
    fn delta(&mut self, bound: &Bound<'_>) -> Value {
        let target = bound.target;
        let raw = self.raw_delta(bound);
        let Some(magnitude) = &target.magnitude else {
            let scale = self.scale(bound);
            return self.b.mul(raw, scale);
        };
        let name = format!("{}.factor", bound.prefix);
        self.own.scalar(&name, target.factor);
        let factor = self.b.parameter(&name, scalar_type());
        let raw = self.b.mul(raw, factor);
        let base = self.base();
        let sum = self.b.add(base, raw);
        let sum = self.with_lengths(bound, sum, magnitude);
        // What the adapter changes, so that it fades with its scale and adds up with others.
        let delta = self.b.binary(BinaryOp::Sub, sum, base);
        let scale = self.scale(bound);
        self.b.mul(delta, scale)
    }

    /// `value` with its rows (or columns) stretched to the lengths in `magnitude`.
    fn with_lengths(&mut self, bound: &Bound<'_>, value: Value, magnitude: &Stored) -> Value {
        let stored_rows = bound.target.rows.stored;
        let is_of_rows = matches!(magnitude.shape[..], [n] | [n, 1] if n == stored_rows);
        let (axis, rows) = if is_of_rows {
            (1, Some(bound.target.rows))
        } else {
            (0, None)
        };
        let mut lengths = self.rows(bound, "magnitude", magnitude, rows);
        if is_of_rows {
            lengths = self.b.reshape(lengths, [bound.target.rows.len(), 1]);
        }
        let squares = self.b.mul(value, value);
        let sums = self.b.reduce(ReduceOp::Sum, squares, &[axis]);
        let found = self.b.unary(UnaryOp::Sqrt, sums);
        // A row of zeros stays one.
        let least = self.b.scalar(DType::F32, f32::MIN_POSITIVE);
        let found = self.b.binary(BinaryOp::Max, found, least);
        let stretch = self.b.binary(BinaryOp::Div, lengths, found);
        self.b.mul(value, stretch)
    }

    /// The update without any factor.
    fn raw_delta(&mut self, bound: &Bound<'_>) -> Value {
        let rows = bound.target.rows;
        match &bound.target.update {
            Update::LowRank { down, up } => {
                let up = self.rows(bound, "B", up, Some(rows));
                let down = self.rows(bound, "A", down, None);
                self.b.matmul(up, down)
            }
            Update::Hadamard { first, second } => {
                let first = self.product(bound, "w1", first, Some(rows));
                let second = self.product(bound, "w2", second, Some(rows));
                self.b.mul(first, second)
            }
            Update::Kronecker { left, right } => {
                let all = self.kronecker(bound, left, right);
                self.select_rows(all, rows)
            }
            Update::Difference { values } | Update::Replacement { values } => {
                self.rows(bound, "value", values, Some(rows))
            }
        }
    }

    fn kronecker(&mut self, bound: &Bound<'_>, left: &Factor, right: &Factor) -> Value {
        let ([a, b], [c, d]) = (left.shape(), right.shape());
        let left = self.factor(bound, "w1", left);
        let right = self.factor(bound, "w2", right);
        let left = self.b.reshape(left, [a, 1, b, 1]);
        let right = self.b.reshape(right, [1, c, 1, d]);
        let product = self.b.mul(left, right);
        self.b.reshape(product, [a * c, b * d])
    }

    fn factor(&mut self, bound: &Bound<'_>, name: &str, factor: &Factor) -> Value {
        match factor {
            Factor::Whole(stored) => self.rows(bound, name, stored, None),
            Factor::Product(pair) => self.product(bound, name, pair, None),
        }
    }

    fn product(&mut self, bound: &Bound<'_>, name: &str, pair: &Pair, rows: Option<Rows>) -> Value {
        let up = self.rows(bound, &format!("{name}.B"), &pair.up, rows);
        let down = self.rows(bound, &format!("{name}.A"), &pair.down, None);
        self.b.matmul(up, down)
    }

    /// The rows of a computed matrix that belong to the parameter.
    fn select_rows(&mut self, value: Value, rows: Rows) -> Value {
        if rows.swapped {
            let half = rows.stored / 2;
            let first = self.b.slice(value, 0, 0, half);
            let second = self.b.slice(value, 0, half, rows.stored);
            return self.b.concat(0, &[second, first]);
        }
        if rows.is_whole() {
            return value;
        }
        self.b.slice(value, 0, rows.start, rows.end)
    }

    /// An own parameter that holds rows of a stored tensor.
    fn rows(
        &mut self,
        bound: &Bound<'_>,
        name: &str,
        stored: &Stored,
        rows: Option<Rows>,
    ) -> Value {
        let name = format!("{}.{name}", bound.prefix);
        let shape = self.own.rows(&name, stored, rows);
        self.b.parameter(&name, f32_type(&shape))
    }

    /// The update's scale with its factor, as a parameter.
    fn scale(&mut self, bound: &Bound<'_>) -> Value {
        self.b.parameter(&bound.scale_name(), scalar_type())
    }
}

fn scalar_type() -> TensorType {
    TensorType::new(DType::F32, [0usize; 0])
}

fn f32_type(shape: &Shape) -> TensorType {
    TensorType::new(DType::F32, shape.to_vec())
}
