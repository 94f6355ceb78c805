//! A graph as cuDNN takes it, as plain data: tensors with sizes, strides and ids, and operations.
//!
//! Attention and convolutions are put together here and only here, so that all of it can be
//! looked at and computed without the library; `build` turns it into descriptors, one for each
//! thing that is here.
//!
//! | store | the library is given |
//! |---|---|
//! | `Memory` | an address, when it runs |
//! | `Virtual` | nothing: the tensor never leaves the chip |
//! | `Scalar` | the address of a number on the host, which is read when a run is enqueued |
//! | `Number` | the address of a number on the device, which stays there |
//! | `Spare` | an address behind the plan's scratch memory, of what nobody reads |

use std::fmt;

use tintype_tensor::DType;

use crate::{Place, View};

/// A tensor of a [`GraphDescription`]. Its id with cuDNN is the number and 1, since 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TensorId(pub(super) usize);

/// A tensor of the graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) dims: Vec<i64>,
    /// In elements.
    pub(super) strides: Vec<i64>,
    pub(super) dtype: DType,
    pub(super) store: Store,
}

/// Where the elements of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Store {
    /// In memory of the device.
    Memory {
        place: Place,
        /// The first element.
        offset: usize,
        /// What the address is a multiple of, in bytes; 16 is the most that is said.
        alignment: usize,
    },
    /// Nowhere.
    Virtual,
    /// A number of the host.
    Scalar(f32),
    /// A number in memory of the device: the library takes scales of codes nowhere else.
    Number(f32),
    /// One f32 that the library insists to write, by its number within the graph.
    Spare(usize),
}

/// A function of single elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Add,
    Subtract,
    Multiply,
    Divide,
    Exp,
    Log,
    /// The position along an axis of the operand.
    Position(usize),
    /// Whether the first is at least the second.
    AtLeast,
    /// The first where the third is true, else the second.
    Select,
}

/// What a reduction keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reduction {
    Max,
    Sum,
    GreatestMagnitude,
}

/// One operation. Products, reductions and convolutions compute in f32.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    /// Cross-correlation; the channels of the weight say how many groups there are.
    Convolution {
        input: TensorId,
        weight: TensorId,
        output: TensorId,
        /// Along height and width, as the rest.
        stride: [i64; 2],
        before: [i64; 2],
        after: [i64; 2],
    },
    /// A matrix product over the last two axes.
    Product {
        left: TensorId,
        right: TensorId,
        output: TensorId,
    },
    /// A function of each element; operands of size 1 repeat.
    Pointwise {
        function: Function,
        operands: Vec<TensorId>,
        output: TensorId,
        /// What it is computed in.
        math: DType,
    },
    /// Over the axes that have size 1 in the output.
    Reduce {
        reduction: Reduction,
        input: TensorId,
        output: TensorId,
    },
    /// Attention without mask and bias as one operation.
    Attention {
        query: TensorId,
        key: TensorId,
        value: TensorId,
        scale: TensorId,
        output: TensorId,
    },
}

/// Tensors and the operations on them, in the order of the data.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct GraphDescription {
    pub(super) tensors: Vec<Tensor>,
    pub(super) operations: Vec<Operation>,
}

impl TensorId {
    /// The id with cuDNN.
    pub(super) fn unique(self) -> i64 {
        self.0 as i64 + 1
    }
}

impl Tensor {
    /// The elements of a view. Axes that repeat become axes of size 1, which is how cuDNN is
    /// told of it.
    pub(super) fn of_view(view: &View) -> Self {
        let reach = |axis: &crate::Axis| (axis.size * axis.stride) as i64;
        let whole = view.axes.iter().map(reach).max().unwrap_or(1).max(1);
        let repeats = |axis: &crate::Axis| axis.stride == 0;
        Self {
            dims: view
                .axes
                .iter()
                .map(|axis| if repeats(axis) { 1 } else { axis.size as i64 })
                .collect(),
            strides: view
                .axes
                .iter()
                .map(|axis| {
                    if repeats(axis) {
                        whole
                    } else {
                        axis.stride as i64
                    }
                })
                .collect(),
            dtype: view.dtype,
            store: Store::Memory {
                place: view.place,
                offset: view.offset,
                alignment: alignment_of(view),
            },
        }
    }

    /// A row-major tensor of these sizes that never is in memory.
    pub(super) fn passing(dims: &[i64], dtype: DType) -> Self {
        let mut strides = vec![1; dims.len()];
        for axis in (1..dims.len()).rev() {
            strides[axis - 1] = strides[axis] * dims[axis];
        }
        Self {
            dims: dims.to_vec(),
            strides,
            dtype,
            store: Store::Virtual,
        }
    }

    /// A number of `rank` axes.
    pub(super) fn scalar(value: f32, rank: usize) -> Self {
        Self {
            dims: vec![1; rank],
            strides: vec![1; rank],
            dtype: DType::F32,
            store: Store::Scalar(value),
        }
    }

    /// One number of `rank` axes that lies where `store` says.
    pub(super) fn one(store: Store, rank: usize) -> Self {
        Self {
            store,
            ..Self::scalar(0.0, rank)
        }
    }

    /// With the last two axes exchanged.
    pub(super) fn transposed(mut self) -> Self {
        let rank = self.dims.len();
        self.dims.swap(rank - 2, rank - 1);
        self.strides.swap(rank - 2, rank - 1);
        self
    }

    /// Elements from the first to one past the last.
    pub(super) fn span(&self) -> usize {
        let axes = self.dims.iter().zip(&self.strides);
        let last: i64 = axes
            .map(|(&size, &stride)| (size - 1).max(0) * stride)
            .sum();
        usize::try_from(last).unwrap_or(0) + 1
    }
}

impl GraphDescription {
    pub(super) fn tensor(&mut self, tensor: Tensor) -> TensorId {
        self.tensors.push(tensor);
        TensorId(self.tensors.len() - 1)
    }

    pub(super) fn of(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// A function of operands, the first of which has the sizes of the result.
    pub(super) fn pointwise(
        &mut self,
        function: Function,
        operands: &[TensorId],
        dtype: DType,
        math: DType,
    ) -> TensorId {
        let dims = self.of(operands[0]).dims.clone();
        let output = self.tensor(Tensor::passing(&dims, dtype));
        self.pointwise_to(function, operands, output, math);
        output
    }

    pub(super) fn pointwise_to(
        &mut self,
        function: Function,
        operands: &[TensorId],
        output: TensorId,
        math: DType,
    ) {
        self.operations.push(Operation::Pointwise {
            function,
            operands: operands.to_vec(),
            output,
            math,
        });
    }

    /// A reduction over the last axis, in f32.
    pub(super) fn reduce_rows(&mut self, reduction: Reduction, input: TensorId) -> TensorId {
        let mut dims = self.of(input).dims.clone();
        *dims.last_mut().expect("scores have axes") = 1;
        let output = self.tensor(Tensor::passing(&dims, DType::F32));
        self.operations.push(Operation::Reduce {
            reduction,
            input,
            output,
        });
        output
    }
}

/// The largest power of two, at most 16, that the address of the view is a multiple of, if that
/// of its place is.
fn alignment_of(view: &View) -> usize {
    let bytes = view.offset * view.dtype.bits() / 8;
    1 << bytes.trailing_zeros().min(4)
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        let axes = self.dims.iter().zip(&self.strides).enumerate();
        for (place, (size, stride)) in axes {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{size}:{stride}")?;
        }
        match self.store {
            Store::Memory { alignment, .. } => write!(f, "] align {alignment}"),
            Store::Virtual => write!(f, "]"),
            Store::Scalar(_) => write!(f, "] scalar"),
            Store::Number(_) => write!(f, "] number"),
            Store::Spare(_) => write!(f, "] spare"),
        }
    }
}

/// All that the library's choice of an engine can depend on, a line for each thing; not where
/// tensors lie, and not the values of scalars.
impl fmt::Display for GraphDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, tensor) in self.tensors.iter().enumerate() {
            writeln!(f, "t{number} = {tensor}")?;
        }
        for operation in &self.operations {
            writeln!(f, "{operation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Convolution {
                input,
                weight,
                output,
                stride,
                before,
                after,
            } => write!(
                f,
                "{output} = convolution {input} {weight} {stride:?} {before:?} {after:?}"
            ),
            Self::Product {
                left,
                right,
                output,
            } => write!(f, "{output} = product {left} {right}"),
            Self::Pointwise {
                function,
                operands,
                output,
                math,
            } => {
                write!(f, "{output} = {function:?} in {math}")?;
                operands
                    .iter()
                    .try_for_each(|operand| write!(f, " {operand}"))
            }
            Self::Reduce {
                reduction,
                input,
                output,
            } => write!(f, "{output} = {reduction:?} {input}"),
            Self::Attention {
                query,
                key,
                value,
                scale,
                output,
            } => write!(f, "{output} = attention {query} {key} {value} {scale}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_has_the_elements_of_its_view() {
        let product = View::contiguous(Place::Buffer(3), DType::BF16, &[2, 6, 96]);
        let keys = product.slice(2, 32, 64).reshape(&[2, 6, 4, 8]).unwrap();
        let tensor = Tensor::of_view(&keys.transpose(&[0, 2, 1, 3]));
        assert_eq!(tensor.dims, [2, 4, 6, 8]);
        assert_eq!(tensor.strides, [576, 8, 96, 1]);
        let store = Store::Memory {
            place: Place::Buffer(3),
            offset: 32,
            alignment: 16,
        };
        assert_eq!(tensor.store, store);
        assert_eq!(tensor.span(), 576 + 3 * 8 + 5 * 96 + 7 + 1);
        assert_eq!(tensor.clone().transposed().strides, [576, 8, 1, 96]);
    }

    #[test]
    fn what_repeats_has_size_one() {
        let bias = View::contiguous(Place::Buffer(0), DType::BF16, &[1, 4, 6, 6]);
        let tensor = Tensor::of_view(&bias.broadcast(&[2, 4, 6, 6]));
        assert_eq!(tensor.dims, [1, 4, 6, 6]);
        assert_eq!(tensor.strides, [144, 36, 6, 1]);
    }

    #[test]
    fn alignment_follows_the_offset() {
        let row = View::contiguous(Place::Buffer(0), DType::BF16, &[64]);
        for (start, alignment) in [(0, 16), (8, 16), (4, 8), (2, 4), (1, 2), (24, 16)] {
            let part = Tensor::of_view(&row.slice(0, start, 32));
            let Store::Memory {
                alignment: found, ..
            } = part.store
            else {
                panic!("a view is memory");
            };
            assert_eq!(found, alignment, "offset {start}");
        }
    }

    #[test]
    fn ids_are_never_zero() {
        assert_eq!(TensorId(0).unique(), 1);
    }
}
