//! The kinds of update that a module's tensors may make up: products of matrices.
//!
//! Here partners meet: ranks must agree, and nobody may be missing.

use crate::group::Group;
use crate::key::Role;
use crate::{Error, Factor, Pair, Result, Update};

/// An update of the weight before its rows are shared out.
pub(crate) struct Scaled {
    pub(crate) update: Update,
    /// alpha / rank
    pub(crate) factor: f32,
    /// The tensors that it is made of.
    pub(crate) roles: Vec<Role>,
}

impl Group<'_> {
    /// A pair of `up` and `down`.
    pub(crate) fn low_rank(&self) -> Result<Option<Scaled>> {
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

    /// `LoHa`'s two pairs.
    pub(crate) fn hadamard(&self) -> Result<Option<Scaled>> {
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

    /// `LoKr`'s two matrices.
    pub(crate) fn kronecker(&self) -> Result<Option<Scaled>> {
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

    /// alpha / rank, from the file or the settings beside it.
    fn factor(&self, rank: usize) -> Result<f32> {
        let Some(key) = self.keys.get(&Role::Alpha) else {
            let factor = self.settings.factor(self.module, rank) as f32;
            let refused = || Error::Settings {
                file: self.file.to_owned(),
                expected: format!("a finite alpha for `{}`", crate::error::shown(self.module)),
                found: format!("the factor {factor}"),
            };
            return factor.is_finite().then_some(factor).ok_or_else(refused);
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
}

impl Role {
    /// How messages call it.
    pub(crate) fn partner_name(self) -> &'static str {
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
