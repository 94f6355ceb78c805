//! Convolution as one product with the patches of its operand.
//!
//! There is no strided slice: a stride splits an axis into `[size, stride]`, of which
//! the first position is taken. For that the operand is padded to a whole number of
//! strides; the zeros added meet no kernel.

use tintype_tensor::DType;

use super::{Decomposer, MAX_KERNEL, times};
use crate::{BinaryOp, Conv2d, Dim, Error, Op, Result, Value};

impl Decomposer<'_, '_, '_> {
    pub(super) fn conv2d(
        &mut self,
        attributes: &Conv2d,
        x: Value,
        weight: Value,
        bias: Option<Value>,
    ) -> Result<Value> {
        let types = [x, weight].map(|value| self.type_of(value).clone());
        let result = crate::infer(&Op::Conv2d(attributes.clone()), &types)?;
        let kernel = kernel_size(&types[1].dims)?;
        let out = [result.dims[2].clone(), result.dims[3].clone()];
        let padded = self.pad_for(attributes, kernel, &out, x)?;
        let patches = self.patches(attributes, kernel, &out, padded)?;
        let product = self.multiply_groups(attributes, weight, patches)?;
        let product = self.reshape(product, result.dims.clone())?;
        let Some(bias) = bias else {
            return Ok(product);
        };
        let per_channel = vec![result.dims[1].clone(), Dim::from(1), Dim::from(1)];
        let bias = self.reshape(bias, per_channel)?;
        self.binary(BinaryOp::Add, product, bias)
    }

    /// Zeros around height and width, at the end so many that whole strides follow each
    /// position of the kernel.
    fn pad_for(
        &mut self,
        attributes: &Conv2d,
        kernel: [i64; 2],
        out: &[Dim; 2],
        x: Value,
    ) -> Result<Value> {
        let [top, bottom, left, right] = attributes.padding;
        let mut x = x;
        for (i, (before, after)) in [(top, bottom), (left, right)].into_iter().enumerate() {
            let strides = times(&out[i], &Dim::from(attributes.stride[i]))?;
            let needed = strides.checked_add(&Dim::from(kernel[i] - 1));
            let present = self.dims(x)[2 + i].checked_add(&(Dim::from(before) + after));
            let missing = needed.zip(present).and_then(|(n, p)| n.checked_sub(&p));
            let missing = missing
                .as_ref()
                .and_then(Dim::as_constant)
                .and_then(|m| usize::try_from(m).ok());
            let Some(missing) = missing else {
                return unfit(format!(
                    "a stride of {} does not cut a symbolic size",
                    attributes.stride[i]
                ));
            };
            x = self.pad(x, 2 + i, before, after + missing)?;
        }
        Ok(x)
    }

    fn pad(&mut self, x: Value, axis: usize, before: usize, after: usize) -> Result<Value> {
        let mut parts = Vec::with_capacity(3);
        for (size, is_before) in [(before, true), (after, false)] {
            if !is_before {
                parts.push(x);
            }
            if size > 0 {
                let mut dims = self.dims(x);
                dims[axis] = Dim::from(size);
                let zero = self.rewriter.scalar(DType::F32, 0.0)?;
                parts.push(self.rewriter.op(Op::Broadcast { dims }, &[zero])?);
            }
        }
        self.concat(axis, &parts)
    }

    /// `[b, c, kh·kw, oh·ow]`: what each position of the kernel sees.
    fn patches(
        &mut self,
        attributes: &Conv2d,
        kernel: [i64; 2],
        out: &[Dim; 2],
        x: Value,
    ) -> Result<Value> {
        let dims = self.dims(x);
        let size = times(&out[0], &out[1])?;
        let shape = vec![dims[0].clone(), dims[1].clone(), Dim::from(1), size];
        let mut patches = Vec::new();
        for row in 0..kernel[0] {
            let rows = self.strided(x, 2, row, &out[0], attributes.stride[0])?;
            for column in 0..kernel[1] {
                let seen = self.strided(rows, 3, column, &out[1], attributes.stride[1])?;
                patches.push(self.reshape(seen, shape.clone())?);
            }
        }
        self.concat(2, &patches)
    }

    /// Positions `start, start + stride, …` of an axis, `count` of them.
    fn strided(
        &mut self,
        x: Value,
        axis: usize,
        start: i64,
        count: &Dim,
        stride: usize,
    ) -> Result<Value> {
        let length = times(count, &Dim::from(stride))?;
        let end = length.checked_add(&Dim::from(start));
        let end = end.ok_or_else(|| Error::Overflow(length.to_string()))?;
        let sliced = self.slice(x, axis, Dim::from(start), end)?;
        if stride == 1 {
            return Ok(sliced);
        }
        let mut dims = self.dims(x);
        dims[axis] = count.clone();
        let mut split = dims.clone();
        split.insert(axis + 1, Dim::from(stride));
        let split = self.reshape(sliced, split)?;
        let first = self.slice(split, axis + 1, Dim::from(0), Dim::from(1))?;
        self.reshape(first, dims)
    }

    /// `weight[g, o/g, c/g·k] · patches[b, g, c/g·k, oh·ow]`.
    fn multiply_groups(
        &mut self,
        attributes: &Conv2d,
        weight: Value,
        patches: Value,
    ) -> Result<Value> {
        let (w, p) = (self.dims(weight), self.dims(patches));
        let groups = Dim::from(attributes.groups);
        let depth = times(&w[1], &p[2])?;
        let Some(outputs) = w[0].div_exact(&groups) else {
            return unfit(format!("{groups} groups do not divide {} channels", w[0]));
        };
        let weight = self.reshape(weight, vec![groups.clone(), outputs, depth.clone()])?;
        let patches = self.reshape(patches, vec![p[0].clone(), groups, depth, p[3].clone()])?;
        self.rewriter.op(Op::MatMul, &[weight, patches])
    }
}

fn kernel_size(weight: &[Dim]) -> Result<[i64; 2]> {
    let size = weight[2].as_constant().zip(weight[3].as_constant());
    match size {
        Some((height, width)) if height.saturating_mul(width) <= MAX_KERNEL => Ok([height, width]),
        _ => unfit(format!(
            "expected a kernel of at most {MAX_KERNEL} positions, found {} x {}",
            weight[2], weight[3]
        )),
    }
}

fn unfit<T>(message: String) -> Result<T> {
    Err(Error::Type {
        op: "conv2d".to_owned(),
        message,
    })
}
