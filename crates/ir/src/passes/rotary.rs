//! `rotary` from the rotation of interleaved pairs, as [`decompose`](crate::decompose)
//! writes it, with operands in any order.

use super::fusion::{Fused, fusion_pass};
use super::matcher::Matcher;
use crate::{BinaryOp, Dim, Op, Value};

fusion_pass! {
    /// `(x₀ cos − x₁ sin, x₁ cos + x₀ sin)` for each pair of the last axis.
    FuseRotary, "rotary", find
}

/// One of the two members of a pair of `x`, or of cosine and sine of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Member {
    source: Value,
    index: i64,
}

fn find(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let reshape = matcher.node(root);
    let Op::Reshape { .. } = reshape.op else {
        return None;
    };
    let pairs = matcher.inner(reshape.operands[0])?;
    let (Op::Concat { axis: 4 }, &[first, second]) = (&pairs.op, pairs.operands.as_slice()) else {
        return None;
    };
    let difference = matcher.inner(first)?;
    let (Op::Binary(BinaryOp::Sub), &[a, b]) = (&difference.op, difference.operands.as_slice())
    else {
        return None;
    };
    let [c, d] = matcher.addends(second)?;
    let (x0, cos) = turned(matcher, a, 0, 0)?;
    let same = |found: Option<(Value, Value)>| found == Some((x0, cos));
    if !same(turned(matcher, b, 1, 1)) {
        return None;
    }
    let found = [(c, d), (d, c)].into_iter().any(|(by_cos, by_sin)| {
        let fits = |m: &mut Matcher| {
            (same(turned(m, by_cos, 1, 0)) && same(turned(m, by_sin, 0, 1))).then_some(())
        };
        matcher.attempt(fits).is_some()
    });
    if !found {
        return None;
    }
    let x = matcher.type_of(x0);
    (x.dims == reshape.ty.dims).then(|| Fused::new(Op::Rotary, [x0, cos]))
}

/// `x[.., member] · table[.., part]`: gives `x` and the table.
fn turned(matcher: &mut Matcher, value: Value, member: i64, part: i64) -> Option<(Value, Value)> {
    let node = matcher.inner(value)?;
    let (Op::Binary(BinaryOp::Mul), &[a, b]) = (&node.op, node.operands.as_slice()) else {
        return None;
    };
    [(a, b), (b, a)].into_iter().find_map(|(x, table)| {
        matcher.attempt(|m| {
            let x = member_of_x(m, x)?;
            let table = member_of_table(m, table)?;
            (x.index == member && table.index == part).then_some((x.source, table.source))
        })
    })
}

/// `x` reshaped to `[b, s, h, d/2, 2]`, sliced to one member.
fn member_of_x(matcher: &mut Matcher, value: Value) -> Option<Member> {
    let node = matcher.inner(value)?;
    let index = sliced(&node.op, 4)?;
    let pairs = matcher.inner(node.operands[0])?;
    let is_pairs = matches!(pairs.op, Op::Reshape { .. }) && pairs.ty.rank() == 5;
    let source = matcher.peel(*pairs.operands.first()?);
    is_pairs.then_some(Member { source, index })
}

/// `table[s, d/2, 2]` sliced to one part and reshaped to `[1, s, 1, d/2, 1]`. Tables are
/// shared by all blocks: these are no inner nodes.
fn member_of_table(matcher: &Matcher, value: Value) -> Option<Member> {
    let reshaped = matcher.graph.node_of(value)?;
    let part = matcher.graph.node_of(*reshaped.operands.first()?)?;
    let index = sliced(&part.op, 2)?;
    let source = *part.operands.first()?;
    let dims = &matcher.type_of(source).dims;
    let one = Dim::from(1);
    let expected = [&one, dims.first()?, &one, dims.get(1)?, &one].map(Dim::clone);
    (matches!(reshaped.op, Op::Reshape { .. }) && reshaped.ty.dims == expected)
        .then_some(Member { source, index })
}

/// The position that a slice of one position along `axis` takes.
fn sliced(op: &Op, expected_axis: usize) -> Option<i64> {
    match op {
        Op::Slice { axis, start, end } if *axis == expected_axis => {
            let (start, end) = (start.as_constant()?, end.as_constant()?);
            (end.checked_sub(start) == Some(1)).then_some(start)
        }
        _ => None,
    }
}
