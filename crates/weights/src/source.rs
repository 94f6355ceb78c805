//! Where a parameter's values come from: a file or memory, through views and a scale.
//!
//! A source is checked when it is made and reads when it is asked to. It has no
//! name and no generation: those are the entry's.
//!
//! ```text
//! ae.safetensors "decoder.mid.attn_1.q.weight" → reshape [512, 512]
//! ```

use tintype_tensor::{DType, Error as TensorError, Shape, Tensor};

use crate::{Error, Result, SafetensorsFile, View};

/// A tensor with views and a scale that are applied when it is read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    base: Base,
    scale: Option<Base>,
    views: Vec<View>,
    shape: Shape,
}

/// A whole stored tensor.
#[derive(Debug, Clone)]
pub(crate) enum Base {
    File { file: SafetensorsFile, name: String },
    Memory(Tensor),
}

impl Source {
    pub(crate) fn new(base: Base) -> Self {
        Self {
            shape: base.shape(),
            scale: None,
            views: Vec::new(),
            base,
        }
    }

    /// Multiplied on read by `scale`: one value, or one for each row.
    pub(crate) fn scaled(self, scale: Base) -> Result<Self, TensorError> {
        let count = scale.shape().checked_len()?;
        let rows = self.shape.first().copied().unwrap_or(1);
        if !self.views.is_empty() || (count != 1 && count != rows) {
            return Err(TensorError::Shape {
                expected: Shape::from([rows]),
                found: scale.shape(),
            });
        }
        Ok(Self {
            scale: Some(scale),
            ..self
        })
    }

    pub(crate) fn viewed(&self, view: View) -> Result<Self, TensorError> {
        // A dtype that cannot be read is refused when it is read.
        let shape = view.shape(self.dtype().unwrap_or(DType::U8), &self.shape)?;
        let mut source = self.clone();
        source.views.push(view);
        source.shape = shape;
        Ok(source)
    }

    pub(crate) fn base(&self) -> &Base {
        &self.base
    }

    pub(crate) fn scale(&self) -> Option<&Base> {
        self.scale.as_ref()
    }

    pub(crate) fn views(&self) -> &[View] {
        &self.views
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The dtype in which it is read: a scaled tensor as f32.
    pub(crate) fn dtype(&self) -> Result<DType> {
        let dtype = self.base.dtype()?;
        Ok(if self.scale.is_some() {
            DType::F32
        } else {
            dtype
        })
    }

    pub(crate) fn read(&self, name: &str) -> Result<Tensor> {
        let wrong = |source| self.base.value_error(name, source);
        let mut tensor = self.base.read()?;
        for view in &self.views {
            tensor = view.apply(&tensor).map_err(wrong)?;
        }
        match &self.scale {
            Some(scale) => self.multiply(&tensor, &scale.read()?).map_err(wrong),
            None => Ok(tensor),
        }
    }

    /// What the codes of 8 bits are multiplied with: f32 `[1]`, 1 if nothing is said, or one for
    /// each row; `None` for another dtype.
    pub(crate) fn f8_scale(&self, name: &str) -> Result<Option<Tensor>> {
        if self.base.dtype()? != DType::F8E4M3 {
            return Ok(None);
        }
        let wrong = |source| self.base.value_error(name, source);
        let scales = match &self.scale {
            Some(scale) => self.scales(&scale.read()?).map_err(wrong)?,
            None => vec![1.0],
        };
        Tensor::from_f32([scales.len()], scales)
            .map(Some)
            .map_err(wrong)
    }

    /// One scale, or one for each row, which then gets the views of the rows.
    fn scales(&self, scale: &Tensor) -> Result<Vec<f32>, TensorError> {
        let mut scales = scale.reshape([scale.element_count()])?;
        if scales.element_count() != 1 {
            for view in &self.views {
                if !matches!(view, View::Reshape(_)) {
                    scales = view.apply(&scales)?;
                }
            }
        }
        scales.to_f32_vec()
    }

    /// `tensor` has its views already.
    fn multiply(&self, tensor: &Tensor, scale: &Tensor) -> Result<Tensor, TensorError> {
        let scales = self.scales(scale)?;
        let mut values = tensor.to_f32_vec()?;
        let row_len = values.len().checked_div(scales.len()).unwrap_or(0).max(1);
        for (row, scale) in values.chunks_mut(row_len).zip(&scales) {
            for value in row {
                *value *= scale;
            }
        }
        Tensor::from_f32(tensor.shape().clone(), values)
    }
}

impl Base {
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::File { file, name } => {
                let entry = file
                    .entry(name)
                    .expect("a source names a tensor of its file");
                entry.shape.clone()
            }
            Self::Memory(tensor) => tensor.shape().clone(),
        }
    }

    pub(crate) fn dtype(&self) -> Result<DType> {
        match self {
            Self::Memory(tensor) => Ok(tensor.dtype()),
            Self::File { file, name } => {
                let entry = file
                    .entry(name)
                    .expect("a source names a tensor of its file");
                entry
                    .dtype
                    .read_as()
                    .ok_or_else(|| Error::UnsupportedDType {
                        file: file.path().to_owned(),
                        tensor: crate::error::shown(name),
                        dtype: entry.dtype.name(),
                    })
            }
        }
    }

    fn read(&self) -> Result<Tensor> {
        match self {
            Self::File { file, name } => file.tensor(name),
            Self::Memory(tensor) => Ok(tensor.clone()),
        }
    }

    /// The file's path, or `memory`, for messages.
    pub(crate) fn origin(&self) -> String {
        match self {
            Self::File { file, .. } => file.path().display().to_string(),
            Self::Memory(_) => "memory".to_owned(),
        }
    }

    pub(crate) fn value_error(&self, name: &str, source: TensorError) -> Error {
        Error::Value {
            origin: self.origin(),
            tensor: crate::error::shown(name),
            source,
        }
    }
}
