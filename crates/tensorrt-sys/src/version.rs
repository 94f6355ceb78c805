//! Versions of the library and the ABI lines that they belong to.
//!
//! Virtual functions are called by their slots, and slots are the same only within a *line*:
//! versions that add functions at the ends of vtables and take none away. There are two,
//! TensorRT-RTX from 1.5 and TensorRT ("enterprise") from 11.
//!
//! ```
//! use tintype_tensorrt_sys::{Abi, Line, Newer};
//!
//! let abi = Abi::of_number(10701, Newer::Refuse)?;
//! assert_eq!(abi.line(), Line::Rtx);
//! assert_eq!(abi.to_string(), "TensorRT-RTX 1.7.1");
//! assert!(Abi::of_number(10400, Newer::Refuse).is_err());
//! # Ok::<(), tintype_tensorrt_sys::Error>(())
//! ```

use std::fmt;

use crate::Error;
use crate::generated::slots;

/// A version: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Changes with the ABI.
    pub major: u32,
    /// Adds functions (of TensorRT-RTX before 1.5: also removed some).
    pub minor: u32,
    /// Mends.
    pub patch: u32,
}

/// A family of versions with one layout of vtables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Line {
    /// TensorRT-RTX from 1.5.
    Rtx,
    /// TensorRT from 11.
    Enterprise,
}

/// What is done with a version newer than every one whose headers were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Newer {
    /// It is an error, unless its line promises to append only (TensorRT 11).
    #[default]
    Refuse,
    /// It is taken for the newest known one. If its vtables have lost a function, calls go wrong.
    Accept,
}

/// A line and a version of it: what decides which slot a function has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Abi {
    line: Line,
    version: Version,
}

impl Version {
    /// A version from its three numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The version that `getInferLibVersion` means: 10701 is 1.7.1, 110400 is 11.4.0; before
    /// TensorRT 9 there were fewer digits, 8601 is 8.6.1.
    pub const fn of_number(number: i32) -> Self {
        let number = if number < 0 { 0 } else { number.unsigned_abs() };
        let unit = if number < 10_000 { 1000 } else { 10_000 };
        Self::new(number / unit, number % unit / 100, number % 100)
    }

    /// The number that `getInferLibVersion` gives for this version.
    pub const fn number(self) -> i32 {
        let unit = if self.major == 8 { 1000 } else { 10_000 };
        (self.major * unit + self.minor * 100 + self.patch).cast_signed()
    }
}

impl Line {
    /// The newest version whose headers were read.
    pub const fn newest(self) -> Version {
        match self {
            Self::Rtx => slots::NEWEST_RTX,
            Self::Enterprise => slots::NEWEST_ENTERPRISE,
        }
    }
}

impl Abi {
    /// The ABI of a library that reports `number`.
    ///
    /// # Errors
    /// [`Error::UnknownVersion`] for what belongs to no line, and for what is newer than known.
    pub fn of_number(number: i32, newer: Newer) -> Result<Self, Error> {
        let version = Version::of_number(number);
        let line = match (version.major, version.minor) {
            (1, 5..) => Line::Rtx,
            (11, _) => Line::Enterprise,
            _ => return Err(unknown(version)),
        };
        let known = line.newest();
        let is_newer = (version.major, version.minor) > (known.major, known.minor);
        // TensorRT keeps its ABI within a major version; TensorRT-RTX has broken it within one.
        let is_bold = line == Line::Rtx && newer == Newer::Refuse;
        if is_newer && is_bold {
            return Err(unknown(version));
        }
        Ok(Self { line, version })
    }

    /// The line.
    pub const fn line(self) -> Line {
        self.line
    }

    /// The version of the library.
    pub const fn version(self) -> Version {
        self.version
    }

    /// Whether this version has a function, both by the names in the library's headers, for
    /// instance `"INetworkDefinition"` and `"addAttentionV2"`.
    pub fn has(self, class: &str, method: &str) -> bool {
        let mut classes = slots::ALL.iter();
        classes
            .find(|table| table.name == class)
            .and_then(|table| table.methods.iter().find(|known| known.name == method))
            .is_some_and(|method| method.slot(self).is_some())
    }
}

fn unknown(version: Version) -> Error {
    Error::UnknownVersion {
        path: None,
        version,
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Rtx => "TensorRT-RTX",
            Self::Enterprise => "TensorRT",
        })
    }
}

impl fmt::Display for Abi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.line, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_versions_are_one() {
        let cases = [
            (10701, (1, 7, 1)),
            (10500, (1, 5, 0)),
            (110400, (11, 4, 0)),
            (101600, (10, 16, 0)),
            (8601, (8, 6, 1)),
        ];
        for (number, (major, minor, patch)) in cases {
            let version = Version::new(major, minor, patch);
            assert_eq!(Version::of_number(number), version);
            assert_eq!(version.number(), number);
        }
        assert_eq!(Version::of_number(-5), Version::new(0, 0, 0));
    }

    #[test]
    fn versions_belong_to_a_line_or_are_refused() {
        let abi = |number| Abi::of_number(number, Newer::Refuse).ok().map(Abi::line);
        let cases = [
            (10400, None),
            (10500, Some(Line::Rtx)),
            (10799, Some(Line::Rtx)),
            (10800, None),
            (20000, None),
            (8601, None),
            (101600, None),
            (110000, Some(Line::Enterprise)),
            (110900, Some(Line::Enterprise)),
            (120000, None),
            (0, None),
            (i32::MIN, None),
            (i32::MAX, None),
        ];
        for (number, line) in cases {
            assert_eq!(abi(number), line, "{number}");
        }
        assert!(Abi::of_number(10800, Newer::Accept).is_ok());
        assert!(Abi::of_number(10400, Newer::Accept).is_err());
    }

    #[test]
    fn functions_are_known_by_their_version() {
        let has = |number, class, method| {
            Abi::of_number(number, Newer::Refuse)
                .unwrap()
                .has(class, method)
        };
        assert!(has(10701, "IRefitter", "releaseRefitResources"));
        assert!(!has(10601, "IRefitter", "releaseRefitResources"));
        assert!(has(10500, "IRuntimeCache", "serialize"));
        assert!(!has(110400, "IRuntimeCache", "serialize"));
        assert!(has(110000, "INetworkDefinition", "addPluginV3"));
        assert!(!has(110000, "INothing", "addPluginV3"));
    }
}
