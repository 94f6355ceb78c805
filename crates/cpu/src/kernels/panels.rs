//! Copies of operands in the order in which the engine reads them.
//!
//! A panel holds `group` lines (rows of the left operand, columns of the right one)
//! side by side: value `depth · group + line`. Lines beyond the last are zero.

/// A matrix whose lines are packed: value (line, depth) is at
/// `line · line_stride + depth · depth_stride`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) data: &'a [f32],
    pub(super) line_stride: usize,
    pub(super) depth_stride: usize,
}

impl Lines<'_> {
    /// Writes lines `line..line + lines` at depths `depth..depth + depths` to `out`, as
    /// panels of `group` lines and `depths · group` values.
    pub(super) fn pack(
        &self,
        (line, lines): (usize, usize),
        (depth, depths): (usize, usize),
        group: usize,
        out: &mut [f32],
    ) {
        if depths == 0 {
            return;
        }
        let panels = out.chunks_exact_mut(group * depths);
        for (index, panel) in panels.enumerate().take(lines.div_ceil(group)) {
            let start = line + index * group;
            let count = (lines - index * group).min(group);
            let data = &self.data[start * self.line_stride + depth * self.depth_stride..];
            if count < group {
                panel.fill(0.0);
            }
            if self.depth_stride == 1 && group.is_multiple_of(4) {
                pack_transposed(data, self.line_stride, depths, group, count, panel);
            } else if self.line_stride == 1 {
                for (depth, target) in panel.chunks_exact_mut(group).enumerate() {
                    let source = &data[depth * self.depth_stride..][..count];
                    target[..count].copy_from_slice(source);
                }
            } else {
                for (depth, target) in panel.chunks_exact_mut(group).enumerate() {
                    for (line, value) in target[..count].iter_mut().enumerate() {
                        *value = data[depth * self.depth_stride + line * self.line_stride];
                    }
                }
            }
        }
    }
}

/// Packs lines that are contiguous along the depth.
fn pack_transposed(
    data: &[f32],
    stride: usize,
    depths: usize,
    group: usize,
    count: usize,
    panel: &mut [f32],
) {
    let whole = count / 4 * 4;
    for line in (0..whole).step_by(4) {
        let sources = std::array::from_fn(|index| &data[(line + index) * stride..][..depths]);
        transpose_four(sources, line, group, panel);
    }
    for line in whole..count {
        let source = &data[line * stride..][..depths];
        for (&value, target) in source.iter().zip(panel.chunks_exact_mut(group)) {
            target[line] = value;
        }
    }
}

/// Writes four lines side by side from `line` on: eight depths at a time where AVX is
/// there (its shuffles, which loops do not become by themselves), then one by one.
fn transpose_four(sources: [&[f32]; 4], line: usize, group: usize, panel: &mut [f32]) {
    let depths = sources[0].len();
    let done = super::transpose::eight_depths(sources, line, group, panel);
    for depth in done..depths {
        let values = sources.map(|source| source[depth]);
        panel[depth * group + line..][..4].copy_from_slice(&values);
    }
}

/// The position of the first value of `buffer` on a cache line of 64 bytes; a buffer
/// that starts there spares vector loads that cross lines.
pub(super) fn aligned(buffer: &[f32]) -> usize {
    buffer.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE / 4)
}

/// A buffer of `length` zeros that starts on a cache line.
pub(super) struct Buffer {
    values: Vec<f32>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub(super) fn new(length: usize) -> Self {
        let values = vec![0.0; length + CACHE_LINE / 4];
        let start = aligned(&values);
        Self {
            values,
            start,
            length,
        }
    }

    pub(super) fn get(&self) -> &[f32] {
        &self.values[self.start..self.start + self.length]
    }

    pub(super) fn get_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..self.start + self.length]
    }
}

const CACHE_LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::Random;

    #[test]
    fn every_layout_packs_alike() {
        let mut random = Random::new(11);
        for (lines, depths) in [(1, 1), (3, 17), (65, 33), (24, 16), (31, 5)] {
            let x = random.values(lines * depths);
            let mut turned = vec![0.0; x.len()];
            let mut sparse = vec![0.0; 2 * x.len()];
            for line in 0..lines {
                for depth in 0..depths {
                    turned[depth * lines + line] = x[line * depths + depth];
                    sparse[2 * (line * depths + depth)] = x[line * depths + depth];
                }
            }
            let layouts = [
                Lines {
                    data: &x,
                    line_stride: depths,
                    depth_stride: 1,
                },
                Lines {
                    data: &turned,
                    line_stride: 1,
                    depth_stride: lines,
                },
                Lines {
                    data: &sparse,
                    line_stride: 2 * depths,
                    depth_stride: 2,
                },
            ];
            for group in [2, 12, 32] {
                let (first, skip) = (lines / 3, depths / 4);
                let (lines, depths) = (lines - first, depths - skip);
                for layout in layouts {
                    let mut out = vec![9.0; lines.div_ceil(group) * group * depths];
                    layout.pack((first, lines), (skip, depths), group, &mut out);
                    for (index, &value) in out.iter().enumerate() {
                        let line = index / (group * depths) * group + index % group;
                        let depth = index / group % depths;
                        let expected = if line < lines {
                            x[(first + line) * (depths + skip) + skip + depth]
                        } else {
                            0.0
                        };
                        assert_eq!(value, expected);
                    }
                }
            }
        }
    }
}
