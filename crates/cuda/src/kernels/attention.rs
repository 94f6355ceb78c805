//! Attention without a library.
//!
//! | form | kernel |
//! |---|---|
//! | f16, bf16; d and e multiples of 8 without gaps, d up to 512 | `attention`, on tensor cores |
//! | f8e4m3; d and e multiples of 16 | the same, widened to f16 as it is read, which is exact |
//! | everything else | `plain_attention`, in f32 |
//!
//! Both compute the softmax as tiles of keys come, so that no scores are kept in memory.
//!
//! ```ignore
//! let kernel = attention("attention", &call, &machine)?;
//! ```

use std::fmt::Write as _;

use tintype_device::{ELEMENT_TYPES, Source};
use tintype_tensor::DType;

use super::address::{address_of, type_of};
use super::{MATRIX, Machine};
use crate::generate::FUNCTIONS;
use crate::{AttentionCall, Axis, Error, Generated, Result, View};

/// How a kernel divides the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Division {
    is_matrix: bool,
    /// Queries of a block, and keys of a tile.
    tile: usize,
    d_parts: usize,
    d_part: usize,
    e_parts: usize,
    e_part: usize,
}

/// The kernel of an attention.
///
/// # Errors
/// [`Error::Unsupported`] for operands of different dtypes or half bytes, for an index known at
/// run time only, and for sizes of more than 32 bits.
pub(super) fn attention(step: &str, call: &AttentionCall, machine: &Machine) -> Result<Generated> {
    check(step, call)?;
    let division = Division::of(call, machine);
    let [query, key, _] = &call.query_key_value;
    let [batches, queries, heads, _] = four(query);
    let tiles = [queries.size, four(key)[1].size].map(|size| size.div_ceil(division.tile));
    let (name, matrix, body, threads) = if division.is_matrix {
        ("attention", MATRIX, ATTENTION, 128)
    } else {
        ("plain_attention", "", PLAIN_ATTENTION, 256)
    };
    let head = head(call, division, tiles);
    let views = call.query_key_value.iter().chain(&call.bias);
    let views = views.chain(&call.output_factor);
    Ok(Generated {
        source: Source::new(
            format!("{step}.cu"),
            [ELEMENT_TYPES, FUNCTIONS, matrix, &head, body].concat(),
        ),
        name: name.to_owned(),
        blocks: tiles[0] * division.e_parts * heads.size * batches.size,
        threads,
        shared_bytes: division.shared_bytes(),
        scratch_bytes: 0,
        arguments: views.chain([&call.output]).map(address_of).collect(),
    })
}

impl Division {
    fn of(call: &AttentionCall, machine: &Machine) -> Self {
        let (d, e) = sizes(call);
        let (d_parts, e_parts) = (d.div_ceil(PART).max(1), e.div_ceil(PART).max(1));
        // All threads of a block bring a part of a tile, 16 bytes each.
        let unit = if is_narrow(call) { 32 } else { 16 };
        let division = Self {
            is_matrix: true,
            tile: 64,
            d_parts,
            d_part: d.div_ceil(d_parts).next_multiple_of(unit).max(unit),
            e_parts,
            e_part: e.div_ceil(e_parts).next_multiple_of(unit).max(unit),
        };
        let fits = division.shared_bytes() <= machine.shared_bytes;
        if machine.has_matrices() && fits && call.query_key_value.iter().all(is_packed) {
            return division;
        }
        let e_parts = e.div_ceil(PLAIN_PART).max(1);
        Self {
            is_matrix: false,
            tile: 32,
            d_parts: 1,
            d_part: d,
            e_parts,
            e_part: e.div_ceil(e_parts).next_multiple_of(32).max(32),
        }
    }

    /// All of the queries, and two slots for parts of keys and values.
    fn shared_bytes(self) -> usize {
        if !self.is_matrix {
            return 0;
        }
        let queries = self.tile * (self.d_parts * self.d_part + 8) * 2;
        let slot = self.tile * (self.d_part.max(self.e_part) + 8) * 2;
        queries + 2 * slot
    }
}

fn check(step: &str, call: &AttentionCall) -> Result<()> {
    let views = || call.query_key_value.iter().chain([&call.output]);
    let dtype = call.output.dtype;
    let same = call
        .query_key_value
        .iter()
        .all(|view| view.dtype == call.query_key_value[0].dtype);
    if !same || !dtype.is_float() || dtype.bits() < 8 {
        let found: Vec<String> = views().map(|view| view.dtype.to_string()).collect();
        let message = format!("expected floats of one dtype, found {}", found.join(", "));
        return Err(Error::unsupported(step, message));
    }
    if let Some(factor) = &call.output_factor
        && (factor.dtype != DType::F32 || factor.count() != 1)
    {
        return Err(Error::unsupported(step, format!("a factor {factor}")));
    }
    let others = || call.bias.iter().chain(&call.output_factor);
    if views().chain(others()).any(|view| view.index.is_some()) {
        return Err(Error::unsupported(
            step,
            "an index that is known at run time only",
        ));
    }
    let most = u32::MAX as usize / 2;
    if views()
        .flat_map(|view| &view.axes)
        .any(|axis| axis.size > most)
    {
        return Err(Error::unsupported(
            step,
            "an axis of more than 2^31 positions",
        ));
    }
    Ok(())
}

/// Whether rows are read 16 bytes at a time.
fn is_packed(view: &View) -> bool {
    let [batch, token, head, column] = four(view);
    let pack = 128 / view.dtype.bits();
    let aligned = |axis: &Axis| axis.size == 1 || axis.stride.is_multiple_of(pack);
    matches!(view.dtype, DType::F16 | DType::BF16 | DType::F8E4M3)
        && (column.stride == 1 || column.size == 1)
        && column.size.is_multiple_of(pack)
        && view.offset.is_multiple_of(pack)
        && [batch, token, head].iter().all(aligned)
}

fn is_paired(view: &View) -> bool {
    let [batch, token, head, column] = four(view);
    let even = |axis: &Axis| axis.size == 1 || axis.stride.is_multiple_of(2);
    column.stride == 1 && view.offset.is_multiple_of(2) && [batch, token, head].iter().all(even)
}

/// The numbers that stand in front of the body.
fn head(call: &AttentionCall, division: Division, tiles: [usize; 2]) -> String {
    let [query, key, value] = &call.query_key_value;
    let (d, e) = sizes(call);
    let stored = type_of(query.dtype);
    let is_moved = division.is_matrix && is_narrow(call);
    // Codes whose bits were only moved are 2^8 times smaller as f16.
    let moved: f32 = if is_moved { 256.0 } else { 1.0 };
    let [of_query, of_key, of_value] = call.scales.map(|scale| scale * moved);
    let mut text = format!(
        "typedef {stored} Stored;\ntypedef {} Element;\ntypedef {} Result;\n\
         constexpr u32 QUERIES = {}, KEYS = {}, HEADS = {}, D = {d}, E = {e};\n\
         constexpr u32 QUERY_TILES = {}, KEY_TILES = {};\n\
         constexpr u32 D_PARTS = {}, D_PART = {}, E_PARTS = {}, E_PART = {};\n\
         constexpr bool CAUSAL = {}, OUTPUT_PAIRED = {};\n\
         #define SCALE __uint_as_float(0x{:08x}u)\n\
         #define OUTPUT_SCALE __uint_as_float(0x{:08x}u)\n\
         #define NOTHING __uint_as_float(0xff800000u)\n\
         #define LOG2_E 1.44269504f\n",
        if is_moved { "f16" } else { stored },
        type_of(call.output.dtype),
        four(query)[1].size,
        four(key)[1].size,
        four(query)[2].size,
        tiles[0],
        tiles[1],
        division.d_parts,
        division.d_part,
        division.e_parts,
        division.e_part,
        call.attributes.causal,
        is_paired(&call.output),
        (call.attributes.scale * of_query * of_key).to_bits(),
        of_value.to_bits(),
    );
    let views = [
        ("QUERY", query),
        ("KEY", key),
        ("VALUE", value),
        ("OUTPUT", &call.output),
    ];
    for (name, view) in views {
        let [batch, token, head, step] = four(view).map(|axis| axis.stride);
        _ = writeln!(
            text,
            "constexpr u64 {name}_BATCH = {batch}, {name}_TOKEN = {token}, {name}_HEAD = {head}, \
             {name}_STEP = {step};"
        );
    }
    text.push_str(&bias(call.bias.as_ref()));
    text.push_str(match call.output_factor {
        Some(_) => "#define FACTOR_PARAMETER const float* factor,\n#define FACTOR * *factor\n",
        None => "#define FACTOR_PARAMETER\n#define FACTOR\n",
    });
    text
}

fn bias(bias: Option<&View>) -> String {
    let Some(view) = bias else {
        return "#define BIAS_PARAMETER\n#define BIAS_ARGUMENT\n#define MOVE_BIAS\n\
                #define ADD_BIAS(score, query, key)\n"
            .to_owned();
    };
    let [batch, head, query, key] =
        four(view).map(|axis| if axis.size == 1 { 0 } else { axis.stride });
    format!(
        "#define BIAS_PARAMETER const {}* bias,\n#define BIAS_ARGUMENT bias,\n\
         #define MOVE_BIAS bias += batch * {batch}ull + head * {head}ull;\n\
         #define ADD_BIAS(score, query, key) if (query < QUERIES && key < KEYS) \
         {{ score += widen(bias[query * {query}ull + key * {key}ull]); }}\n",
        type_of(view.dtype)
    )
}

/// Whether query, key and value are codes of 8 bits.
fn is_narrow(call: &AttentionCall) -> bool {
    call.query_key_value[0].dtype == DType::F8E4M3
}

/// The columns of keys and those of values.
fn sizes(call: &AttentionCall) -> (usize, usize) {
    let [_, key, value] = &call.query_key_value;
    (four(key)[3].size, four(value)[3].size)
}

fn four(view: &View) -> [Axis; 4] {
    let axes: &[Axis] = &view.axes;
    axes.try_into().expect("the verifier has seen the rank")
}

/// Columns that a block takes at once.
const PART: usize = 128;
const PLAIN_PART: usize = 256;

const ATTENTION: &str = include_str!("../../kernels/attention.cu");
const PLAIN_ATTENTION: &str = include_str!("../../kernels/plain_attention.cu");

#[cfg(test)]
mod tests {
    use tintype_ir::Attention;

    use super::*;
    use crate::Place;

    fn call(dtype: DType, tokens: usize, heads: usize, d: usize) -> AttentionCall {
        let view = |place| View::contiguous(Place::Buffer(place), dtype, &[1, tokens, heads, d]);
        AttentionCall {
            query_key_value: [0, 1, 2].map(view),
            scales: [1.0; 3],
            bias: None,
            attributes: Attention {
                scale: 0.125,
                causal: false,
            },
            output: view(3),
            output_factor: None,
        }
    }

    #[test]
    fn heads_of_512_fit_where_a_block_has_99_kib() {
        let division = Division::of(&call(DType::BF16, 16384, 1, 512), &Machine::new(8, 6));
        assert!(division.is_matrix);
        assert_eq!((division.d_parts, division.e_parts), (4, 4));
        assert_eq!(division.shared_bytes(), 99 * 1024);
    }

    #[test]
    fn what_has_gaps_or_is_wide_runs_without_tensor_cores() {
        let machine = Machine::new(9, 0);
        let is_matrix = |call: &AttentionCall| Division::of(call, &machine).is_matrix;
        assert!(is_matrix(&call(DType::F16, 77, 12, 64)));
        assert!(!is_matrix(&call(DType::F32, 77, 12, 64)));
        assert!(!is_matrix(&call(DType::F16, 77, 12, 60)));
        assert!(!is_matrix(&call(DType::F16, 77, 12, 2048)));
        assert!(is_matrix(&call(DType::F8E4M3, 77, 12, 48)));
        assert!(!is_matrix(&call(DType::F8E4M3, 77, 12, 24)));
        let mut odd = call(DType::BF16, 77, 12, 64);
        odd.query_key_value[1].offset = 4;
        assert!(!is_matrix(&odd));
    }

    #[test]
    fn blocks_are_tiles_of_queries_times_heads() {
        let machine = Machine::new(9, 0);
        let kernel = attention("a", &call(DType::BF16, 4608, 24, 128), &machine).unwrap();
        assert_eq!(kernel.blocks, 72 * 24);
        let plain = attention("a", &call(DType::F32, 100, 2, 512), &machine).unwrap();
        assert_eq!((plain.blocks, plain.threads), (4 * 2 * 2, 256));
    }
}
