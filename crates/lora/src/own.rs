//! The parameters that overlays bring along: views of adapters' files, and scales.
//!
//! Nothing is copied: a view takes its rows from the mapped file when it is read.
//!
//! ```text
//! lora.style.transformer_blocks.0.attn.to_k.weight.B = rows D..2D of `…qkv.lora_up.weight`
//! ```

use std::collections::BTreeSet;

use tintype_tensor::{Shape, Tensor};
use tintype_weights::{Parameters, View};

use crate::{Adapter, Error, Result, Rows, Stored};

/// Collects the own parameters of all overlays of one model.
#[derive(Debug, Default)]
pub(crate) struct OwnParameters {
    names: BTreeSet<String>,
    views: Vec<Viewed>,
    scalars: Vec<(String, f32)>,
}

#[derive(Debug)]
struct Viewed {
    name: String,
    adapter: usize,
    key: String,
    view: View,
}

impl OwnParameters {
    /// Adds rows of a stored tensor; gives their shape.
    pub(crate) fn rows(
        &mut self,
        adapter: (usize, &Adapter),
        name: &str,
        stored: &Stored,
        rows: Option<Rows>,
    ) -> Result<Shape> {
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
        self.take_name(adapter.1, name)?;
        self.views.push(Viewed {
            name: name.to_owned(),
            adapter: adapter.0,
            key: stored.key.clone(),
            view,
        });
        Ok(Shape::from(shape))
    }

    /// Adds one number.
    pub(crate) fn scalar(&mut self, adapter: &Adapter, name: &str, value: f32) -> Result<()> {
        self.take_name(adapter, name)?;
        self.scalars.push((name.to_owned(), value));
        Ok(())
    }

    /// All of them, as parameters.
    pub(crate) fn build(self, adapters: &[Adapter]) -> Result<Parameters> {
        // No own name begins with a digit, so names of files never meet them.
        let in_file = |adapter: usize, key: &str| format!("{adapter}:{key}");
        let mut builder = Parameters::builder();
        for (index, adapter) in adapters.iter().enumerate() {
            let tensors = adapter.file().tensors();
            let renamed = tensors.renamed(|key| Some(in_file(index, key)))?;
            builder = builder.parameters(&renamed);
        }
        for viewed in self.views {
            let of = in_file(viewed.adapter, &viewed.key);
            builder = builder.view(viewed.name, of, viewed.view);
        }
        for (name, value) in self.scalars {
            builder = builder.tensor(name, Tensor::scalar(value));
        }
        let all = builder.build()?;
        Ok(all.renamed(|name| self.names.contains(name).then(|| name.to_owned()))?)
    }

    fn take_name(&mut self, adapter: &Adapter, name: &str) -> Result<()> {
        if self.names.insert(name.to_owned()) {
            return Ok(());
        }
        // `a` and `a.x_embedder` could both claim `lora.a.x_embedder.…`.
        let found = format!("`{name}` twice");
        let expected = "a name that is not the beginning of another adapter's";
        Err(Error::adapter(adapter.name(), expected, found))
    }
}
