//! The expression of one instruction in CUDA C++.
//!
//! ```ignore
//! assert_eq!(float(1.0), "__uint_as_float(0x3f800000u)");
//! ```

use tintype_ir::{BinaryOp, UnaryOp};
use tintype_tensor::DType;

use super::expression::Instruction;

/// What an instruction computes from its operands. Loads, positions, reductions and rotations are
/// the writer's.
pub(super) fn value_of(
    instruction: Instruction,
    is_integer: &[bool],
    operand: &dyn Fn(usize) -> String,
) -> String {
    match instruction {
        Instruction::Float(value) => float(value),
        Instruction::Integer(value) => format!("(i64){value}ll"),
        Instruction::Unary(op, x) => unary(op, &operand(x)),
        Instruction::Binary(op, a, b) if is_integer[a] => whole(op, &operand(a), &operand(b)),
        Instruction::Binary(op, a, b) => binary(op, &operand(a), &operand(b)),
        Instruction::Wrap(DType::I32, x) => format!("(i64)(i32){}", operand(x)),
        Instruction::Wrap(DType::U8, x) => format!("(i64)(u8){}", operand(x)),
        Instruction::Wrap(_, x) => operand(x),
        Instruction::Select(condition, a, b) => {
            let (condition, a, b) = (operand(condition), operand(a), operand(b));
            format!("({condition} != 0 ? {a} : {b})")
        }
        Instruction::Clamp(x, low, high) => {
            format!("limit({}, {}, {})", operand(x), float(low), float(high))
        }
        Instruction::Cast(dtype, x) => cast(dtype, is_integer[x], &operand(x)),
        Instruction::Load(_)
        | Instruction::Position(_)
        | Instruction::Reduce(..)
        | Instruction::Turn(..) => unreachable!("the writer has these"),
    }
}

/// A number to the bit.
pub(super) fn float(value: f32) -> String {
    format!("__uint_as_float(0x{:08x}u)", value.to_bits())
}

fn unary(op: UnaryOp, x: &str) -> String {
    match op {
        UnaryOp::Neg => format!("(-{x})"),
        UnaryOp::Abs => format!("fabsf({x})"),
        UnaryOp::Exp => format!("expf({x})"),
        UnaryOp::Log => format!("logf({x})"),
        UnaryOp::Sqrt => format!("sqrtf({x})"),
        UnaryOp::Rsqrt => format!("(1.0f / sqrtf({x}))"),
        UnaryOp::Reciprocal => format!("(1.0f / {x})"),
        UnaryOp::Sin => format!("sinf({x})"),
        UnaryOp::Cos => format!("cosf({x})"),
        UnaryOp::Tanh => format!("tanhf({x})"),
        UnaryOp::Erf => format!("erff({x})"),
        // Named as in `functions.cu`.
        op => format!("{}({x})", op.name()),
    }
}

fn binary(op: BinaryOp, a: &str, b: &str) -> String {
    let symbol = match op {
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => "/",
        BinaryOp::Max => return format!("greater({a}, {b})"),
        BinaryOp::Min => return format!("lesser({a}, {b})"),
        BinaryOp::Pow => return format!("powf({a}, {b})"),
        BinaryOp::Equal => return format!("(i64)({a} == {b})"),
        _ => return format!("(i64)({a} < {b})"),
    };
    format!("({a} {symbol} {b})")
}

/// Of whole numbers, which wrap around: so they are computed without a sign.
fn whole(op: BinaryOp, a: &str, b: &str) -> String {
    let symbol = match op {
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => return format!("quotient({a}, {b})"),
        BinaryOp::Pow => return format!("power({a}, {b})"),
        op => return binary(op, a, b),
    };
    format!("(i64)((u64){a} {symbol} (u64){b})")
}

fn cast(dtype: DType, from_integer: bool, x: &str) -> String {
    let whole = || {
        if from_integer {
            x.to_owned()
        } else {
            format!("whole({x})")
        }
    };
    match dtype {
        DType::F8E4M3 => format!("widen(Round<f8e4m3>::of((float){x}))"),
        DType::I32 => format!("between({}, -2147483648ll, 2147483647ll)", whole()),
        DType::U8 => format!("between({}, 0, 255)", whole()),
        DType::Bool => format!("(i64)({x} != 0)"),
        dtype if dtype.is_float() => format!("(float){x}"),
        _ => whole(),
    }
}
