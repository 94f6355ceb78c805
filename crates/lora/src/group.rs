//! All tensors of one module in a file → updates of parameters.
//!
//! Rows of fused matrices are shared out here; what the tensors make up is in
//! `products`.

use std::collections::BTreeMap;

use tintype_tensor::Shape;
use tintype_weights::Parameters;

use crate::key::Role;
use crate::names::{Meaning, Split};
use crate::products::Scaled;
use crate::rows::shares;
use crate::settings::Settings;
use crate::{Error, LoraTarget, Result, Stored, Update};

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
            self.share_out(&target, stored, columns, "weight", &mut targets)?;
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
            self.share_out(&draft, rows, columns, "bias", targets)?;
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
            self.share_out(&draft, rows, columns, suffix, targets)?;
        }
        Ok(())
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
        draft: &Draft,
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

    pub(crate) fn matrix(&self, role: Role) -> Result<Option<Stored>> {
        match self.stored(role)? {
            Some(stored) if stored.shape.len() != 2 => Err(self.wrong(&stored, "two axes")),
            other => Ok(other),
        }
    }

    pub(crate) fn stored(&self, role: Role) -> Result<Option<Stored>> {
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

    pub(crate) fn wrong(&self, stored: &Stored, expected: impl Into<String>) -> Error {
        Error::tensor(
            self.file,
            &stored.key,
            expected,
            format!("shape {}", stored.shape),
        )
    }

    pub(crate) fn missing(&self, present: Role, absent: Role) -> Error {
        let key = self.keys.get(&present).map_or(self.module, String::as_str);
        self.missing_partner(key, absent.partner_name())
    }

    pub(crate) fn missing_partner(&self, key: &str, partner: &str) -> Error {
        let expected = format!("a partner ({partner}) of the same module");
        Error::tensor(self.file, key, expected, "none")
    }
}

struct Draft {
    update: Update,
    factor: f32,
    magnitude: Option<Stored>,
    roles: Vec<Role>,
}

/// The shape without the trailing ones that a pointwise convolution has.
pub(crate) fn flattened(shape: &Shape) -> Shape {
    match shape[..] {
        [rows, columns, 1, 1] | [rows, columns, 1] => Shape::from([rows, columns]),
        _ => shape.clone(),
    }
}
