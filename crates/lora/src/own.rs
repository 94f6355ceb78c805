//! The parameters that an adapter's overlays bring along: views of its file, and constants.
//!
//! Nothing is copied: a view takes its rows from the mapped file when it is read.
//!
//! ```text
//! lora.style.transformer_blocks.0.attn.to_k.weight.B = rows D..2D of `…qkv.lora_up.weight`
//! ```

use std::collections::BTreeMap;

use tintype_tensor::{Shape, Tensor};
use tintype_weights::{Parameters, View};

use crate::{Error, LoraFile, Result, Rows, Stored};

/// Collects the own parameters of one adapter, but for its scales.
#[derive(Debug, Default)]
pub(crate) struct OwnParameters {
    all: BTreeMap<String, Own>,
    /// A name that two updates claimed.
    twice: Option<String>,
}

#[derive(Debug)]
enum Own {
    /// A view of the tensor of this key.
    View {
        key: String,
        view: View,
    },
    Scalar(f32),
}

impl OwnParameters {
    /// Notes rows of a stored tensor; gives their shape.
    pub(crate) fn rows(&mut self, name: &str, stored: &Stored, rows: Option<Rows>) -> Shape {
        let mut shape = stored.shape.to_vec();
        let view = match rows {
            Some(Rows { swapped: true, .. }) => View::SwapHalves,
            Some(Rows { start, end, .. }) => {
                shape[0] = end - start;
                View::Rows { start, end }
            }
            None => View::Rows {
                start: 0,
                end: shape[0],
            },
        };
        let key = stored.key.clone();
        self.take(name, Own::View { key, view });
        Shape::from(shape)
    }

    /// Notes one number.
    pub(crate) fn scalar(&mut self, name: &str, value: f32) {
        self.take(name, Own::Scalar(value));
    }

    /// All of them, as parameters; an error if two updates of `adapter` claim one name.
    pub(crate) fn build(self, adapter: &str, file: &LoraFile) -> Result<Parameters> {
        if let Some(name) = &self.twice {
            let expected = "parameters whose names are not the beginning of others";
            return Err(Error::adapter(adapter, expected, format!("`{name}` twice")));
        }
        // No own name begins so, and names of files never meet them.
        let in_file = |key: &str| format!(":{key}");
        let tensors = file.tensors().renamed(|key| Some(in_file(key)))?;
        let mut builder = Parameters::builder().parameters(&tensors);
        for (name, own) in &self.all {
            builder = match own {
                Own::View { key, view } => builder.view(name, in_file(key), view.clone()),
                Own::Scalar(value) => builder.tensor(name, Tensor::scalar(*value)),
            };
        }
        let is_own = |name: &str| self.all.contains_key(name).then(|| name.to_owned());
        Ok(builder.build()?.renamed(is_own)?)
    }

    fn take(&mut self, name: &str, own: Own) {
        if self.all.insert(name.to_owned(), own).is_some() {
            self.twice = Some(name.to_owned());
        }
    }
}
