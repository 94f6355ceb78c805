//! When a value is computed.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// What a value depends on, and so when it is computed. Ordered: a value has the
/// latest stage among its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// On parameters alone: when a model is loaded or a parameter changes.
    Weight,
    /// Also on the request (prompt, size, guidance, timesteps): once per picture.
    Request,
    /// Also on the latents: in the hot loop.
    Step,
}

impl Stage {
    /// Every stage, earliest first.
    pub const ALL: [Self; 3] = [Self::Weight, Self::Request, Self::Step];

    /// The name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Request => "request",
            Self::Step => "step",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.name() == name)
            .ok_or_else(|| Error::UnknownStage(name.to_owned()))
    }
}
