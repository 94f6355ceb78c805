//! The operations that are neither a library's nor generated: tables of angles, T5's buckets,
//! positions of maxima.
//!
//! What depends on attributes alone (frequencies, the distances at which buckets begin) is computed
//! here, in the precision that the operations are defined with, and stands in the kernel's text.
//!
//! ```ignore
//! let kernel = special("argmax", &Op::ArgMax, &inputs, &output)?;
//! ```

use tintype_device::{ELEMENT_TYPES, Source};
use tintype_ir::{Op, RelativeBuckets};

use super::address::{address_of, type_of};
use crate::generate::FUNCTIONS;
use crate::{Error, Generated, Result, View};

/// The kernel of an operation. Operands and result are row-major.
///
/// # Errors
/// [`Error::Unsupported`] for any other operation, and for views with gaps.
pub(super) fn special(step: &str, op: &Op, inputs: &[View], output: &View) -> Result<Generated> {
    if let Some(view) = inputs
        .iter()
        .chain([output])
        .find(|view| !view.is_contiguous())
    {
        return Err(Error::unsupported(step, format!("{view} is not row-major")));
    }
    let (name, head, blocks) = match (op, inputs) {
        (Op::RotaryTable { theta, dims }, [ids]) => (
            "rotary_table",
            rotary_table(f64::from(*theta), dims, ids, output),
            blocks_of(output.count() / 2),
        ),
        (Op::RelativeBuckets(attributes), []) => (
            "relative_buckets",
            relative_buckets(attributes, output),
            blocks_of(output.count()),
        ),
        (Op::ArgMax, [values]) => ("argmax", argmax(values), output.count()),
        _ => {
            return Err(Error::unsupported(
                step,
                format!("`{}` has no kernel", op.name()),
            ));
        }
    };
    let text = [ELEMENT_TYPES, FUNCTIONS, &head, SPECIAL].concat();
    Ok(Generated {
        source: Source::new(format!("{step}.cu"), text),
        name: name.to_owned(),
        blocks,
        threads: 256,
        shared_bytes: 0,
        scratch_bytes: 0,
        arguments: inputs.iter().chain([output]).map(address_of).collect(),
    })
}

fn blocks_of(count: usize) -> usize {
    count.div_ceil(256).clamp(1, 1 << 16)
}

/// Frequencies as the CPU computes them.
fn rotary_table(theta: f64, dims: &[usize], ids: &View, output: &View) -> String {
    let pairs = dims.iter().enumerate().flat_map(|(axis, &dim)| {
        let frequency = move |i| 1.0 / theta.powf(2.0 * f64::from(i) / dim as f64);
        (0..dim as u32 / 2).map(move |i| (axis, frequency(i)))
    });
    let (axes, frequencies): (Vec<String>, Vec<String>) = pairs
        .map(|(axis, frequency)| (axis.to_string(), format!("{frequency:e}")))
        .unzip();
    format!(
        "#define ROTARY_TABLE\ntypedef {} Element;\n\
         constexpr u64 COUNT = {}ull;\nconstexpr u32 PAIRS = {}, AXES = {};\n\
         __constant__ u32 AXIS_OF[] = {{{}}};\n__constant__ double FREQUENCIES[] = {{{}}};\n",
        type_of(ids.dtype),
        output.count() / 2,
        axes.len().max(1),
        dims.len(),
        list(&axes),
        list(&frequencies),
    )
}

fn relative_buckets(attributes: &RelativeBuckets, output: &View) -> String {
    let [queries, keys] = [output.axes[0].size, output.axes[1].size];
    let starts: Vec<String> = starts(attributes, queries.max(keys))
        .iter()
        .map(ToString::to_string)
        .collect();
    format!(
        "#define RELATIVE_BUCKETS\ntypedef {} Result;\n\
         constexpr u64 COUNT = {}ull;\n\
         constexpr u32 KEYS = {keys}, LATER = {}, START_COUNT = {};\n\
         constexpr bool BOTH_DIRECTIONS = {};\n__constant__ u32 STARTS[] = {{{}}};\n",
        type_of(output.dtype),
        queries * keys,
        attributes.buckets / 2,
        starts.len(),
        attributes.bidirectional,
        list(&starts),
    )
}

/// For buckets 1, 2, …, the least distance that has one of at least that number.
fn starts(attributes: &RelativeBuckets, distances: usize) -> Vec<usize> {
    let mut starts = Vec::new();
    for distance in 0..distances {
        while starts.len() < bucket(attributes, distance) {
            starts.push(distance);
        }
    }
    starts
}

/// The bucket of a distance in one direction (Raffel et al., 2020): near ones have one each, far
/// ones share them by the logarithm of the distance, in f32 and in this order.
fn bucket(attributes: &RelativeBuckets, distance: usize) -> usize {
    let buckets = if attributes.bidirectional {
        attributes.buckets / 2
    } else {
        attributes.buckets
    };
    let exact = buckets / 2;
    if distance < exact {
        return distance;
    }
    let ratio = (distance as f32 / exact as f32).ln()
        / (attributes.max_distance as f64 / exact as f64).ln() as f32;
    let far = exact + (ratio * (buckets - exact) as f32) as usize;
    far.min(buckets.saturating_sub(1))
}

fn argmax(values: &View) -> String {
    let (value, widen) = if values.dtype.is_float() {
        ("float", "widen(x)")
    } else {
        ("i64", "(i64)(x)")
    };
    format!(
        "#define ARGMAX\ntypedef {} Element;\ntypedef {value} Value;\n#define WIDEN(x) {widen}\n\
         constexpr u64 WIDTH = {}ull;\n",
        type_of(values.dtype),
        values.axes.last().map_or(1, |axis| axis.size),
    )
}

/// The elements of an array, which has one at least.
fn list(elements: &[String]) -> String {
    if elements.is_empty() {
        return "0".to_owned();
    }
    elements.join(", ")
}

const SPECIAL: &str = include_str!("../../kernels/special.cu");

#[cfg(test)]
mod tests {
    use tintype_tensor::DType;

    use super::*;

    fn t5(bidirectional: bool) -> RelativeBuckets {
        RelativeBuckets {
            buckets: 32,
            max_distance: 128,
            bidirectional,
            queries: 512.into(),
            keys: 512.into(),
        }
    }

    #[test]
    fn counting_starts_gives_the_bucket_of_every_distance() {
        for bidirectional in [true, false] {
            let attributes = t5(bidirectional);
            let starts = starts(&attributes, 512);
            for distance in 0..512 {
                let counted = starts.iter().filter(|&&start| distance >= start).count();
                assert_eq!(counted, bucket(&attributes, distance), "{distance}");
            }
        }
        assert_eq!(bucket(&t5(true), 7), 7);
        assert_eq!(bucket(&t5(true), 8), 8);
        assert_eq!(bucket(&t5(true), 500), 15);
        assert_eq!(bucket(&t5(false), 500), 31);
    }

    #[test]
    fn other_operations_have_no_kernel_here() {
        let view = View::contiguous(crate::Place::Buffer(0), DType::F32, &[4]);
        let error = special("softmax", &Op::Softmax, std::slice::from_ref(&view), &view);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("`softmax` has no kernel")
        );
    }
}
