//! Attributes and sizes at their extremes: refused with an error, never a panic, and
//! never memory or time without bound.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{
    Attention, Constant, Conv2d, Dim, Op, RelativeBuckets, TensorType, decompose, infer, parse,
    verify,
};
use tintype_tensor::DType;

const EXTREMES: [usize; 7] = [0, 1, 2, 1 << 20, i64::MAX as usize, 1 << 63, usize::MAX];

/// Every operation with an attribute, at each extreme.
fn operations(extreme: usize) -> Vec<Op> {
    let dim = i64::try_from(extreme).map_or(Dim::from(i64::MIN), Dim::from);
    let float = if extreme.is_multiple_of(2) {
        f32::NAN
    } else {
        -f32::INFINITY
    };
    vec![
        Op::Iota {
            ty: TensorType::new(DType::F32, [dim.clone(), dim.clone()]),
            axis: extreme,
        },
        Op::Clamp {
            min: 1.0,
            max: float,
        },
        Op::Reshape {
            dims: vec![dim.clone(); 3],
        },
        Op::Broadcast {
            dims: vec![dim.clone(), dim.clone()],
        },
        Op::Transpose {
            permutation: vec![extreme; 4],
        },
        Op::Slice {
            axis: extreme,
            start: dim.clone(),
            end: Dim::from(i64::MIN),
        },
        Op::Slice {
            axis: 0,
            start: Dim::from(i64::MIN),
            end: dim.clone(),
        },
        Op::Concat { axis: extreme },
        Op::Gather { axis: extreme },
        Op::Reduce {
            kind: tintype_ir::ReduceOp::Max,
            axes: vec![extreme],
        },
        Op::RelativeBuckets(RelativeBuckets {
            buckets: extreme,
            max_distance: extreme,
            bidirectional: true,
            queries: dim.clone(),
            keys: dim.clone(),
        }),
        Op::LayerNorm { epsilon: float },
        Op::GroupNorm {
            groups: extreme,
            epsilon: 1e-6,
        },
        Op::RotaryTable {
            theta: float,
            dims: vec![extreme; 2],
        },
        Op::RotaryTable {
            theta: 1e4,
            dims: vec![extreme & !1; 2],
        },
        Op::Attention(Attention {
            scale: float,
            causal: true,
        }),
        Op::Conv2d(Conv2d {
            stride: [extreme; 2],
            padding: [extreme; 4],
            groups: extreme,
        }),
        Op::Conv2d(Conv2d {
            stride: [extreme; 2],
            padding: [0; 4],
            groups: 1,
        }),
        Op::Conv2d(Conv2d {
            stride: [1; 2],
            padding: [extreme; 4],
            groups: 1,
        }),
        Op::UpsampleNearest { factor: extreme },
    ]
}

#[test]
fn attributes_at_their_extremes() {
    let sizes = [0, 1, 4, i64::MAX, -1, i64::MIN];
    for op in EXTREMES.into_iter().flat_map(operations) {
        for size in sizes {
            for dims in [
                vec![],
                vec![size, 2],
                vec![2, 4, size, size],
                vec![4, size, 3, 3],
            ] {
                for dtype in [DType::F32, DType::I64] {
                    let ty = TensorType::new(dtype, dims.iter().copied());
                    let vector = TensorType::new(dtype, [4]);
                    for count in 0..5 {
                        let mut operands = vec![ty.clone(); count.min(2)];
                        operands.extend(vec![vector.clone(); count.saturating_sub(2)]);
                        let _ = infer(&op, &operands);
                        let _ = infer(&op, &vec![ty.clone(); count]);
                    }
                }
            }
        }
    }
}

#[test]
fn a_constant_of_giant_shape_holds_one_value() {
    let text = "graph g { %0: f32[1048576, 1048576] = constant {values = 1.0} \
                %1: f32[1048576, 1048576] = neg %0 output y = %1 }";
    let graph = parse(text).unwrap();
    verify(&graph).unwrap();
    optimize(&graph, &Options::default(), None).unwrap();
    let size = i64::MAX as usize;
    assert!(Constant::floats(DType::F32, [size, 4], vec![1.0]).is_err());
    assert!(Constant::floats(DType::F32, [usize::MAX, 0], vec![]).is_err());
    assert!(
        parse("graph g { %0: f32[4294967296, 4294967296] = constant {values = 1.0} }").is_err()
    );
}

/// A text that is made long by repeating takes time in proportion.
#[test]
fn long_texts_take_no_more_than_their_length() {
    let begin = Instant::now();
    let many = 200_000;
    let texts = [
        format!("graph g {{ input step %x: f32[{}a] }}", "a*".repeat(many)),
        format!("graph g {{ input step %x: f32[{}a] }}", "a + ".repeat(many)),
        format!("graph g {{ input step %x: f32[{}1] }}", "1, ".repeat(many)),
        format!("graph {} ", "{ ".repeat(many)),
        format!(
            "graph g {{ %0: f32[1] = constant {{values = {}",
            "[".repeat(many)
        ),
        format!("graph g {{ %0: f32[1] = neg {}", "%0, ".repeat(many)),
        format!("graph \"{}", "a".repeat(many)),
        "1".repeat(many),
        "\u{2028}é".repeat(many),
    ];
    for text in texts {
        if let Ok(graph) = parse(&text) {
            let _ = verify(&graph);
        }
    }
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn dimensions_that_do_not_divide_end() {
    let sum = |names: &str| {
        names.chars().fold(Dim::from(1), |sum, name| {
            sum + Dim::symbol(&name.to_string())
        })
    };
    let mut power = Dim::from(1);
    for _ in 0..40 {
        power = power * Dim::symbol("a");
    }
    assert_eq!(power.div_exact(&sum("abcd")), None);
    assert_eq!(Dim::from(i64::MIN).div_exact(&Dim::from(-1)), None);
}

#[test]
fn decomposing_is_bounded() {
    let text = "graph g { param @w: f32[1, 1, 4096, 4096] input step %x: f32[1, 1, 4096, 4096] \
                %0: f32[1, 1, 1, 1] = conv2d %x, @w {stride = [1, 1], padding = [0, 0, 0, 0], groups = 1} \
                output y = %0 }";
    assert!(decompose(&parse(text).unwrap(), &|_| false).is_err());
}
