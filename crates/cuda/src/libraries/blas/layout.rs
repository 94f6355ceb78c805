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

use super::loops::Loops;
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
    /// How sums are scaled, where A and B are codes of 8 bits.
    pub(crate) scaling: Option<Scaling>,
    /// The dtype of a bias that is added.
    pub(crate) bias: Option<DType>,
    /// Whether GELU in its tanh form is applied at the end.
    pub(crate) gelu: bool,
    /// What the addresses of A, B and D are multiples of, in bytes; a power of two.
    pub(crate) alignments: [usize; 3],
}

/// What sums of products of codes are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Scaling {
    /// Whether A and B have a scale for each of their rows, not one for all.
    pub(crate) are_vectors: bool,
    /// Whether D is codes too, with a factor of its own.
    pub(crate) has_output: bool,
    /// The dtype of the matrix that could be added, which says how a bias is read.
    pub(crate) addend: DType,
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
        let scaling = scaling(product)?;
        if scaling.is_none() && !computes(dtypes, bias.map(|bias| bias.dtype)) {
            return None;
        }
        let mut loops = Loops::of(product)?;
        loops.fold();
        let mut layout = loops.layout(dtypes)?;
        layout.scaling = scaling;
        if let Some(bias) = bias {
            let axis = bias.axes.last()?;
            let is_vector = bias.count() == axis.size && (axis.stride == 1 || axis.size == 1);
            let fits = is_vector && axis.size == layout.rows && !layout.is_swapped;
            layout.bias = fits.then_some(Some(bias.dtype))?;
        }
        layout.gelu = product.gelu;
        layout.align(product);
        let is_taken = scaling.is_none_or(|scaling| layout.takes_codes(scaling));
        is_taken.then_some(layout)
    }

    /// Whether the library multiplies codes that lie so: those of a sum together in both operands,
    /// all at multiples of 16 bytes.
    fn takes_codes(&self, scaling: Scaling) -> bool {
        let are_even = self
            .matrices
            .iter()
            .zip(self.alignments)
            .all(|(matrix, at)| {
                let even =
                    |elements: usize| (elements * matrix.dtype.bits() / 8).is_multiple_of(16);
                even(matrix.leading) && even(matrix.batch_stride) && at >= 16
            });
        self.transposed == [true, false]
            && !self.is_swapped
            && are_even
            && self.inner.is_multiple_of(16)
            && self.rows.is_multiple_of(16)
            && (!scaling.are_vectors || (self.batch == 1 && self.repeats.is_empty()))
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

/// Whether cuBLASLt multiplies these dtypes (input, weight, output) with sums in f32.
fn computes([input, weight, output]: [DType; 3], bias: Option<DType>) -> bool {
    let has_output = match input {
        DType::BF16 | DType::F16 => output == input || output == DType::F32,
        DType::F32 => output == DType::F32,
        _ => false,
    };
    input == weight && has_output && bias.is_none_or(|bias| bias == output)
}

/// How a product of codes is scaled, `Some(None)` of one of numbers; `None` where cuBLASLt has no
/// such product.
#[expect(
    clippy::option_option,
    reason = "no scaling and no product are two things"
)]
fn scaling(product: &Product) -> Option<Option<Scaling>> {
    let Some(codes) = &product.codes else {
        return Some(None);
    };
    let are_codes = [&product.input, &product.weight]
        .into_iter()
        .all(|view| view.dtype == DType::F8E4M3);
    let are_vectors = !codes.are_scalars();
    // There is no mixture of one scale and many.
    let fits = !are_vectors || codes.scales.iter().all(|scale| scale.count() > 1);
    let bias = product.bias.as_ref().map(|bias| bias.dtype);
    let is_small = |dtype: DType| matches!(dtype, DType::BF16 | DType::F16);
    let has_output = codes.output.is_some();
    let addend = match product.output.dtype {
        DType::F8E4M3 if has_output && !are_vectors => bias.unwrap_or(codes.dtype),
        dtype if has_output || dtype == DType::F8E4M3 => return None,
        dtype => dtype,
    };
    let has_dtypes = match addend {
        // The library reads a bias in bf16 there.
        DType::F32 => !has_output && bias.is_none_or(|bias| bias == DType::BF16),
        addend => is_small(addend) && bias.is_none_or(|bias| bias == addend),
    };
    (are_codes && fits && has_dtypes).then_some(Some(Scaling {
        are_vectors,
        has_output,
        addend,
    }))
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
        if let Some(scaling) = self.scaling {
            // How sums are added up is part of it.
            let each = if scaling.are_vectors { "rows" } else { "one" };
            write!(f, " scales={each} fast")?;
            if scaling.has_output {
                write!(f, " codes c={}", scaling.addend)?;
            }
        }
        if let Some(bias) = self.bias {
            write!(f, " bias={bias}")?;
        }
        f.write_str(if self.gelu { " gelu" } else { "" })
    }
}

/// What inputs, weights and constants are aligned to at least; more changes no algorithm.
const ALIGNMENT_OF_OTHERS: usize = 16;
