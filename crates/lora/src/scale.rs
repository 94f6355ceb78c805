//! How strongly an adapter acts: overall, on one model, in some of its blocks.
//!
//! The factors multiply, so `0.8` for all and `0.5` for the double blocks is `0.4` there. What
//! is not named has the factor 1. An update whose scale is 0 is left out of the weights.
//!
//! ```
//! use tintype_lora::{AdapterScale, Blocks, Component};
//!
//! let plain = AdapterScale::from(0.8);
//! let shaped = AdapterScale::new(0.8)
//!     .component(Component::TextEncoder, 0.0)
//!     .blocks(Blocks::Double, 0..10, 0.5)
//!     .block(Blocks::Single, 37, 0.0);
//! assert_eq!(shaped.to_string(), "0.8 text_encoder=0 double.0-9=0.5 single.37=0");
//! assert_eq!("0.8 text_encoder=0 double.0-9=0.5 single.37=0".parse(), Ok(shaped));
//! assert_eq!(plain.to_string(), "0.8");
//! ```

use std::fmt;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::str::FromStr;

use crate::{Component, LoraTarget};

/// The scale of an adapter. Each factor may be negative.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterScale {
    overall: f32,
    /// In the order given.
    parts: Vec<Part>,
}

/// The blocks of a model that are counted together, as FLUX calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Blocks {
    /// `transformer_blocks`: image and text side by side.
    Double,
    /// `single_transformer_blocks`: image and text as one.
    Single,
    /// The layers of the first text encoder, CLIP.
    TextEncoder,
    /// The blocks of the second text encoder, T5.
    TextEncoder2,
}

/// A factor for a part of the models.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    place: Place,
    factor: f32,
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Component(Component),
    Blocks(Blocks, RangeInclusive<usize>),
}

impl AdapterScale {
    /// The same everywhere.
    pub fn new(overall: f32) -> Self {
        Self {
            overall,
            parts: Vec::new(),
        }
    }

    /// Also a factor for one model. Said twice, the last one counts.
    #[must_use]
    pub fn component(self, component: Component, factor: f32) -> Self {
        self.with(Place::Component(component), factor)
    }

    /// Also a factor for some blocks. Where ranges overlap, the last one counts.
    #[must_use]
    pub fn blocks(self, blocks: Blocks, range: impl RangeBounds<usize>, factor: f32) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end,
            Bound::Excluded(0) => return self,
            Bound::Excluded(&end) => end - 1,
            Bound::Unbounded => usize::MAX,
        };
        if start > end {
            return self;
        }
        self.with(Place::Blocks(blocks, start..=end), factor)
    }

    /// Also a factor for one block.
    #[must_use]
    pub fn block(self, blocks: Blocks, index: usize, factor: f32) -> Self {
        self.blocks(blocks, index..=index, factor)
    }

    /// All of it multiplied by a factor.
    #[must_use]
    pub fn times(self, factor: f32) -> Self {
        Self {
            overall: self.overall * factor,
            ..self
        }
    }

    /// The factor for all.
    pub fn overall(&self) -> f32 {
        self.overall
    }

    /// Whether every factor is a finite number.
    pub fn is_finite(&self) -> bool {
        let parts = self.parts.iter().map(|part| part.factor);
        parts.chain([self.overall]).all(f32::is_finite)
    }

    /// The scale of one update, without the update's own factor.
    pub fn of(&self, target: &LoraTarget) -> f32 {
        let last = |holds: &dyn Fn(&Place) -> bool| {
            let found = self.parts.iter().rev().find(|part| holds(&part.place));
            found.map_or(1.0, |part| part.factor)
        };
        let component =
            last(&|place| matches!(place, Place::Component(one) if *one == target.component));
        let Some((blocks, index)) = Blocks::of(target) else {
            return self.overall * component;
        };
        let block = last(
            &|place| matches!(place, Place::Blocks(one, range) if *one == blocks && range.contains(&index)),
        );
        self.overall * component * block
    }

    fn with(mut self, place: Place, factor: f32) -> Self {
        self.parts.push(Part { place, factor });
        self
    }
}

impl Default for AdapterScale {
    /// 1 everywhere.
    fn default() -> Self {
        Self::new(1.0)
    }
}

impl From<f32> for AdapterScale {
    fn from(overall: f32) -> Self {
        Self::new(overall)
    }
}

impl From<&AdapterScale> for AdapterScale {
    fn from(scale: &AdapterScale) -> Self {
        scale.clone()
    }
}

impl Blocks {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::Double,
        Self::Single,
        Self::TextEncoder,
        Self::TextEncoder2,
    ];

    /// The word for them: `double`, `single`, `text_encoder`, `text_encoder_2`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Double => "double",
            Self::Single => "single",
            Self::TextEncoder => Component::TextEncoder.name(),
            Self::TextEncoder2 => Component::TextEncoder2.name(),
        }
    }

    /// Which of them an update is in, and its number there; none for what lies outside of all.
    pub fn of(target: &LoraTarget) -> Option<(Self, usize)> {
        let index = target.block()?;
        let blocks = match target.component {
            Component::TextEncoder => Self::TextEncoder,
            Component::TextEncoder2 => Self::TextEncoder2,
            Component::Transformer => match target.parameter.split('.').next()? {
                "transformer_blocks" => Self::Double,
                "single_transformer_blocks" => Self::Single,
                _ => return None,
            },
        };
        Some((blocks, index))
    }
}

impl fmt::Display for AdapterScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.overall)?;
        for Part { place, factor } in &self.parts {
            match place {
                Place::Component(component) => write!(f, " {component}={factor}")?,
                Place::Blocks(blocks, range) if range.start() == range.end() => {
                    write!(f, " {}.{}={factor}", blocks.name(), range.start())?;
                }
                Place::Blocks(blocks, range) if *range == (0..=usize::MAX) => {
                    write!(f, " {}.all={factor}", blocks.name())?;
                }
                Place::Blocks(blocks, range) => {
                    let (start, end) = (range.start(), range.end());
                    write!(f, " {}.{start}-{end}={factor}", blocks.name())?;
                }
            }
        }
        Ok(())
    }
}

/// Words: a number for all first, or none for 1, then `PLACE=FACTOR`. A place is a model
/// (`transformer`), all blocks of a kind (`double`, `single.all`), or some (`single.3`,
/// `double.0-9`).
impl FromStr for AdapterScale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut scale = Self::default();
        for (index, word) in text.split_whitespace().enumerate() {
            match word.split_once('=') {
                None if index == 0 => scale.overall = factor(word)?,
                None => return Err(format!("expected PLACE=FACTOR, found `{word}`")),
                Some((place, number)) => scale = scale.with(self::place(place)?, factor(number)?),
            }
        }
        Ok(scale)
    }
}

fn factor(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("expected a finite number, found `{text}`"))
}

fn place(text: &str) -> Result<Place, String> {
    let component = Component::ALL.into_iter().find(|one| one.name() == text);
    if let Some(component) = component {
        return Ok(Place::Component(component));
    }
    let (name, which) = text.split_once('.').unwrap_or((text, "all"));
    let blocks = Blocks::ALL.into_iter().find(|one| one.name() == name);
    let expected = "transformer, text_encoder, text_encoder_2, double or single, the last four \
                    also with blocks as in single.3 or double.0-9";
    let refused = || format!("expected {expected}, found `{text}`");
    let blocks = blocks.ok_or_else(refused)?;
    if which == "all" {
        return Ok(Place::Blocks(blocks, 0..=usize::MAX));
    }
    let (start, end) = which.split_once('-').unwrap_or((which, which));
    match (start.parse(), end.parse()) {
        (Ok(start), Ok(end)) if start <= end => Ok(Place::Blocks(blocks, start..=end)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tintype_tensor::Shape;

    use super::*;
    use crate::{Rows, Stored, Update};

    fn target(component: Component, parameter: &str) -> LoraTarget {
        let values = Stored {
            key: String::new(),
            shape: Shape::from([1]),
        };
        LoraTarget {
            component,
            parameter: parameter.to_owned(),
            update: Update::Difference { values },
            rows: Rows {
                start: 0,
                end: 1,
                stored: 1,
                swapped: false,
            },
            factor: 1.0,
            magnitude: None,
            keys: Vec::new(),
        }
    }

    #[test]
    fn factors_multiply_and_the_last_of_a_kind_counts() {
        let scale = AdapterScale::new(2.0)
            .component(Component::Transformer, 0.5)
            .blocks(Blocks::Double, .., 0.25)
            .blocks(Blocks::Double, 3..=4, -1.0)
            .block(Blocks::Single, 3, 0.0)
            .blocks(Blocks::Single, 4..4, 9.0)
            .component(Component::TextEncoder2, 4.0);
        let of = |component, parameter| scale.of(&target(component, parameter));
        let transformer = Component::Transformer;
        assert_eq!(of(transformer, "x_embedder.weight"), 1.0);
        assert_eq!(
            of(transformer, "transformer_blocks.2.attn.to_q.weight"),
            0.25
        );
        assert_eq!(
            of(transformer, "transformer_blocks.4.ff.net.2.weight"),
            -1.0
        );
        assert_eq!(
            of(transformer, "single_transformer_blocks.3.proj_mlp.weight"),
            0.0
        );
        assert_eq!(
            of(transformer, "single_transformer_blocks.4.proj_mlp.weight"),
            1.0
        );
        let layer = "text_model.encoder.layers.3.self_attn.q_proj.weight";
        assert_eq!(of(Component::TextEncoder, layer), 2.0);
        assert_eq!(
            of(Component::TextEncoder2, "encoder.block.0.layer.0.q.weight"),
            8.0
        );
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for (text, expected) in [
            ("loud", "expected a finite number, found `loud`"),
            ("NaN", "expected a finite number, found `NaN`"),
            ("1 double", "expected PLACE=FACTOR, found `double`"),
            ("double=inf", "expected a finite number, found `inf`"),
            ("vae=1", "found `vae`"),
            ("double.4-2=1", "found `double.4-2`"),
            ("transformer.1=1", "found `transformer.1`"),
        ] {
            let error = text.parse::<AdapterScale>().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!("".parse(), Ok(AdapterScale::default()));
        assert_eq!(
            "double=2".parse(),
            Ok(AdapterScale::new(1.0).blocks(Blocks::Double, .., 2.0))
        );
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(
            overall in -4.0f32..4.0,
            parts in prop::collection::vec((0usize..6, 0usize..9, 0usize..9, -2.0f32..2.0), 0..5),
        ) {
            let mut scale = AdapterScale::new(overall);
            for (kind, start, more, factor) in parts {
                scale = match kind {
                    0 => scale.component(Component::TextEncoder2, factor),
                    1 => scale.component(Component::Transformer, factor),
                    kind => scale.blocks(Blocks::ALL[kind - 2], start..=start + more, factor),
                };
            }
            prop_assert_eq!(scale.to_string().parse(), Ok(scale));
        }
    }
}
