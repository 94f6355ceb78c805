//! The precompiled character map of sentencepiece, checked before it is used.
//!
//! The map is a double-array trie over UTF-8 bytes, followed by the
//! replacements. The `tokenizers` crate walks it without looking at its bounds,
//! so every state that any text can reach is visited here once. It normalises
//! nothing itself.

use std::path::Path;

use tokenizers::normalizers::Precompiled;

use crate::{Error, Result};

/// The normaliser of a precompiled character map.
///
/// # Errors
/// [`Error::Invalid`] if a text could lead out of the map.
pub(super) fn normalizer(map: &[u8], path: &Path) -> Result<Precompiled> {
    let failed = |found: String| {
        let what = "precompiled_charsmap";
        Error::invalid(path, what, "a trie that stays in its bounds", found)
    };
    check(map).map_err(&failed)?;
    Precompiled::from(map).map_err(|error| failed(error.to_string()))
}

/// Decodes standard base64, as `tokenizer.json` holds the map; `None` if it is none.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    if text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for &letter in group {
            bits = bits << 6 | u32::from(base64_value(letter)?);
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn base64_value(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// A unit of the double array, in the layout of the darts-clone library.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn has_leaf(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(self) -> usize {
        (self.0 & 0x7fff_ffff) as usize
    }

    fn label(self) -> u32 {
        self.0 & 0x8000_00ff
    }

    fn offset(self) -> usize {
        ((self.0 >> 10) as usize) << ((self.0 & 1 << 9) >> 6)
    }
}

fn check(map: &[u8]) -> std::result::Result<(), String> {
    let (length, rest) = map.split_first_chunk::<4>().ok_or("fewer than 4 bytes")?;
    let length = u32::from_le_bytes(*length) as usize;
    let units = rest
        .get(..length)
        .filter(|units| units.len() % 4 == 0)
        .ok_or_else(|| format!("a trie of {length} bytes in {}", rest.len()))?;
    let replacements = std::str::from_utf8(&rest[length..]).map_err(|error| error.to_string())?;
    let units: Vec<Unit> = units
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&unit| Unit(u32::from_le_bytes(unit)))
        .collect();
    let root = *units.first().ok_or("no root")?;
    walk(&units, root.offset(), replacements)
}

/// Visits every state that bytes other than zero lead to.
fn walk(units: &[Unit], root: usize, replacements: &str) -> std::result::Result<(), String> {
    let outside = |place: usize| format!("place {place} of {}", units.len());
    let mut seen = vec![false; units.len()];
    let mut pending = vec![root];
    while let Some(state) = pending.pop() {
        // The next byte is combined with the state by exclusive or: all of its block must exist.
        if state | 0xff >= units.len() {
            return Err(outside(state));
        }
        if std::mem::replace(&mut seen[state], true) {
            continue;
        }
        for byte in 1..=0xff_u32 {
            let place = state ^ byte as usize;
            let unit = units[place];
            if unit.label() != byte {
                continue;
            }
            let next = place ^ unit.offset();
            if unit.has_leaf() {
                let leaf = units.get(next).ok_or_else(|| outside(next))?;
                if !replacements.is_char_boundary(leaf.value()) {
                    return Err(format!("a replacement at {}", leaf.value()));
                }
            }
            // A leaf without children has its value, and nothing else, at the next place.
            pending.push(next);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Normalizer;
    use tokenizers::normalizer::NormalizedString;

    #[test]
    fn base64_is_decoded() {
        assert_eq!(from_base64("").unwrap(), b"");
        assert_eq!(from_base64("Zg==").unwrap(), b"f");
        assert_eq!(from_base64("Zm9vYmE=").unwrap(), b"fooba");
        assert_eq!(from_base64("Zm9vYmFy").unwrap(), b"foobar");
        assert!(from_base64("Z").is_none());
        assert!(from_base64("Zm9*").is_none());
    }

    #[test]
    fn maps_that_lie_are_refused() {
        let path = Path::new("spiece.model");
        for map in [
            &b""[..],
            &[0; 4],
            &[255; 4],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[255, 255, 255, 255, 1],
        ] {
            assert!(normalizer(map, path).is_err(), "{map:?}");
        }
    }

    proptest! {
        #[test]
        fn a_map_that_passes_never_panics(
            units in proptest::collection::vec(any::<u32>(), 256..600), text: String,
        ) {
            let length = (4 * units.len() as u32).to_le_bytes();
            let units = units.iter().flat_map(|unit| unit.to_le_bytes());
            let map: Vec<u8> = length.into_iter().chain(units).chain(*b"a\0b\0").collect();
            if let Ok(normalizer) = normalizer(&map, Path::new("spiece.model")) {
                normalizer.normalize(&mut NormalizedString::from(text)).unwrap();
            }
        }
    }
}
