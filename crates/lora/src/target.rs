//! What a file says about one parameter of a model.
//!
//! Shapes and names only; tensors stay where they are until a weight program
//! reads them.
//!
//! ```text
//! lora_unet_double_blocks_0_img_attn_qkv.{lora_down.weight, lora_up.weight, alpha}
//!   → transformer_blocks.0.attn.to_k.weight += alpha/rank · up[D..2D] · down
//! ```

use tintype_tensor::Shape;

use crate::{Component, Rows};

/// An update of one parameter.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoraTarget {
    /// The model that has the parameter.
    pub component: Component,
    /// diffusers' name of the parameter, such as `transformer_blocks.0.attn.to_q.weight`.
    pub parameter: String,
    /// What is done to it.
    pub update: Update,
    /// The rows of the stored matrices that belong to this parameter.
    pub rows: Rows,
    /// alpha / rank, with which the update is multiplied besides the scale.
    pub factor: f32,
    /// `DoRA`'s lengths of rows, `[rows]` or `[rows, 1]`, or of columns, `[1, columns]`.
    pub magnitude: Option<Stored>,
    /// The names in the file that say all this.
    pub keys: Vec<String>,
}

impl LoraTarget {
    /// The number of the block that the parameter belongs to, if it belongs to one.
    ///
    /// Lets scales differ from block to block, as in [`crate::Adapter::with_scales`].
    pub fn block(&self) -> Option<usize> {
        self.parameter.split('.').find_map(|part| part.parse().ok())
    }

    /// The rank of a low-rank update.
    pub fn rank(&self) -> Option<usize> {
        match &self.update {
            Update::LowRank { down, .. } => Some(down.shape[0]),
            _ => None,
        }
    }

    /// The shape that the parameter must have.
    pub fn shape(&self) -> Shape {
        match self.update.columns() {
            Some(columns) => Shape::from([self.rows.len(), columns]),
            None => Shape::from([self.rows.len()]),
        }
    }

    /// The stored tensor that decides the number of rows, for messages.
    pub(crate) fn row_tensor(&self) -> &Stored {
        match &self.update {
            Update::LowRank { up, .. } => up,
            Update::Hadamard { first, .. } => &first.up,
            Update::Kronecker { right, .. } => right.tensor(),
            Update::Difference { values } | Update::Replacement { values } => values,
        }
    }

    /// The stored tensor that decides the number of columns, for messages.
    pub(crate) fn column_tensor(&self) -> &Stored {
        match &self.update {
            Update::LowRank { down, .. } => down,
            Update::Hadamard { first, .. } => &first.down,
            _ => self.row_tensor(),
        }
    }
}

/// What is done to a parameter.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Update {
    /// Adds `up · down`.
    LowRank {
        /// `[rank, columns]`
        down: Stored,
        /// `[stored rows, rank]`
        up: Stored,
    },
    /// `LoHa`: adds the product of two products, element by element.
    Hadamard {
        /// The first product.
        first: Pair,
        /// The second product.
        second: Pair,
    },
    /// `LoKr`: adds the Kronecker product of two matrices.
    Kronecker {
        /// The matrix whose elements are replaced by multiples of the other.
        left: Factor,
        /// The matrix that is repeated.
        right: Factor,
    },
    /// Adds values of the parameter's own shape.
    Difference {
        /// `[stored rows, columns]`, or `[stored rows]` for a bias or norm.
        values: Stored,
    },
    /// Takes the parameter's place, whatever the scale.
    Replacement {
        /// `[stored rows]`
        values: Stored,
    },
}

impl Update {
    /// The number of columns; `None` for an update of a vector.
    pub(crate) fn columns(&self) -> Option<usize> {
        match self {
            Self::LowRank { down, .. } => Some(down.shape[1]),
            Self::Hadamard { first, .. } => Some(first.down.shape[1]),
            Self::Kronecker { left, right } => Some(left.shape()[1] * right.shape()[1]),
            Self::Difference { values } | Self::Replacement { values } => {
                values.shape.get(1).copied()
            }
        }
    }

    /// The name of the kind, as people know it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::LowRank { .. } => "LoRA",
            Self::Hadamard { .. } => "LoHa",
            Self::Kronecker { .. } => "LoKr",
            Self::Difference { .. } => "difference",
            Self::Replacement { .. } => "replacement",
        }
    }
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// Its name in the file.
    pub key: String,
    /// Its shape, without trailing axes of size 1 that a 1×1 convolution has.
    pub shape: Shape,
}

/// Two matrices to be multiplied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pair {
    /// `[rows, rank]`
    pub up: Stored,
    /// `[rank, columns]`
    pub down: Stored,
}

/// A matrix that is stored whole or as a product.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Factor {
    /// `[rows, columns]`
    Whole(Stored),
    /// The product of a pair.
    Product(Pair),
}

impl Factor {
    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Whole(stored) => [stored.shape[0], stored.shape[1]],
            Self::Product(pair) => [pair.up.shape[0], pair.down.shape[1]],
        }
    }

    pub(crate) fn tensor(&self) -> &Stored {
        match self {
            Self::Whole(stored) => stored,
            Self::Product(pair) => &pair.up,
        }
    }
}
