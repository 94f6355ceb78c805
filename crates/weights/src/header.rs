//! The header of a safetensors file, checked before anything is believed.
//!
//! A file is `u64` little-endian length, that many bytes of JSON, then the
//! data. The JSON maps names to dtype, shape and a range of the data. After
//! [`Header::parse`] every range lies within the file, has the length that
//! dtype and shape ask for, and the ranges cover the data without holes or
//! overlaps. Nothing is read from the data here.
//!
//! ```text
//! {"__metadata__": {"format": "pt"},
//!  "proj.weight": {"dtype": "BF16", "shape": [8, 4], "data_offsets": [0, 64]}}
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use tintype_tensor::{DType, Shape};

use crate::error::{shown, shown_list};
use crate::{Error, Result};

/// The parsed header of one file.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// blake3 of the JSON.
    pub(crate) hash: blake3::Hash,
}

/// Where a tensor lies in its file, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorEntry {
    /// The dtype in the file.
    pub dtype: StorageDType,
    /// Sizes of the axes, outermost first.
    pub shape: Shape,
    /// The tensor's bytes, counted from the start of the file.
    pub range: Range<usize>,
}

/// The dtypes of the safetensors format.
///
/// A file may hold any of them; those without a [`StorageDType::read_as`] are
/// an error only when such a tensor is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names of the format say it")]
pub enum StorageDType {
    Bool,
    F4,
    F6E2M3,
    F6E3M2,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

impl StorageDType {
    /// The dtype in which such a tensor is read; `None` if it cannot be.
    /// F64 is rounded to f32.
    pub const fn read_as(self) -> Option<DType> {
        match self {
            Self::F64 | Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            Self::F8E4M3 => Some(DType::F8E4M3),
            Self::I64 => Some(DType::I64),
            Self::I32 => Some(DType::I32),
            Self::U8 => Some(DType::U8),
            Self::Bool => Some(DType::Bool),
            _ => None,
        }
    }

    /// Every dtype of the format.
    pub const ALL: [Self; 22] = [
        Self::Bool,
        Self::F4,
        Self::F6E2M3,
        Self::F6E3M2,
        Self::U8,
        Self::I8,
        Self::F8E5M2,
        Self::F8E4M3,
        Self::F8E8M0,
        Self::F8E4M3Fnuz,
        Self::F8E5M2Fnuz,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::BF16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::C64,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// The name in the file, for example `BF16`.
    pub const fn name(self) -> &'static str {
        self.name_and_bits().0
    }

    const fn name_and_bits(self) -> (&'static str, usize) {
        match self {
            Self::Bool => ("BOOL", 8),
            Self::F4 => ("F4", 4),
            Self::F6E2M3 => ("F6_E2M3", 6),
            Self::F6E3M2 => ("F6_E3M2", 6),
            Self::U8 => ("U8", 8),
            Self::I8 => ("I8", 8),
            Self::F8E5M2 => ("F8_E5M2", 8),
            Self::F8E4M3 => ("F8_E4M3", 8),
            Self::F8E8M0 => ("F8_E8M0", 8),
            Self::F8E4M3Fnuz => ("F8_E4M3FNUZ", 8),
            Self::F8E5M2Fnuz => ("F8_E5M2FNUZ", 8),
            Self::I16 => ("I16", 16),
            Self::U16 => ("U16", 16),
            Self::F16 => ("F16", 16),
            Self::BF16 => ("BF16", 16),
            Self::I32 => ("I32", 32),
            Self::U32 => ("U32", 32),
            Self::F32 => ("F32", 32),
            Self::C64 => ("C64", 64),
            Self::F64 => ("F64", 64),
            Self::I64 => ("I64", 64),
            Self::U64 => ("U64", 64),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for StorageDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Header {
    /// Checks the header of the file whose bytes are `bytes`.
    pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<Self> {
        let json = json_bytes(file, bytes)?;
        let text = std::str::from_utf8(json)
            .map_err(|error| Error::file(file, "a header in UTF-8", error.to_string()))?;
        let raw: RawHeader = serde_json::from_str(text).map_err(|error| {
            Error::file(file, "a JSON header of tensors", shown(&error.to_string()))
        })?;
        let data_start = LENGTH_BYTES + json.len();
        let mut tensors = BTreeMap::new();
        for (name, raw) in raw.tensors {
            let entry = raw.check(file, &name, data_start, bytes.len())?;
            tensors.insert(name, entry);
        }
        check_cover(file, &tensors, data_start, bytes.len())?;
        Ok(Self {
            tensors,
            metadata: raw.metadata,
            hash: blake3::hash(json),
        })
    }
}

/// As the JSON says it, nothing checked but its form and that names are unique.
struct RawHeader {
    tensors: BTreeMap<String, RawEntry>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl RawEntry {
    fn check(
        self,
        file: &Path,
        name: &str,
        data_start: usize,
        file_len: usize,
    ) -> Result<TensorEntry> {
        let wrong =
            |expected: String, found: String| Error::file_tensor(file, name, expected, found);
        let dtype = StorageDType::from_name(&self.dtype).ok_or_else(|| {
            wrong(
                "a dtype of the format".into(),
                format!("`{}`", shown(&self.dtype)),
            )
        })?;
        if self.shape.len() > HIGHEST_RANK {
            let found = format!("{} axes", self.shape.len());
            return Err(wrong(format!("at most {HIGHEST_RANK} axes"), found));
        }
        let shape = Shape::from(self.shape);
        let (begin, end) = self.data_offsets;
        let data_len = file_len - data_start;
        if begin > end || end > data_len {
            let expected = format!("offsets in order within {data_len} bytes of data");
            return Err(wrong(expected, format!("{begin}..{end}")));
        }
        let bits = shape
            .checked_len()
            .ok()
            .and_then(|count| count.checked_mul(dtype.name_and_bits().1));
        match bits {
            Some(bits) if bits % 8 == 0 && bits / 8 == end - begin => Ok(TensorEntry {
                dtype,
                shape,
                range: data_start + begin..data_start + end,
            }),
            Some(bits) => Err(wrong(
                format!("{} bytes for {dtype}{shape}", bits.div_ceil(8)),
                format!("{}", end - begin),
            )),
            None => Err(wrong(
                "a shape that fits in memory".into(),
                shape.to_string(),
            )),
        }
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads the map by hand: a derived one keeps the last of two equal names.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut metadata = None;
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let twice = if name == METADATA {
                let value = map.next_value::<Option<BTreeMap<String, String>>>()?;
                metadata.replace(value.unwrap_or_default()).is_some()
            } else {
                let entry = map.next_value::<RawEntry>().map_err(|error| {
                    A::Error::custom(format_args!("tensor `{}`: {error}", shown(&name)))
                })?;
                tensors.insert(name.clone(), entry).is_some()
            };
            if twice {
                return Err(A::Error::custom(format_args!(
                    "two entries `{}`",
                    shown(&name)
                )));
            }
        }
        Ok(RawHeader {
            tensors,
            metadata: metadata.unwrap_or_default(),
        })
    }
}

fn json_bytes<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        let expected = format!("at least {LENGTH_BYTES} bytes of safetensors");
        return Err(Error::file(file, expected, format!("{}", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER {
        let expected = format!("a header of at most {LONGEST_HEADER} bytes");
        return Err(Error::file(file, expected, format!("{length}")));
    }
    rest.get(..length as usize).ok_or_else(|| {
        let expected = format!("a header of {length} bytes");
        Error::file(file, expected, format!("{} bytes (truncated)", rest.len()))
    })
}

/// Each range starts where the one before ends, the last ends with the file.
fn check_cover(
    file: &Path,
    tensors: &BTreeMap<String, TensorEntry>,
    data_start: usize,
    file_len: usize,
) -> Result<()> {
    let mut ranges: Vec<_> = tensors
        .iter()
        .map(|(name, entry)| (&entry.range, name))
        .collect();
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    let mut covered = data_start;
    for (range, name) in ranges {
        if range.start != covered {
            let kind = if range.start < covered {
                "overlaps"
            } else {
                "leaves a hole"
            };
            return Err(Error::file_tensor(
                file,
                name,
                format!("offset {}", covered - data_start),
                format!("{} ({kind})", range.start - data_start),
            ));
        }
        covered = range.end;
    }
    if covered != file_len {
        let names = shown_list(tensors.keys().map(String::as_str));
        return Err(Error::file(
            file,
            format!("{} bytes of data for tensors {names}", covered - data_start),
            format!("{}", file_len - data_start),
        ));
    }
    Ok(())
}

const LENGTH_BYTES: usize = 8;
/// The limit of the reference implementation.
const LONGEST_HEADER: u64 = 100_000_000;
/// No model comes near; it keeps messages and work small for hostile headers.
const HIGHEST_RANK: usize = 32;
const METADATA: &str = "__metadata__";
