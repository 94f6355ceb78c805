//! All tensors of one module in a file → updates of parameters.
//!
//! Here partners meet: ranks must agree, nobody may be missing, and rows of
//! fused matrices are shared out. Sizes come from the shapes alone.

use std::collections::BTreeMap;

use tintype_tensor::Shape;
use tintype_weights::Parameters;

use crate::key::Role;
use crate::names::{Meaning, Split};
use crate::settings::Settings;
use crate::{Error, Factor, LoraTarget, Pair, Result, Rows, Stored, Update};

/// The tensors that a file has for one module.
pub(crate) struct Group<'f> {
    pub(crate) file: &'f str,
    /// The module's name in the file, with all prefixes.
    pub(crate) module: &'f str,
    pub(crate) meaning: Meaning,
    /// Names in the file by role.
    pub(crate) keys: BTreeMap<Role, String>,
    pub(crate) tensors: &'f Parameters,
    pub(crate) settings: &'f Settings,
}

impl Group<'_> {
    /// The updates that the group means, and its keys that mean nothing.
    pub(crate) fn targets(&self) -> Result<(Vec<LoraTarget>, Vec<String>)> {
        let mut targets = Vec::new();
        let mut weights = Vec::new();
        weights.extend(self.low_rank()?);
        weights.extend(self.hadamard()?);
        weights.extend(self.kronecker()?);
        let has_scaled = !weights.is_empty();
        if let Some(values) = self.stored(Role::Difference)? {
            if values.shape.len() > 2 {
                return Err(self.wrong(&values, "one or two axes"));
            }
            weights.push(Scaled {
                update: Update::Difference { values },
                factor: 1.0,
                roles: vec![Role::Difference],
            });
        }
        let magnitude = self.magnitude(&weights)?;
        let columns = weights.first().and_then(|first| first.update.columns());
        for Scaled {
            update,
            factor,
            mut roles,
        } in weights
        {
            if magnitude.is_some() {
                roles.push(Role::Magnitude);
            }
            let stored = self.row_count(&update)?;
            let target = Draft {
                update,
                factor,
                magnitude: magnitude.clone(),
                roles,
            };
            self.share_out(target, stored, columns, "weight", &mut targets)?;
        }
        self.vectors(columns, &mut targets)?;
        let mut unknown = Vec::new();
        if !has_scaled {
            unknown.extend(self.keys.get(&Role::Alpha).cloned());
        }
        Ok((targets, unknown))
    }

    /// Updates of biases and norms.
    fn vectors(&self, columns: Option<usize>, targets: &mut Vec<LoraTarget>) -> Result<()> {
        if let Some(values) = self.stored(Role::UpBias)? {
            // The bias is part of the pair, so the pair's factor is its own too.
            let pair = self.low_rank()?;
            let Some(pair) = pair else {
                return Err(self.missing(Role::UpBias, Role::Up));
            };
            let rows = self.row_count(&pair.update)?;
            if *values.shape != [rows] {
                return Err(self.wrong(&values, format!("shape [{rows}]")));
            }
            let roles = vec![Role::UpBias];
            let draft = Draft {
                update: Update::Difference { values },
                factor: pair.factor,
                magnitude: None,
                roles,
            };
            self.share_out(draft, rows, columns, "bias", targets)?;
        }
        for (role, suffix) in [(Role::BiasDifference, "bias"), (Role::NormScale, "weight")] {
            let Some(values) = self.stored(role)? else {
                continue;
            };
            let [rows] = values.shape[..] else {
                return Err(self.wrong(&values, "one axis"));
            };
            let update = match role {
                Role::NormScale => Update::Replacement { values },
                _ => Update::Difference { values },
            };
            let draft = Draft {
                update,
                factor: 1.0,
                magnitude: None,
                roles: vec![role],
            };
            self.share_out(draft, rows, columns, suffix, targets)?;
        }
        Ok(())
    }

    fn low_rank(&self) -> Result<Option<Scaled>> {
        let Some(Pair { up, down }) = self.pair(Role::Up, Role::Down)? else {
            return Ok(None);
        };
        let factor = self.factor(down.shape[0])?;
        let roles = vec![Role::Down, Role::Up];
        let update = Update::LowRank { down, up };
        Ok(Some(Scaled {
            update,
            factor,
            roles,
        }))
    }

    fn hadamard(&self) -> Result<Option<Scaled>> {
        use Role::{HadamardFirstDown, HadamardFirstUp, HadamardSecondDown, HadamardSecondUp};
        let first = self.pair(HadamardFirstUp, HadamardFirstDown)?;
        let second = self.pair(HadamardSecondUp, HadamardSecondDown)?;
        let (first, second) = match (first, second) {
            (None, None) => return Ok(None),
            (Some(first), Some(second)) => (first, second),
            (Some(_), None) => return Err(self.missing(HadamardFirstUp, HadamardSecondUp)),
            (None, Some(_)) => return Err(self.missing(HadamardSecondUp, HadamardFirstUp)),
        };
        let outer = |pair: &Pair| [pair.up.shape[0], pair.down.shape[1]];
        let ([rows, columns], [other_rows, other_columns]) = (outer(&first), outer(&second));
        if rows != other_rows {
            return Err(self.wrong(&second.up, format!("{rows} rows")));
        }
        if columns != other_columns {
            return Err(self.wrong(&second.down, format!("{columns} columns")));
        }
        let factor = self.factor(first.down.shape[0])?;
        let roles = vec![
            HadamardFirstUp,
            HadamardFirstDown,
            HadamardSecondUp,
            HadamardSecondDown,
        ];
        let update = Update::Hadamard { first, second };
        Ok(Some(Scaled {
            update,
            factor,
            roles,
        }))
    }

    fn kronecker(&self) -> Result<Option<Scaled>> {
        use Role::{
            KroneckerLeft, KroneckerLeftDown, KroneckerLeftUp, KroneckerRight, KroneckerRightDown,
            KroneckerRightUp,
        };
        let left = self.kronecker_factor(KroneckerLeft, KroneckerLeftUp, KroneckerLeftDown)?;
        let right = self.kronecker_factor(KroneckerRight, KroneckerRightUp, KroneckerRightDown)?;
        let (left, right) = match (left, right) {
            (None, None) => return Ok(None),
            (Some(left), Some(right)) => (left, right),
            (Some(left), None) => return Err(self.missing_partner(&left.tensor().key, "lokr_w2")),
            (None, Some(right)) => return Err(self.missing_partner(&right.tensor().key, "lokr_w1")),
        };
        // Two whole matrices have no rank, so their alpha has no meaning.
        let rank = match (&left, &right) {
            (_, Factor::Product(pair)) | (Factor::Product(pair), _) => Some(pair.down.shape[0]),
            _ => None,
        };
        let factor = rank.map_or(Ok(1.0), |rank| self.factor(rank))?;
        let all = [
            KroneckerLeft,
            KroneckerLeftUp,
            KroneckerLeftDown,
            KroneckerRight,
            KroneckerRightUp,
            KroneckerRightDown,
        ];
        let roles = all.into_iter().filter(|role| self.keys.contains_key(role));
        Ok(Some(Scaled {
            roles: roles.collect(),
            update: Update::Kronecker { left, right },
            factor,
        }))
    }

    fn kronecker_factor(&self, whole: Role, up: Role, down: Role) -> Result<Option<Factor>> {
        let product = self.pair(up, down)?.map(Factor::Product);
        match (self.matrix(whole)?, product) {
            (Some(whole), Some(product)) => {
                let expected = format!("it alone, or the product with `{}`", product.tensor().key);
                Err(Error::tensor(self.file, &whole.key, expected, "both"))
            }
            (whole, product) => Ok(whole.map(Factor::Whole).or(product)),
        }
    }

    /// `DoRA`'s lengths, which need something to give a length to.
    fn magnitude(&self, weights: &[Scaled]) -> Result<Option<Stored>> {
        let Some(magnitude) = self.stored(Role::Magnitude)? else {
            return Ok(None);
        };
        let [weight] = weights else {
            return Err(self.missing_partner(&magnitude.key, "one update of the weight"));
        };
        let rows = self.row_count(&weight.update)?;
        let columns = weight.update.columns().unwrap_or(1);
        let is_of_rows = matches!(magnitude.shape[..], [n] | [n, 1] if n == rows);
        let is_of_columns = magnitude.shape[..] == [1, columns];
        if !is_of_rows && !is_of_columns {
            return Err(self.wrong(&magnitude, format!("shape [{rows}, 1] or [1, {columns}]")));
        }
        if !is_of_rows && !matches!(self.meaning.split, Split::Whole | Split::SwappedHalves) {
            // The length of a column of the fused matrix is not known from a part of it.
            return Err(Error::Unsupported {
                file: self.file.to_owned(),
                kind: "DoRA by columns of a fused matrix",
                keys: crate::error::shown_list([magnitude.key.as_str()].into_iter()),
            });
        }
        Ok(Some(magnitude))
    }

    /// One target a module, each with its rows.
    fn share_out(
        &self,
        draft: Draft,
        stored: usize,
        columns: Option<usize>,
        suffix: &str,
        targets: &mut Vec<LoraTarget>,
    ) -> Result<()> {
        let Some(shares) = shares(self.meaning.split, stored, columns) else {
            let modules = self.meaning.modules.join(", ");
            let key = draft
                .roles
                .iter()
                .rev()
                .find_map(|role| self.keys.get(role));
            let key = key.map_or(self.module, String::as_str);
            let expected = format!("rows for {modules}");
            return Err(Error::tensor(
                self.file,
                key,
                expected,
                format!("{stored} rows"),
            ));
        };
        let alpha = self.keys.get(&Role::Alpha);
        let keys = draft.roles.iter().filter_map(|role| self.keys.get(role));
        let keys: Vec<String> = keys.chain(alpha).cloned().collect();
        for (module, rows) in self.meaning.modules.iter().zip(shares) {
            targets.push(LoraTarget {
                component: self.meaning.component,
                parameter: format!("{module}.{suffix}"),
                update: draft.update.clone(),
                rows,
                factor: draft.factor,
                magnitude: draft.magnitude.clone(),
                keys: keys.clone(),
            });
        }
        Ok(())
    }

    fn row_count(&self, update: &Update) -> Result<usize> {
        match update {
            Update::LowRank { up, .. } => Ok(up.shape[0]),
            Update::Hadamard { first, .. } => Ok(first.up.shape[0]),
            Update::Kronecker { left, right } => {
                let ([rows, columns], [more_rows, more_columns]) = (left.shape(), right.shape());
                let elements = [rows, columns, more_rows, more_columns]
                    .iter()
                    .try_fold(1usize, |product, &size| product.checked_mul(size));
                let too_large = || self.wrong(right.tensor(), "a product that fits in memory");
                elements.ok_or_else(too_large)?;
                Ok(rows * more_rows)
            }
            Update::Difference { values } | Update::Replacement { values } => Ok(values.shape[0]),
        }
    }

    /// alpha / rank, from the file or the settings beside it.
    fn factor(&self, rank: usize) -> Result<f32> {
        let Some(key) = self.keys.get(&Role::Alpha) else {
            return Ok(self.settings.factor(self.module, rank) as f32);
        };
        let refused = |found: String| Error::tensor(self.file, key, "one finite number", found);
        let tensor = self.tensors.get(key)?;
        if tensor.element_count() != 1 {
            return Err(refused(format!("shape {}", tensor.shape())));
        }
        let alpha = if tensor.dtype().is_float() {
            f64::from(
                tensor
                    .to_f32_vec()
                    .map_err(|error| refused(error.to_string()))?[0],
            )
        } else {
            tensor
                .to_i64_vec()
                .map_err(|error| refused(error.to_string()))?[0] as f64
        };
        let factor = (alpha / rank as f64) as f32;
        if factor.is_finite() {
            Ok(factor)
        } else {
            Err(refused(alpha.to_string()))
        }
    }

    fn pair(&self, up: Role, down: Role) -> Result<Option<Pair>> {
        let pair = match (self.matrix(up)?, self.matrix(down)?) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(self.missing(up, down)),
            (None, Some(_)) => return Err(self.missing(down, up)),
            (Some(up), Some(down)) => Pair { up, down },
        };
        let rank = pair.down.shape[0];
        if pair.up.shape[1] != rank {
            let expected = format!("rank {rank} as `{}` has", pair.down.key);
            return Err(self.wrong(&pair.up, expected));
        }
        Ok(Some(pair))
    }

    fn matrix(&self, role: Role) -> Result<Option<Stored>> {
        match self.stored(role)? {
            Some(stored) if stored.shape.len() != 2 => Err(self.wrong(&stored, "two axes")),
            other => Ok(other),
        }
    }

    fn stored(&self, role: Role) -> Result<Option<Stored>> {
        let Some(key) = self.keys.get(&role) else {
            return Ok(None);
        };
        let shape = flattened(self.tensors.shape(key)?);
        let stored = Stored {
            key: key.clone(),
            shape,
        };
        if stored.shape.is_empty() || stored.shape.contains(&0) {
            return Err(self.wrong(&stored, "at least one element and one axis"));
        }
        Ok(Some(stored))
    }

    fn wrong(&self, stored: &Stored, expected: impl Into<String>) -> Error {
        Error::tensor(
            self.file,
            &stored.key,
            expected,
            format!("shape {}", stored.shape),
        )
    }

    fn missing(&self, present: Role, absent: Role) -> Error {
        let key = self.keys.get(&present).map_or(self.module, String::as_str);
        self.missing_partner(key, absent.partner_name())
    }

    fn missing_partner(&self, key: &str, partner: &str) -> Error {
        let expected = format!("a partner ({partner}) of the same module");
        Error::tensor(self.file, key, expected, "none")
    }
}

/// An update of the weight before its rows are shared out.
struct Scaled {
    update: Update,
    factor: f32,
    roles: Vec<Role>,
}

struct Draft {
    update: Update,
    factor: f32,
    magnitude: Option<Stored>,
    roles: Vec<Role>,
}

impl Role {
    /// How messages call it.
    fn partner_name(self) -> &'static str {
        match self {
            Self::Down => "lora_A or lora_down",
            Self::Up => "lora_B or lora_up",
            Self::HadamardFirstUp => "hada_w1_a",
            Self::HadamardFirstDown => "hada_w1_b",
            Self::HadamardSecondUp => "hada_w2_a",
            Self::HadamardSecondDown => "hada_w2_b",
            Self::KroneckerLeftUp => "lokr_w1_a",
            Self::KroneckerLeftDown => "lokr_w1_b",
            Self::KroneckerRightUp => "lokr_w2_a",
            Self::KroneckerRightDown => "lokr_w2_b",
            _ => "the other half",
        }
    }
}

/// The shape without the trailing ones that a pointwise convolution has.
pub(crate) fn flattened(shape: &Shape) -> Shape {
    match shape[..] {
        [rows, columns, 1, 1] | [rows, columns, 1] => Shape::from([rows, columns]),
        _ => shape.clone(),
    }
}

/// The rows of each module; `None` where they cannot be shared out so.
fn shares(split: Split, stored: usize, columns: Option<usize>) -> Option<Vec<Rows>> {
    let rows = |start: usize, end: usize| Rows {
        start,
        end,
        stored,
        swapped: false,
    };
    let thirds = |size: usize| {
        [
            rows(0, size),
            rows(size, 2 * size),
            rows(2 * size, 3 * size),
        ]
    };
    match split {
        Split::Whole => Some(vec![rows(0, stored)]),
        Split::SwappedHalves => stored.is_multiple_of(2).then(|| {
            vec![Rows {
                swapped: true,
                ..rows(0, stored)
            }]
        }),
        Split::Thirds => stored
            .is_multiple_of(3)
            .then(|| thirds(stored / 3).to_vec()),
        Split::ThirdsAndRest => {
            // The three are square, so their size is the number of columns.
            let size = columns?;
            let used = size.checked_mul(3).filter(|&used| used < stored)?;
            let mut all = thirds(size).to_vec();
            all.push(rows(used, stored));
            Some(all)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_cover_every_row_once(size in 1usize..50, rest in 1usize..200) {
            for (split, stored) in [
                (Split::Whole, rest),
                (Split::Thirds, 3 * size),
                (Split::ThirdsAndRest, 3 * size + rest),
            ] {
                let found = shares(split, stored, Some(size)).unwrap();
                let mut next = 0;
                for rows in found {
                    prop_assert_eq!(rows.start, next);
                    prop_assert_eq!(rows.stored, stored);
                    prop_assert!(!rows.is_empty());
                    next = rows.end;
                }
                prop_assert_eq!(next, stored);
            }
        }

        #[test]
        fn rows_that_do_not_divide_are_refused(stored in 0usize..400, columns in any::<usize>()) {
            prop_assert_eq!(shares(Split::Thirds, stored, None).is_some(), stored % 3 == 0);
            prop_assert_eq!(shares(Split::SwappedHalves, stored, None).is_some(), stored % 2 == 0);
            prop_assert!(shares(Split::ThirdsAndRest, stored, None).is_none());
            let shared = shares(Split::ThirdsAndRest, stored, Some(columns)).is_some();
            prop_assert_eq!(shared, (columns as u128) * 3 < stored as u128);
        }
    }
}
