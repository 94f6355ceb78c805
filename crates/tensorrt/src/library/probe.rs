//! What is known of a library, and which GPUs it supports, without asking a GPU.

use std::fmt;
use std::path::PathBuf;

use tintype_tensorrt_sys::{Abi, Line, Version};

use crate::{Target, Tensorrt};

/// What `doctor` tells of a library.
///
/// ```no_run
/// use tintype_tensorrt::{LoadOptions, Target, Tensorrt};
///
/// let probe = Tensorrt::load(&LoadOptions::default())?.probe();
/// println!("{probe}");
/// println!("{}", probe.support("sm90".parse()?));
/// # Ok::<(), tintype_tensorrt::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// Where the library is.
    pub path: PathBuf,
    /// Its ABI line and version.
    pub abi: Abi,
    /// Its build number.
    pub build_number: Option<u32>,
    /// Whether it builds engines.
    pub has_builder: bool,
    /// The targets that can be named; none if it builds for the GPU that is there.
    pub targets: &'static [Target],
    /// Whether plans can be built from no weights at all.
    pub takes_placeholders: bool,
}

/// Whether a GPU can run what a library builds, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Support {
    /// Engines for this target.
    Full(Target),
    /// It is not in the library's list, but engines for this target were seen to run.
    Unlisted {
        /// The target to build for.
        target: Target,
        /// What is known.
        reason: String,
    },
    /// Not at all.
    None {
        /// Why.
        reason: String,
    },
    /// The library does not say before it runs.
    Unknown {
        /// What is known.
        reason: String,
    },
}

impl Support {
    /// The target to build for, if the GPU is known to run it.
    pub fn target(&self) -> Option<Target> {
        match self {
            Self::Full(target) | Self::Unlisted { target, .. } => Some(*target),
            Self::None { .. } | Self::Unknown { .. } => None,
        }
    }
}

impl Probe {
    pub(super) fn new(tensorrt: &Tensorrt) -> Self {
        Self {
            path: tensorrt.path().to_owned(),
            abi: tensorrt.abi(),
            build_number: tensorrt.build_number(),
            has_builder: tensorrt.has_builder(),
            targets: tensorrt.targets(),
            takes_placeholders: tensorrt.takes_placeholders(),
        }
    }

    /// Whether a GPU of compute capability `gpu` is supported.
    pub fn support(&self, gpu: Target) -> Support {
        match self.abi.line() {
            Line::Rtx => self.rtx_support(gpu),
            _ => enterprise_support(gpu),
        }
    }

    /// TensorRT-RTX has a list. Versions before 1.7 do not refuse other GPUs: on one of 9.0,
    /// 1.6 for CUDA 12 ran engines for 8.0 and 8.9.
    fn rtx_support(&self, gpu: Target) -> Support {
        if self.targets.contains(&gpu) {
            return Support::Full(gpu);
        }
        let listed = format!(
            "compute capability {} is not in the list of {} ({})",
            gpu.dotted(),
            self.abi,
            Target::list(self.targets)
        );
        let is_hopper = gpu == Target::new(9, 0);
        if is_hopper && self.abi.version() < Version::new(1, 7, 0) {
            return Support::Unlisted {
                target: Target::new(8, 0),
                reason: format!(
                    "{listed}, but it runs engines for sm80 (bf16, f16) and sm89 (fp8); with \
                     refit only the library for CUDA 12"
                ),
            };
        }
        let advice = if is_hopper {
            "; TensorRT-RTX 1.6 for CUDA 12 (pip package tensorrt-rtx-cu12-libs) runs engines for \
             sm80 there"
        } else {
            "; use the backend `cuda`"
        };
        Support::None {
            reason: format!("{listed}{advice}"),
        }
    }
}

/// TensorRT 11 supports compute capability 7.5 and all above; it builds for the GPU at hand.
fn enterprise_support(gpu: Target) -> Support {
    if gpu < Target::new(7, 5) {
        return Support::None {
            reason: format!(
                "TensorRT 11 needs compute capability 7.5, found {}",
                gpu.dotted()
            ),
        };
    }
    Support::Unknown {
        reason: "TensorRT builds for the GPU that is there and says then whether it can".to_owned(),
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.abi)?;
        if let Some(build) = self.build_number {
            write!(f, ".{build}")?;
        }
        let line = match self.abi.line() {
            Line::Rtx => "TensorRT-RTX from 1.5",
            _ => "TensorRT from 11",
        };
        write!(f, " at {} (ABI line: {line})", self.path.display())?;
        if !self.has_builder {
            return f.write_str(", runs engines but cannot build them");
        }
        if self.targets.is_empty() {
            f.write_str(", builds for the GPU that is there")?;
        } else {
            write!(f, ", builds for {}", Target::list(self.targets))?;
        }
        if !self.takes_placeholders {
            f.write_str(", constants need values when they are built")?;
        }
        Ok(())
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(target) => write!(f, "supported as {target}"),
            Self::Unlisted { target, reason } => {
                write!(f, "not supported, {target} runs: {reason}")
            }
            Self::None { reason } => write!(f, "not supported: {reason}"),
            Self::Unknown { reason } => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_tensorrt_sys::Newer;

    fn probe(number: i32) -> Probe {
        let abi = Abi::of_number(number, Newer::Refuse).unwrap();
        let is_rtx = abi.line() == Line::Rtx;
        Probe {
            path: "/lib/it.so".into(),
            abi,
            build_number: Some(116),
            has_builder: true,
            targets: if is_rtx { &Target::RTX } else { &[] },
            takes_placeholders: abi.has("IRefitter", "releaseRefitResources"),
        }
    }

    #[test]
    fn listed_gpus_are_supported() {
        let ada = Target::new(8, 9);
        assert_eq!(probe(10701).support(ada), Support::Full(ada));
        assert_eq!(probe(10701).support(ada).to_string(), "supported as sm89");
    }

    #[test]
    fn hopper_is_told_what_to_do() {
        let hopper = Target::new(9, 0);
        let support = probe(10701).support(hopper);
        assert_eq!(support.target(), None);
        let text = support.to_string();
        assert!(text.contains("compute capability 9.0 is not in the list of TensorRT-RTX 1.7.1"));
        assert!(
            text.contains("sm75, sm80, sm86, sm89, sm120, sm121"),
            "{text}"
        );
        assert!(text.contains("tensorrt-rtx-cu12-libs"));
        let support = probe(10601).support(hopper);
        assert_eq!(support.target(), Some(Target::new(8, 0)));
    }

    #[test]
    fn others_are_refused_or_left_to_the_library() {
        assert_eq!(probe(10601).support(Target::new(7, 0)).target(), None);
        let old = probe(110400).support(Target::new(7, 0));
        assert!(matches!(old, Support::None { .. }));
        let new = probe(110400).support(Target::new(9, 0));
        assert!(matches!(new, Support::Unknown { .. }));
    }

    #[test]
    fn a_probe_is_a_line() {
        let text = probe(10601).to_string();
        let expected = "TensorRT-RTX 1.6.1.116 at /lib/it.so (ABI line: TensorRT-RTX from 1.5), \
                        builds for sm75, sm80, sm86, sm89, sm120, sm121, \
                        constants need values when they are built";
        assert_eq!(text, expected);
        assert!(
            probe(110400)
                .to_string()
                .ends_with("builds for the GPU that is there")
        );
    }
}
