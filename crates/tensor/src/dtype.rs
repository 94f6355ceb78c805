//! The element types and how a value is rounded to each.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use crate::{Error, f4e2m1_from_f32, f4e2m1_to_f32, f8e4m3_from_f32, f8e4m3_to_f32};

/// An element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    BF16,
    /// OCP 8-bit float, 4 exponent and 3 mantissa bits, no infinity, largest 448.
    F8E4M3,
    /// OCP 4-bit float, 2 exponent and 1 mantissa bits, largest 6, two per byte.
    F4E2M1,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned byte.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8E4M3,
        Self::F4E2M1,
        Self::I64,
        Self::I32,
        Self::U8,
        Self::Bool,
    ];

    /// The size of one element in bits.
    pub const fn bits(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 32,
            Self::F16 | Self::BF16 => 16,
            Self::F8E4M3 | Self::U8 | Self::Bool => 8,
            Self::F4E2M1 => 4,
            Self::I64 => 64,
        }
    }

    /// The bytes that `count` elements take; `None` on overflow.
    pub const fn byte_len(self, count: usize) -> Option<usize> {
        match count.checked_mul(self.bits()) {
            Some(bits) => Some(bits.div_ceil(8)),
            None => None,
        }
    }

    /// The name used in the text form, for example `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F8E4M3 => "f8e4m3",
            Self::F4E2M1 => "f4e2m1",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }

    /// Whether values are floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F4E2M1
        )
    }

    /// Whether values are whole numbers (`bool` is none).
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::I64 | Self::I32 | Self::U8)
    }

    /// Rounds `value` to the nearest value of this dtype, ties to even.
    ///
    /// 8- and 4-bit floats saturate at their largest finite value, as the
    /// conversions of CUDA and TensorRT do; f16 goes to infinity. Integers take
    /// the value towards zero, saturating; `bool` is `value != 0`.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
            Self::F8E4M3 => f8e4m3_to_f32(f8e4m3_from_f32(value)),
            Self::F4E2M1 => f4e2m1_to_f32(f4e2m1_from_f32(value)),
            Self::I64 => value as i64 as f32,
            Self::I32 => value as i32 as f32,
            Self::U8 => f32::from(value as u8),
            Self::Bool => f32::from(u8::from(value != 0.0)),
        }
    }

    /// [`DType::round`] for every element in place.
    pub fn round_slice(self, values: &mut [f32]) {
        match self {
            Self::F32 => {}
            Self::BF16 => {
                for value in values {
                    *value = bf16::from_f32(*value).to_f32();
                }
            }
            other => {
                for value in values {
                    *value = other.round(*value);
                }
            }
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| Error::UnknownDType(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        assert!("f64".parse::<DType>().is_err());
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        assert_eq!(DType::BF16.round(1.003_906_25), 1.0);
        assert_eq!(DType::BF16.round(1.011_718_75), 1.015_625);
        assert_eq!(DType::F16.round(65520.0), f32::INFINITY);
        assert_eq!(DType::F8E4M3.round(1.0e9), 448.0);
        assert_eq!(DType::F4E2M1.round(2.5), 2.0);
    }
}
