//! Layers that compute.

use tintype_tensor::DType;
use tintype_tensorrt_sys::{
    AttentionNormalizationOp, CausalMaskKind, DataType, Dims, ILayer, InterpolationMode,
    MatrixOperation, ResizeCoordinateTransformation, ResizeRoundMode, Weights,
};

use super::{Activation, ElementWise, Network, Reduction, Unary, Value};
use crate::Result;
use crate::calls::name;
use crate::dtype::to_library;

/// What a normalization is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormalizationOptions {
    /// Bit `i` stands for axis `i`.
    pub axes: u32,
    /// Groups that the channels (axis 1) fall into; 1 for none.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

/// How a convolution goes over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvolutionOptions {
    /// Channels of the result.
    pub maps: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Step along height and width.
    pub stride: [usize; 2],
    /// Zeros added at top, bottom, left, right.
    pub padding: [usize; 4],
    /// Groups of channels.
    pub groups: usize,
}

/// What an attention does beside the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttentionOptions {
    /// Whether a query sees no later key. Not together with a mask.
    pub causal: bool,
    /// Whether several kernels may do the work of one.
    pub decomposable: bool,
    /// Whether probabilities are rounded to f8 before they are multiplied with values.
    pub quantized: bool,
}

impl Network<'_> {
    /// One operand, element by element.
    ///
    /// # Errors
    /// What the library says.
    pub fn unary(&self, operation: Unary, x: Value<'_>) -> Result<Value<'_>> {
        let x = self.tensor(x)?;
        // SAFETY: network and tensor are alive.
        self.layer(operation.name(), |network| unsafe {
            network.add_unary(x, operation.raw())
        })
    }

    /// An activation; `alpha` and `beta` are the bounds of [`Activation::Clip`].
    ///
    /// # Errors
    /// What the library says.
    pub fn activation(
        &self,
        activation: Activation,
        x: Value<'_>,
        alpha: f32,
        beta: f32,
    ) -> Result<Value<'_>> {
        let x = self.tensor(x)?;
        self.layer(activation.name(), |network| {
            // SAFETY: network, tensor and layer are alive.
            unsafe {
                let layer = network.add_activation(x, activation.raw())?;
                if let (Some(layer), Activation::Clip) = (layer, activation) {
                    layer.set_alpha(alpha)?;
                    layer.set_beta(beta)?;
                }
                Ok(layer)
            }
        })
    }

    /// Two operands of one rank and dtype, element by element; sizes 1 are repeated.
    ///
    /// # Errors
    /// What the library says.
    pub fn elementwise(
        &self,
        operation: ElementWise,
        a: Value<'_>,
        b: Value<'_>,
    ) -> Result<Value<'_>> {
        let (a, b) = (self.tensor(a)?, self.tensor(b)?);
        self.layer(operation.name(), |network| {
            // SAFETY: network and tensors are alive.
            unsafe { network.add_element_wise(a, b, operation.raw()) }
        })
    }

    /// `condition ? a : b`, element by element, of one rank.
    ///
    /// # Errors
    /// What the library says.
    pub fn select(&self, condition: Value<'_>, a: Value<'_>, b: Value<'_>) -> Result<Value<'_>> {
        let (condition, a, b) = (self.tensor(condition)?, self.tensor(a)?, self.tensor(b)?);
        // SAFETY: network and tensors are alive.
        self.layer("select", |network| unsafe {
            network.add_select(condition, a, b)
        })
    }

    /// The same values in another dtype.
    ///
    /// # Errors
    /// What the library says.
    pub fn cast(&self, x: Value<'_>, dtype: DType) -> Result<Value<'_>> {
        let (x, dtype) = (self.tensor(x)?, to_library(dtype)?);
        // SAFETY: network and tensor are alive.
        self.layer("cast", |network| unsafe { network.add_cast(x, dtype) })
    }

    /// The same tensor under another name.
    ///
    /// # Errors
    /// What the library says.
    pub fn identity(&self, x: Value<'_>) -> Result<Value<'_>> {
        let x = self.tensor(x)?;
        // SAFETY: network and tensor are alive.
        self.layer("identity", |network| unsafe { network.add_identity(x) })
    }

    /// A reduction over the axes whose bits are set; they stay with size 1.
    ///
    /// # Errors
    /// What the library says.
    pub fn reduce(&self, operation: Reduction, x: Value<'_>, axes: u32) -> Result<Value<'_>> {
        let x = self.tensor(x)?;
        self.layer(operation.name(), |network| {
            // SAFETY: network and tensor are alive.
            unsafe { network.add_reduce(x, operation.raw(), axes, true) }
        })
    }

    /// `a · b` over the last two axes, either turned before; outer sizes 1 are repeated.
    ///
    /// # Errors
    /// What the library says.
    pub fn matrix_multiply(
        &self,
        [a, b]: [Value<'_>; 2],
        transposed: [bool; 2],
    ) -> Result<Value<'_>> {
        let (a, b) = (self.tensor(a)?, self.tensor(b)?);
        let [of_a, of_b] = transposed.map(|transposed| {
            if transposed {
                MatrixOperation::TRANSPOSE
            } else {
                MatrixOperation::NONE
            }
        });
        self.layer("matrix_multiply", |network| {
            // SAFETY: network and tensors are alive.
            unsafe { network.add_matrix_multiply(a, of_a, b, of_b) }
        })
    }

    /// Softmax over one axis.
    ///
    /// # Errors
    /// What the library says.
    pub fn softmax(&self, x: Value<'_>, axis: usize) -> Result<Value<'_>> {
        let x = self.tensor(x)?;
        self.layer("softmax", |network| {
            // SAFETY: network, tensor and layer are alive.
            unsafe {
                let layer = network.add_soft_max(x)?;
                if let Some(layer) = layer {
                    layer.set_axes(1 << axis)?;
                }
                Ok(layer)
            }
        })
    }

    /// `(x − mean) / √(variance + ε) · scale + bias`; scale and bias have the rank of `x`.
    ///
    /// # Errors
    /// What the library says.
    pub fn normalization(
        &self,
        [x, scale, bias]: [Value<'_>; 3],
        options: &NormalizationOptions,
    ) -> Result<Value<'_>> {
        let (x, scale, bias) = (self.tensor(x)?, self.tensor(scale)?, self.tensor(bias)?);
        self.layer("normalization", |network| {
            // SAFETY: network, tensors and layer are alive.
            unsafe {
                let layer = network.add_normalization_v2(x, scale, bias, options.axes)?;
                if let Some(layer) = layer {
                    layer.set_epsilon(options.epsilon)?;
                    if options.groups > 1 {
                        layer.set_nb_groups(options.groups as i64)?;
                    }
                }
                Ok(layer)
            }
        })
    }

    /// Convolution of `x[b, c, h, w]`; kernel and bias are constants.
    ///
    /// # Errors
    /// What the library says.
    pub fn convolution(
        &self,
        x: Value<'_>,
        kernel: Value<'_>,
        bias: Option<Value<'_>>,
        options: &ConvolutionOptions,
    ) -> Result<Value<'_>> {
        let (x, kernel) = (self.tensor(x)?, self.tensor(kernel)?);
        let bias = bias.map(|bias| self.tensor(bias)).transpose()?;
        let pair = |a: usize, b: usize| Dims::new(&[a as i64, b as i64]);
        let (window, stride) = (
            pair(options.kernel[0], options.kernel[1])?,
            pair(options.stride[0], options.stride[1])?,
        );
        let [top, bottom, left, right] = options.padding;
        let (before, after) = (pair(top, left)?, pair(bottom, right)?);
        let none = Weights::none(DataType::FLOAT);
        self.layer("convolution", |network| {
            // SAFETY: network, tensors and layer are alive; no weights are given here.
            unsafe {
                let maps = options.maps as i64;
                let layer = network.add_convolution_nd(x, maps, &window, none, none)?;
                if let Some(layer) = layer {
                    ILayer::from(layer).set_input(1, kernel)?;
                    if let Some(bias) = bias {
                        ILayer::from(layer).set_input(2, bias)?;
                    }
                    layer.set_stride_nd(&stride)?;
                    layer.set_pre_padding(&before)?;
                    layer.set_post_padding(&after)?;
                    layer.set_nb_groups(options.groups as i64)?;
                }
                Ok(layer)
            }
        })
    }

    /// Each element repeated along each axis as often as `scales` says.
    ///
    /// # Errors
    /// What the library says.
    pub fn resize_nearest(&self, x: Value<'_>, scales: &[f32]) -> Result<Value<'_>> {
        let x = self.tensor(x)?;
        self.layer("resize", |network| {
            // SAFETY: network, tensor and layer are alive, and the scales outlive the call.
            unsafe {
                let layer = network.add_resize(x)?;
                if let Some(layer) = layer {
                    layer.set_resize_mode(InterpolationMode::NEAREST)?;
                    layer.set_coordinate_transformation(
                        ResizeCoordinateTransformation::ASYMMETRIC,
                    )?;
                    layer.set_nearest_rounding(ResizeRoundMode::FLOOR)?;
                    layer.set_scales(scales.as_ptr(), scales.len() as i32)?;
                }
                Ok(layer)
            }
        })
    }

    /// Interleaved pairs of `x[b, h, s, d]` turned by `cosine` and `sine` `[b, s, d/2]`.
    ///
    /// # Errors
    /// What the library says.
    pub fn rotary_embedding(
        &self,
        x: Value<'_>,
        cosine: Value<'_>,
        sine: Value<'_>,
    ) -> Result<Value<'_>> {
        let (x, cosine, sine) = (self.tensor(x)?, self.tensor(cosine)?, self.tensor(sine)?);
        self.layer("rotary_embedding", |network| {
            // SAFETY: network and tensors are alive.
            unsafe { network.add_rotary_embedding(x, cosine, sine, true, 0) }
        })
    }

    /// `softmax(q·kᵀ + mask) · v` for `[b, h, s, d]` operands of one dtype. It has its name from
    /// here, since it is several layers. Where it is quantized, the scale of its probabilities
    /// comes last: one f32.
    ///
    /// # Errors
    /// What the library says.
    pub fn attention(
        &self,
        attention_name: &str,
        [q, k, v]: [Value<'_>; 3],
        [mask, scale]: [Option<Value<'_>>; 2],
        options: AttentionOptions,
    ) -> Result<Value<'_>> {
        let (q, k, v) = (self.tensor(q)?, self.tensor(k)?, self.tensor(v)?);
        let mask = mask.map(|mask| self.tensor(mask)).transpose()?;
        let causal = if options.causal {
            CausalMaskKind::UPPER_LEFT
        } else {
            CausalMaskKind::NONE
        };
        let softmax = AttentionNormalizationOp::SOFTMAX;
        let attention = self.calls().object("adding attention", || {
            // SAFETY: network and tensors are alive.
            unsafe { self.raw().add_attention_v2(q, k, v, softmax, causal) }
        })?;
        if let Some(mask) = mask {
            self.calls().done("setting a mask", || {
                // SAFETY: attention and tensor are alive.
                unsafe { attention.set_mask(mask) }
            })?;
        }
        if let Some(scale) = scale {
            let scale = self.tensor(scale)?;
            self.calls().done("setting a scale of probabilities", || {
                // SAFETY: attention and tensor are alive.
                unsafe {
                    Ok::<_, tintype_tensorrt_sys::Error>(
                        attention.set_normalization_quantize_scale(scale)?
                            && attention.set_normalization_quantize_to_type(DataType::FP8)?,
                    )
                }
            })?;
        }
        self.calls().done("making an attention decomposable", || {
            // SAFETY: the attention is alive.
            unsafe { attention.set_decomposable(options.decomposable) }
        })?;
        let text = name(attention_name)?;
        self.calls().done("naming an attention", || {
            // SAFETY: the attention is alive, and the text outlives the call.
            unsafe { attention.set_name(text.as_ptr()) }
        })?;
        let tensor = self
            .calls()
            .object("asking for the output of an attention", || {
                // SAFETY: the attention is alive.
                unsafe { attention.get_output(0) }
            })?;
        Ok(self.value(tensor))
    }

    /// `x / scale` rounded to a dtype of 8 bits, saturating. `axis` is that of a scale of
    /// several values.
    ///
    /// # Errors
    /// What the library says.
    pub fn quantize(
        &self,
        x: Value<'_>,
        scale: Value<'_>,
        dtype: DType,
        axis: Option<usize>,
    ) -> Result<Value<'_>> {
        let (x, scale, dtype) = (self.tensor(x)?, self.tensor(scale)?, to_library(dtype)?);
        self.layer("quantize", |network| {
            // SAFETY: network, tensors and layer are alive.
            unsafe {
                let layer = network.add_quantize_v2(x, scale, dtype)?;
                if let (Some(layer), Some(axis)) = (layer, axis) {
                    layer.set_axis(axis as i32)?;
                }
                Ok(layer)
            }
        })
    }

    /// `x · scale` in a float dtype, of an `x` of 8 bits.
    ///
    /// # Errors
    /// What the library says.
    pub fn dequantize(
        &self,
        x: Value<'_>,
        scale: Value<'_>,
        dtype: DType,
        axis: Option<usize>,
    ) -> Result<Value<'_>> {
        let (x, scale, dtype) = (self.tensor(x)?, self.tensor(scale)?, to_library(dtype)?);
        self.layer("dequantize", |network| {
            // SAFETY: network, tensors and layer are alive.
            unsafe {
                let layer = network.add_dequantize_v2(x, scale, dtype)?;
                if let (Some(layer), Some(axis)) = (layer, axis) {
                    layer.set_axis(axis as i32)?;
                }
                Ok(layer)
            }
        })
    }
}
