//! GPU architectures that engines are built for.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A compute capability, as text `sm89` or `8.9`.
///
/// ```
/// use tintype_tensorrt::Target;
///
/// let target = "sm120".parse::<Target>()?;
/// assert_eq!(target, Target::new(12, 0));
/// assert_eq!(target.to_string(), "sm120");
/// # Ok::<(), tintype_tensorrt::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    major: u8,
    minor: u8,
}

impl Target {
    /// What TensorRT-RTX builds for, in every version since 1.5.
    pub const RTX: [Self; 6] = [
        Self::new(7, 5),
        Self::new(8, 0),
        Self::new(8, 6),
        Self::new(8, 9),
        Self::new(12, 0),
        Self::new(12, 1),
    ];

    /// Compute capability `major.minor`.
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }

    /// The first number.
    pub const fn major(self) -> u8 {
        self.major
    }

    /// The second number.
    pub const fn minor(self) -> u8 {
        self.minor
    }

    /// Whether it has products of 8-bit floats: from 8.9 on.
    ///
    /// ```
    /// use tintype_tensorrt::Target;
    ///
    /// assert!(Target::new(8, 9).has_fp8() && !Target::new(8, 6).has_fp8());
    /// ```
    pub const fn has_fp8(self) -> bool {
        self.number() >= 89
    }

    /// 89 of 8.9, as the library numbers them.
    pub(crate) const fn number(self) -> i32 {
        self.major as i32 * 10 + self.minor as i32
    }

    /// As NVIDIA's lists have it, for instance 8.9.
    pub(crate) fn dotted(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// Targets with commas between them.
    pub(crate) fn list(targets: &[Self]) -> String {
        let names = targets.iter().map(ToString::to_string);
        names.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm{}{}", self.major, self.minor)
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = || Error::NoTarget {
            text: text.to_owned(),
        };
        let number = text.strip_prefix("sm").unwrap_or(text);
        let number = number.strip_prefix('_').unwrap_or(number);
        let (major, minor) = match number.split_once('.') {
            Some(parts) => parts,
            None if (2..4).contains(&number.len()) && number.is_ascii() => {
                number.split_at(number.len() - 1)
            }
            None => return Err(error()),
        };
        let part = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u8>().ok()).flatten()
        };
        match (part(major), part(minor)) {
            (Some(major @ 1..), Some(minor @ 0..10)) => Ok(Self::new(major, minor)),
            _ => Err(error()),
        }
    }
}

impl TryFrom<tintype_device::ComputeCapability> for Target {
    type Error = Error;

    fn try_from(capability: tintype_device::ComputeCapability) -> Result<Self, Error> {
        format!("{}.{}", capability.major, capability.minor).parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_in_every_usual_form() {
        for (text, expected) in [
            ("sm89", Target::new(8, 9)),
            ("sm_89", Target::new(8, 9)),
            ("89", Target::new(8, 9)),
            ("8.9", Target::new(8, 9)),
            ("12.1", Target::new(12, 1)),
            ("sm121", Target::new(12, 1)),
        ] {
            assert_eq!(text.parse::<Target>().unwrap(), expected, "{text}");
        }
        for text in [
            "", "sm", "9", "sm8", "1234", "8.10", "+8.9", "8.", ".9", "0.9", "größe", "9é",
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains("expected one like sm89"), "{error}");
        }
    }
}
