//! Where parameters wait for the next refit.

use std::fmt;
use std::str::FromStr;

/// Where the parameters that weight programs read are kept beside the weights that they gave.
///
/// A LoRA is merged into the untouched parameter, so each switch reads that again. On the CPU
/// all of these are the same: the mapped file.
///
/// ```
/// use tintype_backend::KeepWeights;
/// assert_eq!("host".parse(), Ok(KeepWeights::Host));
/// assert_eq!(KeepWeights::Auto.to_string(), "auto");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum KeepWeights {
    /// In device memory where they fit beside weights and workspace, else on disk.
    #[default]
    Auto,
    /// In device memory: fastest to switch, twice the memory.
    Device,
    /// In host memory from which the device reads directly.
    Host,
    /// In the files alone, which the system may keep in its cache or not.
    Disk,
}

impl KeepWeights {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Device, Self::Host, Self::Disk];

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Device => "device",
            Self::Host => "host",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for KeepWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeepWeights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|keep| keep.name() == text);
        named.ok_or_else(|| format!("expected auto, device, host or disk, found `{text}`"))
    }
}
