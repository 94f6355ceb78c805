//! Layers that move values: other dimensions, other places. Sizes that are known at run time are
//! given as *size tensors*, `i64[n]`, which the library computes on the host.

use tintype_tensor::DType;
use tintype_tensorrt_sys::{Dims, FillOperation, GatherMode, ILayer, Permutation};

use super::{Network, Value};
use crate::Result;
use crate::dtype::to_library;

impl Network<'_> {
    /// The axes in another order: result axis `i` is operand axis `permutation[i]`.
    ///
    /// # Errors
    /// What the library says.
    pub fn transpose(&self, x: Value<'_>, permutation: &[usize]) -> Result<Value<'_>> {
        let (x, permutation) = (self.tensor(x)?, Permutation::new(permutation)?);
        self.layer("transpose", |network| {
            // SAFETY: network, tensor and layer are alive.
            unsafe {
                let layer = network.add_shuffle(x)?;
                if let Some(layer) = layer {
                    layer.set_first_transpose(&permutation)?;
                }
                Ok(layer)
            }
        })
    }

    /// The same elements under other sizes: 0 stands for the size of the operand's axis of the
    /// same number, one -1 for what is left.
    ///
    /// # Errors
    /// What the library says.
    pub fn reshape(&self, x: Value<'_>, sizes: &[i64]) -> Result<Value<'_>> {
        let (x, dims) = (self.tensor(x)?, Dims::new(sizes)?);
        self.layer("reshape", |network| {
            // SAFETY: network, tensor and layer are alive.
            unsafe {
                let layer = network.add_shuffle(x)?;
                if let Some(layer) = layer {
                    layer.set_reshape_dimensions(&dims)?;
                }
                Ok(layer)
            }
        })
    }

    /// The same elements under sizes given by a size tensor.
    ///
    /// # Errors
    /// What the library says.
    pub fn reshape_to(&self, x: Value<'_>, sizes: Value<'_>) -> Result<Value<'_>> {
        let (x, sizes) = (self.tensor(x)?, self.tensor(sizes)?);
        self.layer("reshape", |network| {
            // SAFETY: network, tensors and layer are alive.
            unsafe {
                let layer = network.add_shuffle(x)?;
                if let Some(layer) = layer {
                    layer.set_zero_is_placeholder(false)?;
                    ILayer::from(layer).set_input(1, sizes)?;
                }
                Ok(layer)
            }
        })
    }

    /// Positions `start, start + stride, …` along each axis, `size` of them; a stride of 0
    /// repeats. `starts` and `sizes` are size tensors that stand for `start` and `size`.
    ///
    /// # Errors
    /// What the library says.
    pub fn slice(
        &self,
        x: Value<'_>,
        [start, size, stride]: [&[i64]; 3],
        starts: Option<Value<'_>>,
        sizes: Option<Value<'_>>,
    ) -> Result<Value<'_>> {
        let x = self.tensor(x)?;
        let starts = starts.map(|starts| self.tensor(starts)).transpose()?;
        let sizes = sizes.map(|sizes| self.tensor(sizes)).transpose()?;
        let (start, size, stride) = (Dims::new(start)?, Dims::new(size)?, Dims::new(stride)?);
        self.layer("slice", |network| {
            // SAFETY: network, tensors and layer are alive.
            unsafe {
                let layer = network.add_slice(x, &start, &size, &stride)?;
                if let Some(layer) = layer {
                    let layer = ILayer::from(layer);
                    starts
                        .map(|starts| layer.set_input(1, starts))
                        .transpose()?;
                    sizes.map(|sizes| layer.set_input(2, sizes)).transpose()?;
                }
                Ok(layer)
            }
        })
    }

    /// Operands one after another along an axis.
    ///
    /// # Errors
    /// What the library says.
    pub fn concatenate(&self, parts: &[Value<'_>], axis: usize) -> Result<Value<'_>> {
        let parts: Result<Vec<_>> = parts
            .iter()
            .map(|&part| Ok(tintype_tensorrt_sys::Interface::as_ptr(self.tensor(part)?)))
            .collect();
        let parts = parts?;
        self.layer("concatenation", |network| {
            // SAFETY: network, tensors and layer are alive; the list outlives the call.
            unsafe {
                let layer = network.add_concatenation(parts.as_ptr(), parts.len() as i32)?;
                if let Some(layer) = layer {
                    layer.set_axis(axis as i32)?;
                }
                Ok(layer)
            }
        })
    }

    /// `table[…, indices, …]` along an axis. With `elementwise` of 1, axis 0 of both goes along:
    /// row `i` is looked up in `table[i]`.
    ///
    /// # Errors
    /// What the library says.
    pub fn gather(
        &self,
        table: Value<'_>,
        indices: Value<'_>,
        axis: usize,
        elementwise: usize,
    ) -> Result<Value<'_>> {
        let (table, indices) = (self.tensor(table)?, self.tensor(indices)?);
        self.layer("gather", |network| {
            // SAFETY: network, tensors and layer are alive.
            unsafe {
                let layer = network.add_gather_v2(table, indices, GatherMode::DEFAULT)?;
                if let Some(layer) = layer {
                    layer.set_gather_axis(axis as i32)?;
                    layer.set_nb_element_wise_dims(elementwise as i32)?;
                }
                Ok(layer)
            }
        })
    }

    /// The numbers 0, 1, … of f32, i32 or i64; `sizes` is a size tensor that stands for `count`.
    ///
    /// # Errors
    /// What the library says.
    pub fn count_up(
        &self,
        dtype: DType,
        count: i64,
        sizes: Option<Value<'_>>,
    ) -> Result<Value<'_>> {
        let (raw, dims) = (to_library(dtype)?, Dims::new(&[count])?);
        let sizes = sizes.map(|sizes| self.tensor(sizes)).transpose()?;
        self.layer("fill", |network| {
            // SAFETY: network, tensors and layer are alive.
            unsafe {
                let layer = network.add_fill_v2(&dims, FillOperation::LINSPACE, raw)?;
                if let Some(layer) = layer {
                    sizes
                        .map(|sizes| ILayer::from(layer).set_input(0, sizes))
                        .transpose()?;
                    if dtype.is_float() {
                        layer.set_alpha(0.0)?;
                        layer.set_beta(1.0)?;
                    } else {
                        layer.set_alpha_int64(0)?;
                        layer.set_beta_int64(1)?;
                    }
                }
                Ok(layer)
            }
        })
    }

    /// The sizes of a tensor as a size tensor.
    ///
    /// # Errors
    /// What the library says.
    pub fn shape_of(&self, x: Value<'_>) -> Result<Value<'_>> {
        let x = self.tensor(x)?;
        // SAFETY: network and tensor are alive.
        self.layer("shape", |network| unsafe { network.add_shape(x) })
    }
}
