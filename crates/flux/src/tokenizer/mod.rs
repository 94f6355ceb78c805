//! The tokenizers of FLUX: CLIP's byte-level BPE and T5's unigram pieces.
//!
//! Both rebuild what transformers' `CLIPTokenizer` and `T5Tokenizer` build from
//! the same files, and give the same ids. Only vocabulary, merges, scores,
//! character map and special tokens are taken from a file; how text is
//! normalised and split is fixed here, as it is there. No file is handed to the
//! `tokenizers` crate before it is checked, so a bad one is an error and no panic.
//!
//! ```no_run
//! use tintype_flux::ModelFiles;
//! use tintype_flux::tokenizer::ClipTokenizer;
//!
//! let tokenizer = ClipTokenizer::from_files(&ModelFiles::folder("flux/tokenizer"))?;
//! let encoding = tokenizer.encode("a red fox", tokenizer.model_max_length())?;
//! assert_eq!(encoding.ids.len(), 77);
//! assert!(encoding.truncated.is_none());
//! # Ok::<(), tintype_flux::Error>(())
//! ```

mod backend;
mod charsmap;
mod clip;
pub mod sentencepiece;
mod settings;
mod t5;

pub use clip::{ClipFiles, ClipTokenizer};
pub use t5::{T5Files, T5Tokenizer};

/// A text as the ids that a text encoder takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Ids, padded or cut to the length that was asked for.
    pub ids: Vec<i64>,
    /// The position of the first end token.
    pub eos_index: usize,
    /// How many of the ids are no padding.
    pub token_count: usize,
    /// The end of the text that did not fit, if any: worth a warning.
    pub truncated: Option<String>,
}

impl Encoding {
    /// The position of the first of the highest ids: the row that CLIP pools
    /// where its configuration has the historic `eos_token_id` of 2.
    pub fn highest_id_index(&self) -> usize {
        let highest = self.ids.iter().max();
        self.ids
            .iter()
            .position(|id| Some(id) == highest)
            .unwrap_or(0)
    }
}
