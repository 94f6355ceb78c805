//! Scaled dot-product attention that never holds the score matrix.
//!
//! A task has one block of queries of one head, as many as fit a register tile's
//! columns, and walks through blocks of keys with the online softmax of T. Dao et
//! al., `FlashAttention` (2022). Scores are held transposed, a vector's lanes being
//! queries: maxima and sums need no exchange between lanes, and the weights of a
//! block are already the packed right operand of the product with the values.

use rayon::prelude::*;
use tintype_tensor::DType;

use super::attention_block::{Block, Mask, attend, lane_shape};
use super::panels::{Buffer, Lines};
use super::rounding::round_slice;

/// The sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Independent sequences.
    pub batch: usize,
    /// Heads of each.
    pub heads: usize,
    /// Queries of each.
    pub query_len: usize,
    /// Keys and values of each.
    pub key_len: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Where the queries lie.
    pub query: Strides,
    /// Where the keys lie.
    pub key: Strides,
    /// Where the values lie.
    pub value: Strides,
    /// Floats from an output token to the next, at least `heads · head_dim`; the heads
    /// of a token are packed, and batches follow each other.
    pub output_stride: usize,
    /// Multiplies the scores before the bias is added.
    pub scale: f32,
    /// Whether query i sees only keys up to i.
    pub causal: bool,
    /// The dtype of the result.
    pub rounding: DType,
}

/// Floats from one batch, token and head to the next; a head's values are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strides {
    /// From a batch to the next.
    pub batch: usize,
    /// From a token to the next.
    pub token: usize,
    /// From a head to the next.
    pub head: usize,
}

/// Added to the scores: `[batch or 1, heads or 1, query_len, key_len]`; −∞ masks.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBias<'a> {
    /// The values, row-major.
    pub data: &'a [f32],
    /// `batch`, or 1 if all share it.
    pub batch: usize,
    /// `heads`, or 1 if all share it.
    pub heads: usize,
}

impl Strides {
    /// Of a packed `[batch, tokens, heads, head_dim]`.
    pub const fn packed(tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self {
            batch: tokens * heads * head_dim,
            token: heads * head_dim,
            head: head_dim,
        }
    }

    /// Of a packed `[batch, heads, tokens, head_dim]`.
    pub const fn heads_first(tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self {
            batch: tokens * heads * head_dim,
            token: head_dim,
            head: tokens * head_dim,
        }
    }
}

impl Attention {
    /// Packed `[batch, tokens, heads, head_dim]` throughout, scale `1/√head_dim`, f32.
    pub fn new(batch: usize, heads: usize, tokens: usize, head_dim: usize) -> Self {
        let strides = Strides::packed(tokens, heads, head_dim);
        Self {
            batch,
            heads,
            query_len: tokens,
            key_len: tokens,
            head_dim,
            query: strides,
            key: strides,
            value: strides,
            output_stride: heads * head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: false,
            rounding: DType::F32,
        }
    }
}

/// `softmax(q · kᵀ · scale + bias) · v` for each batch and head.
///
/// A query that sees no key gives NaN, as the formula does.
///
/// # Panics
/// If a length does not fit.
pub fn attention(
    options: &Attention,
    query: &[f32],
    key: &[f32],
    value: &[f32],
    bias: Option<AttentionBias>,
    out: &mut [f32],
) {
    if options.batch * options.heads * options.query_len * options.head_dim == 0 {
        return;
    }
    options.check(query, key, value, bias, out);
    let shape = lane_shape();
    let mut tasks = split_output(options, shape.queries, out);
    // Heads are packed a few at a time, which bounds the copies of keys and values.
    let per_head = packed_len(options, shape.rows).max(1);
    let heads_at_once = (PACKED_VALUES / per_head).max(1);
    let mut packed = Buffer::new(per_head * heads_at_once.min(options.batch * options.heads));
    let blocks = options.query_len.div_ceil(shape.queries);
    for group in tasks.chunks_mut(heads_at_once * blocks) {
        let first = group[0].head;
        let heads = group.len() / blocks;
        let packed = &mut packed.get_mut()[..heads * per_head];
        packed
            .par_chunks_mut(per_head)
            .enumerate()
            .for_each(|(index, packed)| {
                pack_head(options, first + index, key, value, shape.rows, packed);
            });
        let packed = &*packed;
        group.par_iter_mut().for_each_init(
            || Scratch::new(options, shape.queries),
            |scratch, task| {
                let start = (task.head - first) * per_head;
                run_task(
                    options,
                    query,
                    bias,
                    &packed[start..start + per_head],
                    scratch,
                    task,
                );
            },
        );
    }
}

/// Keys and values of packed heads that are held at once: 64 MiB.
const PACKED_VALUES: usize = 16 << 20;

/// A block of queries of one head; `head` counts over batches and heads.
struct Task<'a> {
    head: usize,
    first_query: usize,
    rows: Vec<&'a mut [f32]>,
}

/// The buffers of a task: packed queries, and the output before it is turned.
struct Scratch {
    query: Buffer,
    output: Buffer,
    block: Block,
}

impl Scratch {
    fn new(options: &Attention, queries: usize) -> Self {
        let rows = options.head_dim.next_multiple_of(lane_shape().rows);
        Self {
            query: Buffer::new(options.head_dim * queries),
            output: Buffer::new(rows * queries),
            block: Block::new(),
        }
    }
}

/// Cuts `out` into tasks, ordered by head and then by query.
fn split_output<'a>(options: &Attention, queries: usize, out: &'a mut [f32]) -> Vec<Task<'a>> {
    let Attention {
        batch,
        heads,
        query_len,
        head_dim,
        output_stride,
        ..
    } = *options;
    let blocks = query_len.div_ceil(queries);
    let mut tasks: Vec<Task> = (0..batch * heads * blocks)
        .map(|index| Task {
            head: index / blocks,
            first_query: index % blocks * queries,
            rows: Vec::with_capacity(queries),
        })
        .collect();
    let tokens = out.chunks_mut(output_stride.max(1)).take(batch * query_len);
    for (token, values) in tokens.enumerate() {
        let (sequence, query) = (token / query_len, token % query_len);
        let values = values[..heads * head_dim].chunks_exact_mut(head_dim);
        for (head, values) in values.enumerate() {
            tasks[(sequence * heads + head) * blocks + query / queries]
                .rows
                .push(values);
        }
    }
    tasks
}

/// The length of a packed head: keys as panels of keys, values as panels of dims.
fn packed_len(options: &Attention, rows: usize) -> usize {
    let keys = options.key_len.next_multiple_of(rows) * options.head_dim;
    keys + options.head_dim.next_multiple_of(rows) * options.key_len
}

fn pack_head(
    options: &Attention,
    index: usize,
    key: &[f32],
    value: &[f32],
    rows: usize,
    packed: &mut [f32],
) {
    let Attention {
        key_len, head_dim, ..
    } = *options;
    let (sequence, head) = (index / options.heads, index % options.heads);
    let at = |strides: Strides| sequence * strides.batch + head * strides.head;
    let (keys, values) = packed.split_at_mut(key_len.next_multiple_of(rows) * head_dim);
    let lines = Lines {
        data: &key[at(options.key)..],
        line_stride: options.key.token,
        depth_stride: 1,
    };
    lines.pack((0, key_len), (0, head_dim), rows, keys);
    let lines = Lines {
        data: &value[at(options.value)..],
        line_stride: 1,
        depth_stride: options.value.token,
    };
    lines.pack((0, head_dim), (0, key_len), rows, values);
}

fn run_task(
    options: &Attention,
    query: &[f32],
    bias: Option<AttentionBias>,
    packed: &[f32],
    scratch: &mut Scratch,
    task: &mut Task,
) {
    let Attention {
        key_len, head_dim, ..
    } = *options;
    let shape = lane_shape();
    let (sequence, head) = (task.head / options.heads, task.head % options.heads);
    let start = sequence * options.query.batch + head * options.query.head;
    let lines = Lines {
        data: &query[start..],
        line_stride: options.query.token,
        depth_stride: 1,
    };
    let range = (task.first_query, task.rows.len());
    lines.pack(range, (0, head_dim), shape.queries, scratch.query.get_mut());
    for value in scratch.query.get_mut() {
        *value *= options.scale;
    }
    let bias = bias.map(|bias| {
        let sequence = if bias.batch == 1 { 0 } else { sequence };
        let head = if bias.heads == 1 { 0 } else { head };
        let matrix = (sequence * bias.heads + head) * options.query_len + task.first_query;
        &bias.data[matrix * key_len..][..task.rows.len() * key_len]
    });
    let mask = Mask {
        bias,
        causal: options.causal,
        first_query: task.first_query,
    };
    let (keys, values) = packed.split_at(key_len.next_multiple_of(shape.rows) * head_dim);
    let output = scratch.output.get_mut();
    output.fill(0.0);
    attend(
        &mut scratch.block,
        scratch.query.get(),
        keys,
        values,
        (key_len, head_dim),
        mask,
        output,
    );
    for (lane, row) in task.rows.iter_mut().enumerate() {
        let column = output.iter().skip(lane).step_by(shape.queries);
        for (value, &result) in row.iter_mut().zip(column) {
            *value = result;
        }
        round_slice(options.rounding, row);
    }
}

impl Attention {
    fn check(
        &self,
        query: &[f32],
        key: &[f32],
        value: &[f32],
        bias: Option<AttentionBias>,
        out: &[f32],
    ) {
        let Self {
            batch,
            heads,
            query_len,
            key_len,
            head_dim,
            ..
        } = *self;
        let last = |strides: Strides, tokens: usize| {
            (batch - 1) * strides.batch
                + (tokens - 1) * strides.token
                + (heads - 1) * strides.head
                + head_dim
        };
        assert!(key_len > 0, "attention: no keys");
        assert!(
            query.len() >= last(self.query, query_len),
            "attention: query length"
        );
        assert!(
            key.len() >= last(self.key, key_len),
            "attention: key length"
        );
        assert!(
            value.len() >= last(self.value, key_len),
            "attention: value length"
        );
        assert!(
            self.output_stride >= heads * head_dim,
            "attention: output stride"
        );
        let needed = (batch * query_len - 1) * self.output_stride + heads * head_dim;
        assert!(out.len() >= needed, "attention: output length");
        if let Some(bias) = bias {
            assert!(
                bias.batch == batch || bias.batch == 1,
                "attention: bias batch"
            );
            assert!(
                bias.heads == heads || bias.heads == 1,
                "attention: bias heads"
            );
            let length = bias.batch * bias.heads * query_len * key_len;
            assert_eq!(bias.data.len(), length, "attention: bias length");
        }
    }
}

#[cfg(test)]
mod tests;
