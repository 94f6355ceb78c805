//! `cast(op(cast a, cast b))` → `op(a, b)`: computing in f32 and rounding once is what
//! every operation does by itself.
//!
//! Applies where the operation stands in f32, its operands were widened from the dtype
//! that its result is rounded to, and nothing else reads its result.

use tintype_tensor::DType;

use super::fusion::{Edge, Fused, edge, fusion_pass};
use super::matcher::Matcher;
use crate::Op;

fusion_pass! {
    /// Operations in f32 between casts, put into the narrow dtype.
    AbsorbCasts, "absorb_casts", find
}

fn find(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let cast = matcher.node(root);
    let narrow = match cast.op {
        Op::Cast { dtype } if matches!(dtype, DType::BF16 | DType::F16) => dtype,
        _ => return None,
    };
    if matcher.type_of(cast.operands[0]).dtype != DType::F32 {
        return None;
    }
    let node = matcher.inner(cast.operands[0])?;
    let absorbable = !matches!(node.op, Op::Constant(_) | Op::Cast { .. } | Op::Iota { .. });
    if !absorbable || node.ty.dtype != DType::F32 {
        return None;
    }
    let mut widened = 0;
    for (position, &operand) in node.operands.iter().enumerate() {
        let ty = matcher.type_of(matcher.peel(operand));
        let shared = edge(&node.op, position) == Edge::Shared;
        if shared && ty.dtype.is_float() && ty.dtype != narrow {
            return None;
        }
        widened += usize::from(shared && ty.dtype == narrow);
    }
    (widened > 0).then(|| Fused::new(node.op.clone(), node.operands.iter().copied()))
}
