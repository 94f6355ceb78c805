//! A reader of `spiece.model`: pieces, scores and the character map of a sentencepiece model.
//!
//! The file is one protobuf message. Only the fields that a unigram tokenizer
//! needs are read; training parameters and self tests are skipped. It does not
//! tokenize.
//!
//! ```
//! use std::path::Path;
//! use tintype_flux::tokenizer::sentencepiece::{PieceKind, SentencePieceModel};
//!
//! // One piece, "a" with score 0.
//! let bytes = b"\x0a\x08\x0a\x01a\x15\x00\x00\x00\x00";
//! let model = SentencePieceModel::parse(bytes, Path::new("spiece.model"))?;
//! assert_eq!(model.pieces[0].text, "a");
//! assert_eq!(model.pieces[0].kind, PieceKind::Normal);
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use std::path::Path;

use super::settings::check_content;
use crate::{Error, Result};

/// What a unigram tokenizer needs of a sentencepiece model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SentencePieceModel {
    /// The pieces; a piece's id is its index.
    pub pieces: Vec<Piece>,
    /// The map that normalises characters; empty if the model has none.
    pub precompiled_charsmap: Vec<u8>,
    /// The algorithm: 1 is unigram, 2 is BPE.
    pub model_type: u64,
    /// The id of the unknown piece.
    pub unk_id: u64,
}

/// A piece of a sentencepiece model.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, with spaces written as `▁`.
    pub text: String,
    /// The logarithm of its probability.
    pub score: f32,
    /// What it is there for.
    pub kind: PieceKind,
}

/// What a piece is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PieceKind {
    /// Ordinary text.
    Normal,
    /// The unknown piece.
    Unknown,
    /// A control symbol such as the end of a text.
    Control,
    /// A symbol that is never split, chosen by whoever trained the model.
    UserDefined,
    /// A piece that is not in use.
    Unused,
    /// A byte of a character that is not in the vocabulary.
    Byte,
}

impl SentencePieceModel {
    /// Reads the bytes of a `spiece.model`; `path` is for messages only.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the message is cut off or makes no sense.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut model = Self {
            model_type: UNIGRAM,
            ..Self::default()
        };
        let read = model.read(bytes);
        read.map_err(|found| Error::invalid(path, "protobuf", "a sentencepiece model", found))?;
        if model.pieces.is_empty() {
            return Err(Error::invalid(path, "pieces", "at least one", "none"));
        }
        for (id, piece) in model.pieces.iter().enumerate() {
            check_content(&piece.text, &format!("piece {id}"), path)?;
            if !piece.score.is_finite() {
                let what = format!("score of piece {id}");
                return Err(Error::invalid(path, what, "a finite number", piece.score));
            }
        }
        Ok(model)
    }

    fn read(&mut self, bytes: &[u8]) -> Parsed<()> {
        for_each_field(bytes, |number, value| {
            match (number, value) {
                (1, Value::Bytes(piece)) => self.pieces.push(read_piece(piece)?),
                (2, Value::Bytes(trainer)) => self.read_trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => self.read_normalizer(normalizer)?,
                (1..=3, _) => return Err(format!("field {number} of another wire type")),
                _ => {}
            }
            Ok(())
        })
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Parsed<()> {
        for_each_field(bytes, |number, value| {
            match (number, value) {
                (3, Value::Varint(kind)) => self.model_type = kind,
                (40, Value::Varint(id)) => self.unk_id = id,
                _ => {}
            }
            Ok(())
        })
    }

    fn read_normalizer(&mut self, bytes: &[u8]) -> Parsed<()> {
        for_each_field(bytes, |number, value| {
            if let (2, Value::Bytes(map)) = (number, value) {
                self.precompiled_charsmap = map.to_vec();
            }
            Ok(())
        })
    }
}

fn read_piece(bytes: &[u8]) -> Parsed<Piece> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: PieceKind::Normal,
    };
    for_each_field(bytes, |number, value| {
        match (number, value) {
            (1, Value::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
                text.clone_into(&mut piece.text);
            }
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Varint(kind)) => piece.kind = piece_kind(kind)?,
            (1..=3, _) => return Err(format!("field {number} of a piece of another wire type")),
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

fn piece_kind(number: u64) -> Parsed<PieceKind> {
    match number {
        1 => Ok(PieceKind::Normal),
        2 => Ok(PieceKind::Unknown),
        3 => Ok(PieceKind::Control),
        4 => Ok(PieceKind::UserDefined),
        5 => Ok(PieceKind::Unused),
        6 => Ok(PieceKind::Byte),
        other => Err(format!("piece type {other}")),
    }
}

/// What went wrong is a phrase that completes "found".
type Parsed<T> = std::result::Result<T, String>;

/// The value of a protobuf field.
enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// Calls `visit` with the number and the value of each field of a message.
fn for_each_field<'a>(
    mut bytes: &'a [u8],
    mut visit: impl FnMut(u64, Value<'a>) -> Parsed<()>,
) -> Parsed<()> {
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(take_varint(&mut bytes)?),
            1 => take(&mut bytes, 8).map(|_| Value::Fixed64)?,
            2 => {
                let length = take_varint(&mut bytes)?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            5 => {
                let (number, rest) = bytes.split_first_chunk().ok_or_else(cut_off)?;
                bytes = rest;
                Value::Fixed32(u32::from_le_bytes(*number))
            }
            other => return Err(format!("wire type {other}")),
        };
        visit(key >> 3, value)?;
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Parsed<&'a [u8]> {
    let length = usize::try_from(length).map_err(|_| cut_off())?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Parsed<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(cut_off)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err("a number of more than 64 bits".into())
}

fn cut_off() -> String {
    "the end of the data inside a field".into()
}

/// The number of the unigram algorithm.
pub(super) const UNIGRAM: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECE: &[u8] = b"\x0a\x0d\x0a\x04\xe2\x96\x81a\x15\x00\x00\x80\xbf\x18\x04";

    fn parse(bytes: &[u8]) -> Result<SentencePieceModel> {
        SentencePieceModel::parse(bytes, Path::new("spiece.model"))
    }

    #[test]
    fn a_piece_is_read() {
        let model = parse(PIECE).unwrap();
        let expected = Piece {
            text: "▁a".into(),
            score: -1.0,
            kind: PieceKind::UserDefined,
        };
        assert_eq!(model.pieces, [expected]);
    }

    #[test]
    fn every_cut_is_an_error() {
        for length in 0..PIECE.len() {
            assert!(parse(&PIECE[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let endless = [0xff; 12];
        let huge_length = b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f";
        let not_utf8 = b"\x0a\x03\x0a\x01\xff";
        let infinite = b"\x0a\x08\x0a\x01a\x15\x00\x00\x80\x7f";
        let group = b"\x0b";
        for bytes in [&endless[..], huge_length, not_utf8, infinite, group] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
