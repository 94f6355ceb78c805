//! A product as cuBLASLt sees it: column-major matrices, which operand is transposed, strides.
//!
//! Pure: made from the views of a [`Product`], without library and device. What is row-major here
//! is column-major there with rows and columns exchanged, so `Y = X·Wᵀ` is asked for as
//! `Yᵀ = W·Xᵀ`:
//!
//! | cuBLASLt | the product | stored as, column-major |
//! |---|---|---|
//! | A, transposed | weight, row-major `[n, k]` | `k × n` |
//! | A, as it is | weight, row-major `[k, n]` | `k × n` read as `n × k` |
//! | B, as it is | input, row-major `[m, k]` | `k × m` |
//! | D | output, row-major `[m, n]` | `n × m` |
//!
//! Where the output's rows and not its columns lie together, A is the input and B the weight.
//! Axes before the last two become rows where they can, one of them the batch, and the rest
//! separate calls. What strides cannot say so gives `None`, and another kernel must be taken.

use std::fmt;

use tintype_tensor::DType;

use crate::{ALIGNMENT, Place, Product, View};

/// `D = op(A)·op(B)`, batched, with its epilogue. It names no memory: all blocks of a model that
/// have the same sizes and strides have the same layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ProductLayout {
    /// Rows of D, which an epilogue's bias is along.
    pub(crate) rows: usize,
    /// Columns of D.
    pub(crate) columns: usize,
    /// What is summed over.
    pub(crate) inner: usize,
    /// How many products one call computes.
    pub(crate) batch: usize,
    /// A, B and D as they are stored.
    pub(crate) matrices: [Matrix; 3],
    /// Whether A and B are transposed.
    pub(crate) transposed: [bool; 2],
    /// Whether A is the input and B the weight.
    pub(crate) is_swapped: bool,
    /// Axes along which calls are repeated.
    pub(crate) repeats: Vec<Repeat>,
    /// The dtype of a bias that is added.
    pub(crate) bias: Option<DType>,
    /// Whether GELU in its tanh form is applied at the end.
    pub(crate) gelu: bool,
    /// What the addresses of A, B and D are multiples of, in bytes; a power of two.
    pub(crate) alignments: [usize; 3],
}

/// A matrix as it is stored, column-major: element `(i, j)` is `i + j · leading` elements from
/// the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Matrix {
    /// The dtype of the elements.
    pub(crate) dtype: DType,
    /// Rows, which lie together.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) columns: usize,
    /// From one column to the next, in elements.
    pub(crate) leading: usize,
    /// From one matrix of the batch to the next, in elements; 0 repeats.
    pub(crate) batch_stride: usize,
}

/// An axis along which calls are repeated, with the strides of A, B and D in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Repeat {
    /// How many positions there are.
    pub(crate) size: usize,
    /// From one to the next.
    pub(crate) strides: [usize; 3],
}

/// An axis of the product, with the strides of input, weight and output in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loop {
    size: usize,
    strides: [usize; 3],
}

/// The axes of a product: rows `m` of input and output, columns `n` of weight and output, the
/// inner axis `k` of input and weight, and all others.
struct Loops {
    m: Loop,
    n: Loop,
    k: Loop,
    batch: Vec<Loop>,
}

impl ProductLayout {
    /// The layout of a product, or `None` where cuBLASLt cannot express its views or dtypes.
    pub(crate) fn new(product: &Product) -> Option<Self> {
        let views = [&product.input, &product.weight, &product.output];
        let bias = product.bias.as_ref();
        let is_indexed = views
            .into_iter()
            .chain(bias)
            .any(|view| view.index.is_some());
        if is_indexed || views.iter().any(|view| view.count() == 0) {
            return None;
        }
        let dtypes = views.map(|view| view.dtype);
        if !computes(dtypes, bias.map(|bias| bias.dtype)) {
            return None;
        }
        let mut loops = Loops::of(product)?;
        loops.fold();
        let mut layout = loops.layout(dtypes)?;
        if let Some(bias) = bias {
            let axis = bias.axes.last()?;
            let is_vector = bias.count() == axis.size && (axis.stride == 1 || axis.size == 1);
            let fits = is_vector && axis.size == layout.rows && !layout.is_swapped;
            layout.bias = fits.then_some(Some(bias.dtype))?;
        }
        layout.gelu = product.gelu;
        layout.align(product);
        Some(layout)
    }

    /// The views of A, B and D.
    pub(crate) fn operands<'p>(&self, product: &'p Product) -> [&'p View; 3] {
        if self.is_swapped {
            [&product.input, &product.weight, &product.output]
        } else {
            [&product.weight, &product.input, &product.output]
        }
    }

    /// How many calls compute it.
    pub(crate) fn calls(&self) -> usize {
        self.repeats.iter().map(|repeat| repeat.size).product()
    }

    /// The offsets of A, B and D in the `call`th call, in elements from those of the first.
    pub(crate) fn offsets(&self, call: usize) -> [usize; 3] {
        let (mut left, mut offsets) = (call, [0; 3]);
        for repeat in self.repeats.iter().rev() {
            let position = left % repeat.size;
            left /= repeat.size;
            for (offset, stride) in offsets.iter_mut().zip(repeat.strides) {
                *offset += position * stride;
            }
        }
        offsets
    }

    /// The bytes from the first to the last element of A, B and D.
    pub(crate) fn extents(&self) -> [usize; 3] {
        [0, 1, 2].map(|place| {
            let matrix = self.matrices[place];
            let repeated = self.repeats.iter();
            let repeated = repeated.map(|repeat| (repeat.size - 1) * repeat.strides[place]);
            let last = (self.batch - 1) * matrix.batch_stride
                + (matrix.columns - 1) * matrix.leading
                + (matrix.rows - 1);
            (repeated.sum::<usize>() + last + 1) * matrix.dtype.bits() / 8
        })
    }

    /// The floating-point operations of all calls.
    pub(crate) fn operations(&self) -> usize {
        2 * self.calls() * self.batch * self.rows * self.columns * self.inner
    }

    /// What the address of a place's first byte is a multiple of, as far as that is certain:
    /// buffers of the plan are, and what others bring may lie anywhere in their memory.
    pub(crate) fn alignment_of(place: Place) -> usize {
        match place {
            Place::Buffer(_) => ALIGNMENT,
            Place::Input(_) | Place::Parameter(_) | Place::Constant(_) => ALIGNMENT_OF_OTHERS,
        }
    }

    fn align(&mut self, product: &Product) {
        let views = self.operands(product);
        let bytes = |elements: usize, dtype: DType| elements * dtype.bits() / 8;
        for (place, view) in views.into_iter().enumerate() {
            let repeats = self.repeats.iter().map(|repeat| repeat.strides[place]);
            let strides = repeats.chain([view.offset, self.matrices[place].batch_stride]);
            let all = strides.fold(Self::alignment_of(view.place), |all, stride| {
                all | bytes(stride, view.dtype)
            });
            self.alignments[place] = 1 << all.trailing_zeros();
        }
        // There is no hint for the bias; it is read with the output's vectors.
        if let Some(bias) = &product.bias {
            let all = Self::alignment_of(bias.place) | bytes(bias.offset, bias.dtype);
            self.alignments[2] = self.alignments[2].min(1 << all.trailing_zeros());
        }
    }
}

impl Loops {
    /// The axes of size 1 are left out of the batch.
    fn of(product: &Product) -> Option<Self> {
        let (input, output) = (&product.input, &product.output);
        let weight = product.weight_by_columns()?;
        let rank = output.axes.len();
        let batch = &output.shape()[..rank.saturating_sub(2)];
        if rank == 0 || input.axes.is_empty() || (!product.is_linear && rank < 2) {
            return None;
        }
        let n = *output.axes.last()?;
        let k = *input.axes.last()?;
        // A vector is one row.
        let one = |view: &View| view.axes.iter().rev().nth(1).copied();
        let (m_input, m_output) = (one(input), one(output));
        let m_size = m_output.map_or(1, |axis| axis.size);
        let [k_weight, n_weight] = *weight.axes.last_chunk::<2>()?;
        let sizes_fit = n_weight.size == n.size
            && k_weight.size == k.size
            && m_input.map_or(1, |axis| axis.size) == m_size;
        if !sizes_fit {
            return None;
        }
        let outer = |view: &View| outer_strides(view, batch);
        let (inputs, weights, outputs) = (outer(input)?, outer(&weight)?, outer(output)?);
        let all = batch.iter().enumerate().map(|(place, &size)| Loop {
            size,
            strides: [inputs[place], weights[place], outputs[place]],
        });
        let stride = |axis: Option<crate::Axis>| axis.map_or(0, |axis| axis.stride);
        Some(Self {
            m: Loop {
                size: m_size,
                strides: [stride(m_input), 0, stride(m_output)],
            },
            n: Loop {
                size: n.size,
                strides: [0, n_weight.stride, n.stride],
            },
            k: Loop {
                size: k.size,
                strides: [k.stride, k_weight.stride, 0],
            },
            batch: all.filter(|axis| axis.size != 1).collect(),
        })
    }

    /// Makes axes of the batch to rows where the weight is the same for all, and joins those that
    /// are one for all three; the order of the batch means nothing.
    fn fold(&mut self) {
        while let Some(place) = self.batch.iter().rposition(|axis| self.is_rows(axis)) {
            let axis = self.batch.remove(place);
            self.m = if self.m.size == 1 {
                axis
            } else {
                Loop {
                    size: self.m.size * axis.size,
                    ..self.m
                }
            };
        }
        while let Some((outer, inner)) = self.joined() {
            let axis = self.batch[inner];
            self.batch[inner].size = axis.size * self.batch[outer].size;
            self.batch.remove(outer);
        }
    }

    fn is_rows(&self, axis: &Loop) -> bool {
        let are_apart = axis.strides[0] > 0 && axis.strides[2] > 0;
        axis.strides[1] == 0 && are_apart && (self.m.size == 1 || follows(axis, &self.m))
    }

    fn joined(&self) -> Option<(usize, usize)> {
        let places = 0..self.batch.len();
        let pairs = places
            .clone()
            .flat_map(|a| places.clone().map(move |b| (a, b)));
        let mut pairs = pairs.filter(|(a, b)| a != b);
        pairs.find(|&(outer, inner)| follows(&self.batch[outer], &self.batch[inner]))
    }

    fn layout(self, dtypes: [DType; 3]) -> Option<ProductLayout> {
        let writes_twice = |axis: &Loop| axis.size > 1 && axis.strides[2] == 0;
        let mut written = self.batch.iter().chain([&self.m, &self.n]);
        if written.any(writes_twice) {
            return None;
        }
        self.oriented(dtypes, false)
            .or_else(|| self.oriented(dtypes, true))
    }

    /// The layout with A the weight, or with A the input.
    fn oriented(&self, dtypes: [DType; 3], is_swapped: bool) -> Option<ProductLayout> {
        // In places of cuBLASLt: which of input, weight and output are A, B and D.
        let order = if is_swapped { [0, 1, 2] } else { [1, 0, 2] };
        let (rows, columns) = if is_swapped {
            (self.m, self.n)
        } else {
            (self.n, self.m)
        };
        let [a, b, d] = order;
        let along = |axis: Loop, operand: usize| (axis.size, axis.strides[operand]);
        // The inner axis comes first, so that it lies together where either axis could.
        let (first, a_plain) = stored(along(self.k, a), along(rows, a))?;
        let (second, b_turned) = stored(along(self.k, b), along(columns, b))?;
        let (third, d_turned) = stored(along(rows, d), along(columns, d))?;
        if d_turned {
            return None;
        }
        let mut batch = self.batch.clone();
        batch.sort_by_key(|axis| axis.size);
        let batched = batch.pop().unwrap_or(Loop {
            size: 1,
            strides: [0; 3],
        });
        let repeats = batch.into_iter().map(|axis| Repeat {
            size: axis.size,
            strides: order.map(|operand| axis.strides[operand]),
        });
        let matrix = |(rows, columns, leading), operand: usize| Matrix {
            dtype: dtypes[operand],
            rows,
            columns,
            leading,
            batch_stride: batched.strides[operand],
        };
        let layout = ProductLayout {
            rows: rows.size,
            columns: columns.size,
            inner: self.k.size,
            batch: batched.size,
            matrices: [matrix(first, a), matrix(second, b), matrix(third, d)],
            transposed: [!a_plain, b_turned],
            is_swapped,
            repeats: repeats.collect(),
            bias: None,
            gelu: false,
            alignments: [1; 3],
        };
        (layout.calls() <= MOST_CALLS).then_some(layout)
    }
}

impl Product {
    /// The weight as `[…, k, n]`, of linear layers too.
    fn weight_by_columns(&self) -> Option<View> {
        let rank = self.weight.axes.len();
        if rank < 2 || (self.is_linear && rank != 2) {
            return None;
        }
        Some(if self.is_linear {
            self.weight.transpose(&[1, 0])
        } else {
            self.weight.clone()
        })
    }
}

/// The strides of the axes before the last two, for a batch of these sizes; `None` where they are
/// neither of these sizes nor repeated.
fn outer_strides(view: &View, batch: &[usize]) -> Option<Vec<usize>> {
    let own = view.axes.len().saturating_sub(2);
    let missing = batch.len().checked_sub(own)?;
    let strides = batch.iter().enumerate().map(|(place, &size)| {
        let Some(place) = place.checked_sub(missing) else {
            return Some(0);
        };
        match view.axes[place] {
            axis if axis.size == size => Some(axis.stride),
            axis if axis.size == 1 => Some(0),
            _ => None,
        }
    });
    strides.collect()
}

/// Whether a position of `outer` is as far as all of `inner`, in all three.
fn follows(outer: &Loop, inner: &Loop) -> bool {
    let pairs = outer.strides.into_iter().zip(inner.strides);
    inner.size > 1 && pairs.into_iter().all(|(a, b)| a == b * inner.size)
}

/// Rows, columns and leading dimension of a matrix with these two axes (size and stride), and
/// whether the second is the one that lies together. `None` where neither is, or columns overlap.
fn stored(first: (usize, usize), second: (usize, usize)) -> Option<((usize, usize, usize), bool)> {
    let column_major = |(rows, stride): (usize, usize), (columns, leading): (usize, usize)| {
        if rows != 1 && stride != 1 {
            return None;
        }
        match columns {
            1 => Some((rows, columns, rows)),
            _ if leading >= rows => Some((rows, columns, leading)),
            _ => None,
        }
    };
    let plain = column_major(first, second).map(|found| (found, false));
    plain.or_else(|| column_major(second, first).map(|found| (found, true)))
}

/// Whether cuBLASLt multiplies these dtypes (input, weight, output) with sums in f32.
fn computes([input, weight, output]: [DType; 3], bias: Option<DType>) -> bool {
    let has_output = match input {
        DType::BF16 | DType::F16 => output == input || output == DType::F32,
        DType::F32 => output == DType::F32,
        // f8e4m3 needs scales, which no product of a plan has yet.
        _ => false,
    };
    input == weight && has_output && bias.is_none_or(|bias| bias == output)
}

/// A line that names all that the choice of an algorithm depends on:
/// `tn 12288x4608x3072 a=bf16:3072@256 b=bf16:3072@256 d=bf16:15360@256 bias=bf16 gelu`.
impl fmt::Display for ProductLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for is_transposed in self.transposed {
            f.write_str(if is_transposed { "t" } else { "n" })?;
        }
        write!(f, " {}x{}x{}", self.rows, self.columns, self.inner)?;
        if self.batch > 1 {
            write!(f, " batch={}", self.batch)?;
        }
        let matrices = self.matrices.iter().zip(self.alignments);
        for (name, (matrix, alignment)) in ["a", "b", "d"].into_iter().zip(matrices) {
            write!(f, " {name}={}:{}", matrix.dtype, matrix.leading)?;
            if self.batch > 1 {
                write!(f, "+{}", matrix.batch_stride)?;
            }
            write!(f, "@{alignment}")?;
        }
        if let Some(bias) = self.bias {
            write!(f, " bias={bias}")?;
        }
        f.write_str(if self.gelu { " gelu" } else { "" })
    }
}

/// What inputs, weights and constants are aligned to at least; more changes no algorithm.
const ALIGNMENT_OF_OTHERS: usize = 16;

/// More calls than this are better left to one kernel.
const MOST_CALLS: usize = 64;
