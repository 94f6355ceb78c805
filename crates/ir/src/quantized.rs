//! How a graph shows that a value is quantized, and how that is recognized again.
//!
//! There is no operation of its own for it. Quantizing divides by a scale in f32 and
//! rounds once to the narrow dtype; dequantizing widens, multiplies with the scale and
//! rounds once to the dtype of the reader:
//!
//! ```text
//! %0: f32[n, k] = cast %x            ; not where x is f32
//! %1: f32[n, k] = div %0, @s         ; s: f32, one value or one that broadcasts
//! %2: f8e4m3[n, k] = cast %1         ; codes
//! %3: f32[n, k] = cast %2
//! %4: f32[n, k] = mul %3, @s
//! %5: bf16[n, k] = cast %4           ; not where the reader wants f32
//! ```
//!
//! So every backend computes it, and one that has products for narrow floats finds codes
//! and scales here. Which values are quantized is not decided in this crate.
//!
//! ```
//! use tintype_ir::{Value, parse};
//!
//! let graph = parse(
//!     "graph g { param @w: f8e4m3[4, 2] param @s: f32[] input step %x: f32[1, 2] \
//!      %0: f32[4, 2] = cast @w %1: f32[4, 2] = mul %0, @s \
//!      %2: f32[1, 4] = linear %x, %1 output y = %2 }",
//! )?;
//! let weight = graph.dequantized(Value::Node(1)).expect("codes times a scale");
//! assert_eq!((weight.codes, weight.scale), (Value::Parameter(0), Value::Parameter(1)));
//! # Ok::<(), tintype_ir::Error>(())
//! ```

use tintype_tensor::DType;

use crate::{BinaryOp, Graph, Op, TensorType, Value};

/// A value that is `codes · scale`, rounded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dequantized {
    /// The codes, of a float dtype of at most 8 bits.
    pub codes: Value,
    /// The scale, f32, which broadcasts to the codes.
    pub scale: Value,
}

/// Codes that are `value / scale`, rounded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantized {
    /// What was quantized: before it was widened to f32, if it was.
    pub value: Value,
    /// The scale, f32, which broadcasts to the value.
    pub scale: Value,
}

impl Graph {
    /// Codes and scale of a value that was dequantized.
    pub fn dequantized(&self, value: Value) -> Option<Dequantized> {
        let product = match self.operand_of_cast(value) {
            Some(inner) if is_wide(self.type_of(value).dtype) => inner,
            _ => value,
        };
        let [left, right] = self.binary(product, BinaryOp::Mul)?;
        let found = [(left, right), (right, left)]
            .into_iter()
            .find_map(|(wide, scale)| {
                let codes = self.operand_of_cast(wide)?;
                let fits = is_narrow(self.type_of(codes).dtype)
                    && self.is_scale(scale, self.type_of(codes));
                fits.then_some(Dequantized { codes, scale })
            })?;
        (self.type_of(product).dtype == DType::F32).then_some(found)
    }

    /// Value and scale of codes that were quantized in this graph.
    pub fn quantized(&self, codes: Value) -> Option<Quantized> {
        if !is_narrow(self.type_of(codes).dtype) {
            return None;
        }
        let [value, scale] = self.binary(self.operand_of_cast(codes)?, BinaryOp::Div)?;
        let ty = self.type_of(value);
        if ty.dims != self.type_of(codes).dims || !self.is_scale(scale, ty) {
            return None;
        }
        let value = match self.operand_of_cast(value) {
            Some(narrow) if is_wide(self.type_of(narrow).dtype) => narrow,
            _ => value,
        };
        Some(Quantized { value, scale })
    }

    fn operand_of_cast(&self, value: Value) -> Option<Value> {
        let node = self.node_of(value)?;
        matches!(node.op, Op::Cast { .. }).then(|| node.operands[0])
    }

    fn binary(&self, value: Value, op: BinaryOp) -> Option<[Value; 2]> {
        let node = self.node_of(value)?;
        (node.op == Op::Binary(op)).then(|| [node.operands[0], node.operands[1]])
    }

    /// Whether a value broadcasts to what it scales without making it larger.
    fn is_scale(&self, scale: Value, of: &TensorType) -> bool {
        let ty = self.type_of(scale);
        let broadcast = crate::broadcast_dims(&of.dims, &ty.dims);
        ty.dtype == DType::F32 && broadcast.is_some_and(|dims| dims == of.dims)
    }
}

fn is_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::F8E4M3 | DType::F4E2M1)
}

fn is_wide(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_found_and_nothing_else() {
        let graph = crate::parse(
            "graph g { param @s: f32[] param @big: f32[3, 4, 2] input step %x: bf16[4, 2] \
             %0: f32[4, 2] = cast %x %1: f32[4, 2] = div %0, @s %2: f8e4m3[4, 2] = cast %1 \
             %3: f32[4, 2] = cast %2 %4: f32[4, 2] = mul @s, %3 %5: bf16[4, 2] = cast %4 \
             %6: f32[3, 4, 2] = mul %3, @big %7: f32[4, 2] = mul %0, @s \
             output a = %5 output b = %6 output c = %7 }",
        )
        .unwrap();
        let node = Value::Node;
        let scale = Value::Parameter(0);
        let codes = node(2);
        for value in [node(4), node(5)] {
            assert_eq!(graph.dequantized(value), Some(Dequantized { codes, scale }));
        }
        let value = Value::Input(0);
        assert_eq!(graph.quantized(codes), Some(Quantized { value, scale }));
        for other in [node(0), node(1), node(2), node(3), node(6), node(7)] {
            assert_eq!(graph.dequantized(other), None);
        }
        assert_eq!(graph.quantized(node(5)), None);
    }
}
