//! Where the elements of a value lie: a place, an offset, a stride for each axis.
//!
//! Reshapes, slices, transposes, repetitions and gathers change the view and move nothing, as
//! long as strides can say it. Where they cannot, the functions give `None` and the plan copies.
//!
//! ```
//! use tintype_cuda::{Place, View};
//! use tintype_tensor::DType;
//!
//! // The keys in a joined product of queries, keys and values, in heads.
//! let product = View::contiguous(Place::Buffer(0), DType::BF16, &[1, 64, 96]);
//! let keys = product.slice(2, 32, 64).reshape(&[1, 64, 4, 8]).unwrap();
//! assert_eq!(keys.to_string(), "b0+32[1:6144, 64:96, 4:8, 8]");
//! ```

use std::fmt;

use tintype_tensor::{DType, Shape};

/// Memory that a view lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// An input of the program, by its index.
    Input(usize),
    /// A weight, by the index of its parameter.
    Parameter(usize),
    /// The values of the constant of this node.
    Constant(usize),
    /// A buffer of the plan.
    Buffer(usize),
}

/// One axis of a view, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// How many positions it has.
    pub size: usize,
    /// From one position to the next; 0 repeats.
    pub stride: usize,
    /// The same in the view's [`Index`].
    pub step: usize,
}

/// Positions that are known at run time: the element's address has `index · stride` more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    /// Where the indices lie.
    pub place: Place,
    /// Their dtype: i64 or i32.
    pub dtype: DType,
    /// The first index, in elements.
    pub offset: usize,
    /// What a position adds, in elements of the view.
    pub stride: usize,
    /// How many positions there are.
    pub size: usize,
}

/// Where the elements of a value lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The memory.
    pub place: Place,
    /// The dtype of the elements.
    pub dtype: DType,
    /// The first element.
    pub offset: usize,
    /// The axes, outermost first.
    pub axes: Vec<Axis>,
    /// A part of the address that is known at run time.
    pub index: Option<Index>,
}

/// A view as a batch of matrices with rows that have no gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrices {
    /// How many matrices.
    pub batch: usize,
    /// From one matrix to the next, in elements.
    pub batch_stride: usize,
    /// Rows of each.
    pub rows: usize,
    /// From one row to the next, in elements.
    pub row_stride: usize,
    /// Elements of a row.
    pub columns: usize,
}

impl Matrices {
    /// The same rows as so many matrices, if they are one matrix or so many already.
    pub fn split(self, batch: usize) -> Option<Self> {
        if self.batch == batch {
            return Some(self);
        }
        let fits = self.batch == 1 && batch > 0 && self.rows.is_multiple_of(batch);
        let rows = self.rows / batch.max(1);
        fits.then_some(Self {
            batch,
            batch_stride: rows * self.row_stride,
            rows,
            ..self
        })
    }
}

impl View {
    /// Row-major elements from the beginning of a place.
    pub fn contiguous(place: Place, dtype: DType, shape: &[usize]) -> Self {
        let strides = Shape::from(shape).strides();
        let axes = shape.iter().zip(strides);
        Self {
            place,
            dtype,
            offset: 0,
            axes: axes
                .map(|(&size, stride)| Axis {
                    size,
                    stride,
                    step: 0,
                })
                .collect(),
            index: None,
        }
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.size).collect()
    }

    /// The number of elements, those repeated counted each time.
    pub fn count(&self) -> usize {
        self.axes.iter().map(|axis| axis.size).product()
    }

    /// The bytes of the different elements that are read or written through it.
    pub fn bytes(&self) -> usize {
        let distinct = |axis: &&Axis| axis.stride > 0 || axis.step > 0;
        let sizes = self.axes.iter().filter(distinct).map(|axis| axis.size);
        sizes.product::<usize>() * self.dtype.bits() / 8
    }

    /// Whether the elements lie one after another, row-major.
    pub fn is_contiguous(&self) -> bool {
        let plain = Self::contiguous(self.place, self.dtype, &self.shape());
        let same = |(a, b): (&Axis, &Axis)| a.size == 1 || a.stride == b.stride;
        self.index.is_none() && self.axes.iter().zip(&plain.axes).all(same)
    }

    /// Whether both are the same elements in the same order.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Axis, &Axis)| {
            a.size == b.size && (a.size == 1 || (a.stride == b.stride && a.step == b.step))
        };
        self.place == other.place
            && self.dtype == other.dtype
            && self.offset == other.offset
            && self.index == other.index
            && self.axes.len() == other.axes.len()
            && self.axes.iter().zip(&other.axes).all(same)
    }

    /// Positions `start..end` of one axis.
    #[must_use]
    pub fn slice(&self, axis: usize, start: usize, end: usize) -> Self {
        let mut view = self.clone();
        view.offset += start * view.axes[axis].stride;
        if let Some(index) = &mut view.index {
            index.offset += start * view.axes[axis].step;
        }
        view.axes[axis].size = end.saturating_sub(start);
        view
    }

    /// The axes in another order.
    #[must_use]
    pub fn transpose(&self, permutation: &[usize]) -> Self {
        Self {
            axes: permutation.iter().map(|&axis| self.axes[axis]).collect(),
            ..self.clone()
        }
    }

    /// Sizes 1 and missing outer axes repeated, aligned at the end.
    #[must_use]
    pub fn broadcast(&self, shape: &[usize]) -> Self {
        let missing = shape.len() - self.axes.len();
        let axes = shape.iter().enumerate().map(|(place, &size)| {
            let own = place.checked_sub(missing).map(|place| self.axes[place]);
            match own {
                Some(axis) if axis.size == size => axis,
                _ => Axis {
                    size,
                    stride: 0,
                    step: 0,
                },
            }
        });
        Self {
            axes: axes.collect(),
            ..self.clone()
        }
    }

    /// The same elements in order under other sizes, if strides can say it.
    pub fn reshape(&self, shape: &[usize]) -> Option<Self> {
        let mut runs: Vec<Axis> = Vec::new();
        for axis in self.axes.iter().filter(|axis| axis.size != 1) {
            match runs.last_mut() {
                Some(last) if follows(*last, *axis) => {
                    *last = Axis {
                        size: last.size * axis.size,
                        ..*axis
                    };
                }
                _ => runs.push(*axis),
            }
        }
        let mut axes = Vec::with_capacity(shape.len());
        let mut rest = runs.pop();
        for &size in shape.iter().rev() {
            if size == 1 {
                axes.push(Axis {
                    size,
                    stride: 0,
                    step: 0,
                });
                continue;
            }
            let run = rest.filter(|run| size > 0 && run.size.is_multiple_of(size))?;
            axes.push(Axis { size, ..run });
            rest = match run.size / size {
                1 => runs.pop(),
                left => Some(Axis {
                    size: left,
                    stride: run.stride * size,
                    step: run.step * size,
                }),
            };
        }
        axes.reverse();
        let same_count = rest.is_none();
        same_count.then(|| {
            let mut view = Self {
                axes,
                ..self.clone()
            };
            view.restore_strides_of_ones();
            view
        })
    }

    /// Rows chosen along `axis` by `indices`, whose axes take the place of that one. `None` where
    /// either has an index of its own.
    pub fn gather(&self, axis: usize, indices: &Self) -> Option<Self> {
        if self.index.is_some() || indices.index.is_some() {
            return None;
        }
        let mut view = self.clone();
        view.index = Some(indices.as_index(self.axes[axis]));
        let chosen = indices.axes.iter().map(|index| Axis {
            size: index.size,
            stride: 0,
            step: index.stride,
        });
        view.axes.splice(axis..=axis, chosen);
        Some(view)
    }

    /// `[b, indices[b], …]` of `[b, n, …]`.
    pub fn gather_rows(&self, indices: &Self) -> Option<Self> {
        if self.index.is_some() || indices.index.is_some() {
            return None;
        }
        let mut view = self.clone();
        view.index = Some(indices.as_index(self.axes[1]));
        view.axes.remove(1);
        view.axes[0].step = indices.axes[0].stride;
        Some(view)
    }

    /// The view as matrices: the last axis without gaps, those before it as few as can be.
    pub fn matrices(&self) -> Option<Matrices> {
        let columns = self.axes.last()?;
        if self.index.is_some() || (columns.stride != 1 && columns.size != 1) {
            return None;
        }
        let outer = &self.axes[..self.axes.len() - 1];
        let mut runs: Vec<Axis> = Vec::new();
        for axis in outer.iter().filter(|axis| axis.size != 1) {
            match runs.last_mut() {
                Some(last) if follows(*last, *axis) => {
                    *last = Axis {
                        size: last.size * axis.size,
                        ..*axis
                    };
                }
                _ => runs.push(*axis),
            }
        }
        let one = Axis {
            size: 1,
            stride: columns.size,
            step: 0,
        };
        let (batch, rows) = match runs[..] {
            [] => (one, one),
            [rows] => (one, rows),
            [batch, rows] => (batch, rows),
            _ => return None,
        };
        Some(Matrices {
            batch: batch.size,
            batch_stride: if batch.size == 1 { 0 } else { batch.stride },
            rows: rows.size,
            row_stride: rows.stride,
            columns: columns.size,
        })
    }

    fn as_index(&self, chosen: Axis) -> Index {
        Index {
            place: self.place,
            dtype: self.dtype,
            offset: self.offset,
            stride: chosen.stride,
            size: chosen.size,
        }
    }

    /// Axes of one position get the stride that row-major order gives them, so that equal
    /// layouts are equal views.
    fn restore_strides_of_ones(&mut self) {
        for place in (0..self.axes.len()).rev() {
            if self.axes[place].size == 1 {
                let inner = self.axes.get(place + 1);
                self.axes[place].stride = inner.map_or(1, |inner| inner.size * inner.stride);
            }
        }
    }
}

/// Whether a position of `outer` is as far as all of `inner`.
fn follows(outer: Axis, inner: Axis) -> bool {
    outer.stride == inner.stride * inner.size && outer.step == inner.step * inner.size
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(index) => write!(f, "i{index}"),
            Self::Parameter(index) => write!(f, "w{index}"),
            Self::Constant(index) => write!(f, "c{index}"),
            Self::Buffer(index) => write!(f, "b{index}"),
        }
    }
}

/// `b0+32[64:96, 8]`: the place, the offset, sizes with strides; 1 at the end is not written.
impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if self.offset > 0 {
            write!(f, "+{}", self.offset)?;
        }
        if let Some(index) = &self.index {
            write!(f, "+{}·{}", index.place, index.stride)?;
        }
        if self.is_contiguous() {
            return write!(f, "{}", Shape::from(self.shape()));
        }
        f.write_str("[")?;
        for (place, axis) in self.axes.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{}", axis.size)?;
            if place + 1 < self.axes.len() || axis.stride != 1 {
                write!(f, ":{}", axis.stride)?;
            }
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(shape: &[usize]) -> View {
        View::contiguous(Place::Buffer(0), DType::BF16, shape)
    }

    #[test]
    fn reshapes_follow_strides_or_are_refused() {
        let part = plain(&[2, 6, 8]).slice(2, 0, 4);
        assert!(part.reshape(&[12, 4]).is_some());
        assert!(part.reshape(&[2, 24]).is_none());
        let turned = plain(&[4, 6]).transpose(&[1, 0]);
        assert!(turned.reshape(&[24]).is_none());
        assert_eq!(
            plain(&[4, 6]).reshape(&[2, 2, 1, 6]),
            Some(plain(&[2, 2, 1, 6]))
        );
    }

    #[test]
    fn a_gathered_row_can_be_sliced_and_repeated() {
        let steps = plain(&[20, 2, 12]);
        let index = View::contiguous(Place::Input(0), DType::I64, &[]);
        let row = steps.gather(0, &index).unwrap();
        let part = row.reshape(&[2, 1, 12]).unwrap().slice(2, 4, 8);
        let all = part.broadcast(&[2, 64, 4]);
        assert_eq!(all.offset, 4);
        assert_eq!(all.index.map(|index| index.stride), Some(24));
        assert_eq!(all.axes[1].stride, 0);
        assert_eq!(all.bytes(), 2 * 4 * 2);
    }

    #[test]
    fn matrices_have_one_stride_of_rows() {
        let part = plain(&[2, 8, 16]).slice(1, 0, 4);
        let found = part.matrices().unwrap();
        assert_eq!((found.batch, found.batch_stride), (2, 128));
        assert_eq!((found.rows, found.row_stride, found.columns), (4, 16, 16));
        assert!(plain(&[4, 4]).transpose(&[1, 0]).matrices().is_none());
        let whole = plain(&[2, 4, 32]).matrices().unwrap();
        assert_eq!((whole.batch, whole.rows), (1, 8));
        let parts = whole.split(found.batch).unwrap();
        assert_eq!((parts.rows, parts.batch_stride), (found.rows, 128));
        assert_eq!(whole.split(3), None);
    }
}
