//! Where the scales of codes lie for the products that read them.
//!
//! ```ignore
//! let codes = lowering.codes(linear)?;
//! ```

use tintype_ir::{UnaryOp, Value};
use tintype_tensor::DType;

use super::Lowering;
use crate::plan::step::{Codes, Work};
use crate::{Expression, Instruction, Result, Store, View};

impl Lowering<'_> {
    /// What the codes that a linear layer reads mean, if it reads such.
    pub(super) fn codes(&mut self, node: usize) -> Result<Option<Codes>> {
        let Some(layer) = self.reads.layer(node) else {
            return Ok(None);
        };
        let [input, weight] = layer.scales;
        let scales = [self.scale(input)?, self.scale(weight)?];
        let output = match layer.output {
            Some(scale) => Some([self.scale(scale)?, self.reciprocals[&scale].clone()]),
            None => None,
        };
        Ok(Some(Codes {
            scales,
            output,
            dtype: layer.dtype,
        }))
    }

    /// One scale as a view without axes, one for each row as a vector.
    fn scale(&mut self, value: Value) -> Result<View> {
        let mut view = self.view(value)?;
        if !view.is_contiguous() {
            view = self.copy(&view, "")?;
        }
        let (shape, count) = ([view.count()], view.count());
        let flat = view.reshape(if count == 1 { &[] } else { &shape });
        Ok(flat.expect("what is contiguous can be reshaped"))
    }

    /// Computes 1 by each scale that a product or an attention divides by, before all else: there
    /// are libraries that multiply.
    pub(super) fn find_reciprocals(&mut self) -> Result<()> {
        for scales in self.reads.output_scales().chunks(MOST_RECIPROCALS) {
            let mut expression = Expression {
                domain: Vec::new(),
                row_axes: 0,
                instructions: Vec::new(),
                loads: Vec::new(),
                stores: Vec::new(),
            };
            for (place, &scale) in scales.iter().enumerate() {
                expression.loads.push(self.scale(scale)?);
                let reciprocal = Instruction::Unary(UnaryOp::Reciprocal, 2 * place);
                expression
                    .instructions
                    .extend([Instruction::Load(place), reciprocal]);
                let view = self.buffer(DType::F32, &[])?;
                self.reciprocals.insert(scale, view.clone());
                expression.stores.push(Store {
                    value: 2 * place + 1,
                    view,
                    scale: None,
                });
            }
            let name = "reciprocals".to_owned();
            self.push(String::new(), name, Work::Kernel(expression));
        }
        Ok(())
    }
}

/// As many as one kernel takes: two addresses each, of 4 KiB of arguments.
const MOST_RECIPROCALS: usize = 128;
