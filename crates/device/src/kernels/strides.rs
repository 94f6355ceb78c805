//! How elements move: strides of two sides over common axes, made as few and as large as
//! possible. Pure; the kernels are in `layout.cu` and `elementwise.cu`.

use bytemuck::{Pod, Zeroable};

/// `Strides` of the CUDA sources: strides of two sides in units, over at most six axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Strides {
    first: [u64; MAX_RANK],
    second: [u64; MAX_RANK],
    sizes: [u32; MAX_RANK],
    rank: u32,
    padding: u32,
}

/// An axis with its strides on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) size: usize,
    pub(crate) first: u64,
    pub(crate) second: u64,
}

/// A movement of elements: `output[output_start + Σ second] = input[input_start + Σ first]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Movement {
    /// Outermost first; strides and starts in elements.
    pub(crate) axes: Vec<Axis>,
    pub(crate) input_start: u64,
    pub(crate) output_start: u64,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub(crate) element_bytes: usize,
}

/// What moves the elements.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mover {
    /// One run of bytes from one offset to another.
    Run {
        from: usize,
        to: usize,
        bytes: usize,
    },
    /// The transpose of each of `batch` matrices, all of them row after row.
    Transpose {
        unit: usize,
        batch: u32,
        rows: u32,
        columns: u32,
    },
    /// Anything else, in units of so many bytes.
    Strided {
        unit: usize,
        count: u64,
        input_start: u64,
        output_start: u64,
        strides: Strides,
    },
}

impl Strides {
    /// `None` for more axes or elements than kernels count.
    pub(crate) fn new(axes: &[Axis]) -> Option<Self> {
        let count = axes
            .iter()
            .try_fold(1usize, |all, axis| all.checked_mul(axis.size))?;
        if axes.len() > MAX_RANK || u32::try_from(count).is_err() {
            return None;
        }
        let mut strides = Self {
            first: [0; MAX_RANK],
            second: [0; MAX_RANK],
            sizes: [1; MAX_RANK],
            rank: axes.len() as u32,
            padding: 0,
        };
        for (index, axis) in axes.iter().enumerate() {
            strides.first[index] = axis.first;
            strides.second[index] = axis.second;
            strides.sizes[index] = axis.size as u32;
        }
        Some(strides)
    }
}

impl Movement {
    /// The same elements, from where they would go to where they come from.
    pub(crate) fn reversed(mut self) -> Self {
        for axis in &mut self.axes {
            std::mem::swap(&mut axis.first, &mut axis.second);
        }
        std::mem::swap(&mut self.input_start, &mut self.output_start);
        self
    }

    /// The axes of `shape`, both sides row-major and whole; to be changed then.
    pub(crate) fn new(shape: &[usize], element_bytes: usize) -> Self {
        let strides = row_major(shape);
        let axes = shape.iter().zip(strides);
        Self {
            axes: axes
                .map(|(&size, stride)| Axis {
                    size,
                    first: stride,
                    second: stride,
                })
                .collect(),
            input_start: 0,
            output_start: 0,
            element_bytes,
        }
    }

    /// What does it; `None` if no kernel can.
    pub(crate) fn mover(&self) -> Option<Mover> {
        let axes = collapse(&self.axes);
        let bytes = self.element_bytes;
        match axes[..] {
            [] => return Some(self.run(bytes)),
            [
                Axis {
                    size,
                    first: 1,
                    second: 1,
                },
            ] => return Some(self.run(size * bytes)),
            _ => {}
        }
        if let Some(transpose) = self.transpose(&axes) {
            return Some(transpose);
        }
        let unit = self.unit(&axes);
        let scale = |elements: u64| elements * bytes as u64 / unit as u64;
        let last = axes.len() - 1;
        let in_units = axes
            .iter()
            .enumerate()
            .map(|(index, axis)| match unit == bytes {
                true => *axis,
                false if index == last => Axis {
                    size: axis.size * bytes / unit,
                    ..*axis
                },
                false => Axis {
                    size: axis.size,
                    first: scale(axis.first),
                    second: scale(axis.second),
                },
            });
        let in_units: Vec<Axis> = in_units.collect();
        Some(Mover::Strided {
            unit,
            count: in_units.iter().map(|axis| axis.size as u64).product(),
            input_start: scale(self.input_start),
            output_start: scale(self.output_start),
            strides: Strides::new(&in_units)?,
        })
    }

    fn run(&self, bytes: usize) -> Mover {
        Mover::Run {
            from: self.input_start as usize * self.element_bytes,
            to: self.output_start as usize * self.element_bytes,
            bytes,
        }
    }

    /// The axes as those of transposed matrices, if they are.
    fn transpose(&self, axes: &[Axis]) -> Option<Mover> {
        let (batch, columns, rows) = match *axes {
            [columns, rows] => (1, columns, rows),
            [batch, columns, rows] => {
                let matrix = (columns.size * rows.size) as u64;
                let is_whole = batch.first == matrix && batch.second == matrix;
                (is_whole.then_some(batch.size)?, columns, rows)
            }
            _ => return None,
        };
        let is_transpose = columns.first == 1
            && rows.first == columns.size as u64
            && rows.second == 1
            && columns.second == rows.size as u64;
        let blocks = |size: usize| size.div_ceil(32);
        let fits = batch <= MAX_BLOCKS && blocks(rows.size) <= MAX_BLOCKS;
        let starts_at_zero = self.input_start == 0 && self.output_start == 0;
        (is_transpose && fits && starts_at_zero).then_some(())?;
        Some(Mover::Transpose {
            unit: self.element_bytes,
            batch: batch as u32,
            rows: rows.size as u32,
            columns: u32::try_from(columns.size).ok()?,
        })
    }

    /// The most bytes that always move together.
    fn unit(&self, axes: &[Axis]) -> usize {
        let Some((last, outer)) = axes.split_last() else {
            return self.element_bytes;
        };
        if (last.first, last.second) != (1, 1) {
            return self.element_bytes;
        }
        let strides = outer.iter().flat_map(|axis| [axis.first, axis.second]);
        let mut distances = vec![last.size as u64, self.input_start, self.output_start];
        distances.extend(strides);
        let fits = |&unit: &usize| {
            let is_whole = |&distance: &u64| {
                (distance * self.element_bytes as u64).is_multiple_of(unit as u64)
            };
            unit > self.element_bytes && distances.iter().all(is_whole)
        };
        [16, 8, 4, 2]
            .into_iter()
            .find(fits)
            .unwrap_or(self.element_bytes)
    }
}

/// Row-major strides in elements.
pub(crate) fn row_major(shape: &[usize]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as u64;
    }
    strides
}

/// Strides of `shape`, row-major, when it is repeated to `result`: 0 where it is repeated.
pub(crate) fn repeated(shape: &[usize], result: &[usize]) -> Vec<u64> {
    let missing = result.len() - shape.len();
    let own = row_major(shape);
    let stride = |axis: usize| match axis.checked_sub(missing) {
        Some(own_axis) if shape[own_axis] != 1 => own[own_axis],
        _ => 0,
    };
    (0..result.len()).map(stride).collect()
}

/// The same places with as few axes as can be.
pub(crate) fn collapse(axes: &[Axis]) -> Vec<Axis> {
    let mut result: Vec<Axis> = Vec::with_capacity(axes.len());
    for &axis in axes.iter().filter(|axis| axis.size != 1) {
        let size = axis.size as u64;
        match result.last_mut() {
            Some(outer)
                if outer.first == axis.first * size && outer.second == axis.second * size =>
            {
                *outer = Axis {
                    size: outer.size * axis.size,
                    ..axis
                };
            }
            _ => result.push(axis),
        }
    }
    result
}

/// As in the CUDA sources.
const MAX_RANK: usize = 6;

/// Of a grid along y and z.
pub(crate) const MAX_BLOCKS: usize = 65_535;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Moves elements as the kernels do.
    fn moved(mover: &Mover, input: &[u8], output: &mut [u8]) {
        match *mover {
            Mover::Run { from, to, bytes } => {
                output[to..to + bytes].copy_from_slice(&input[from..from + bytes]);
            }
            Mover::Transpose {
                unit,
                batch,
                rows,
                columns,
            } => {
                let (rows, columns) = (rows as usize, columns as usize);
                for index in 0..batch as usize * rows * columns {
                    let (matrix, place) = (index / (rows * columns), index % (rows * columns));
                    let (row, column) = (place / columns, place % columns);
                    let to = (matrix * rows * columns + column * rows + row) * unit;
                    output[to..to + unit].copy_from_slice(&input[index * unit..][..unit]);
                }
            }
            Mover::Strided {
                unit,
                count,
                input_start,
                output_start,
                strides,
            } => {
                for index in 0..count {
                    let (mut rest, mut from, mut to) = (index, input_start, output_start);
                    for axis in (0..strides.rank as usize).rev() {
                        let position = rest % u64::from(strides.sizes[axis]);
                        rest /= u64::from(strides.sizes[axis]);
                        from += position * strides.first[axis];
                        to += position * strides.second[axis];
                    }
                    let (from, to) = (from as usize * unit, to as usize * unit);
                    output[to..to + unit].copy_from_slice(&input[from..from + unit]);
                }
            }
        }
    }

    fn permuted(shape: &[usize], permutation: &[usize], bytes: usize) -> Movement {
        let strides = row_major(shape);
        let result: Vec<usize> = permutation.iter().map(|&axis| shape[axis]).collect();
        let mut movement = Movement::new(&result, bytes);
        for (axis, &from) in movement.axes.iter_mut().zip(permutation) {
            axis.first = strides[from];
        }
        movement
    }

    #[test]
    fn the_usual_movements_take_the_fast_ways() {
        let plain = Movement::new(&[3, 4, 5], 2).mover();
        assert_eq!(
            plain,
            Some(Mover::Run {
                from: 0,
                to: 0,
                bytes: 120
            })
        );
        let transpose = permuted(&[48, 32], &[1, 0], 2).mover();
        let expected = Mover::Transpose {
            unit: 2,
            batch: 1,
            rows: 48,
            columns: 32,
        };
        assert_eq!(transpose, Some(expected));
        // Heads to the front move whole rows of 64 elements.
        let heads = permuted(&[10, 24, 64], &[1, 0, 2], 2).mover();
        assert!(matches!(
            heads,
            Some(Mover::Strided {
                unit: 16,
                count: 1920,
                ..
            })
        ));
        assert_eq!(
            permuted(&[2; 14], &(0..14).rev().collect::<Vec<_>>(), 1).mover(),
            None
        );
    }

    proptest! {
        #[test]
        fn every_permutation_moves_elements_where_they_belong(
            (shape, permutation) in prop::collection::vec(1usize..5, 0..6).prop_flat_map(|shape| {
                let axes: Vec<usize> = (0..shape.len()).collect();
                (Just(shape), Just(axes).prop_shuffle())
            }),
            shift in 0u32..4,
        ) {
            let bytes = 1usize << shift;
            let movement = permuted(&shape, &permutation, bytes);
            let count: usize = shape.iter().product();
            let input: Vec<u8> = (0..count * bytes).map(|byte| (byte * 31 % 251) as u8).collect();
            let mut found = vec![0; input.len()];
            moved(&movement.mover().unwrap(), &input, &mut found);
            let result: Vec<usize> = permutation.iter().map(|&axis| shape[axis]).collect();
            let (from, to) = (row_major(&shape), row_major(&result));
            for index in 0..count {
                let mut source = 0;
                for (axis, &own) in permutation.iter().enumerate() {
                    source += index / to[axis] as usize % result[axis] * from[own] as usize;
                }
                prop_assert_eq!(&found[index * bytes..][..bytes], &input[source * bytes..][..bytes]);
            }
        }
    }
}
