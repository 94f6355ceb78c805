//! Dimensions: whole-number polynomials over named symbols, in a normal form.
//!
//! `2*batch*image_tokens + 77` is a dimension. Two dimensions are equal exactly
//! if their normal forms are, so shape inference compares polynomials and never
//! guesses. There is no division but [`Dim::div_exact`], which either has a
//! whole polynomial as its result or none.
//!
//! ```
//! use tintype_ir::Dim;
//! let tokens = Dim::symbol("image_tokens");
//! let both = tokens.clone() + 512;
//! assert_eq!((both * 2).to_string(), "2*image_tokens + 1024");
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul};
use std::sync::Arc;

/// A named quantity that is known only when a program runs.
pub type Symbol = Arc<str>;

/// A product of symbols in sorted order; empty for the constant term.
type Monomial = Vec<Symbol>;

/// A dimension. The coefficients of the normal form are never zero.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Dim(BTreeMap<Monomial, i64>);

impl Dim {
    /// The dimension that is one symbol.
    pub fn symbol(name: &str) -> Self {
        Self(BTreeMap::from([(vec![Symbol::from(name)], 1)]))
    }

    /// Whether the text form can name a symbol so: a letter or `_`, then letters, digits,
    /// `_`, and none of the words that stand for values.
    pub fn is_symbol_name(name: &str) -> bool {
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        starts && word && !matches!(name, "inf" | "nan" | "true" | "false")
    }

    /// The value, if no symbol occurs.
    pub fn as_constant(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&Monomial::new()).copied(),
            _ => None,
        }
    }

    /// The symbol, if the dimension is just that.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        let (monomial, &coefficient) = self.0.first_key_value()?;
        match monomial.as_slice() {
            [symbol] if coefficient == 1 && self.0.len() == 1 => Some(symbol),
            _ => None,
        }
    }

    /// Every symbol that occurs, perhaps more than once.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.0.keys().flatten()
    }

    /// The sum; `None` on overflow.
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let mut sum = self.clone();
        for (monomial, &coefficient) in &other.0 {
            sum.add_term(monomial.clone(), coefficient)?;
        }
        Some(sum)
    }

    /// The difference; `None` on overflow.
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        self.checked_add(&other.checked_mul(&Self::from(-1))?)
    }

    /// The product; `None` on overflow, over a thousand terms, or a degree over 64.
    pub fn checked_mul(&self, other: &Self) -> Option<Self> {
        if self.0.len().saturating_mul(other.0.len()) > MAX_TERMS {
            return None;
        }
        let mut product = Self::default();
        for (left, &a) in &self.0 {
            for (right, &b) in &other.0 {
                let mut monomial: Monomial = left.iter().chain(right).cloned().collect();
                if monomial.len() > MAX_DEGREE {
                    return None;
                }
                monomial.sort();
                product.add_term(monomial, a.checked_mul(b)?)?;
            }
        }
        Some(product)
    }

    /// The quotient, if the division leaves no remainder.
    pub fn div_exact(&self, divisor: &Self) -> Option<Self> {
        let (leading, &factor) = divisor.leading()?;
        let mut rest = self.clone();
        let mut quotient = Self::default();
        while let Some((monomial, &coefficient)) = rest.leading() {
            if coefficient.checked_rem(factor)? != 0 || quotient.0.len() > MAX_TERMS {
                return None;
            }
            let term = Self(BTreeMap::from([(
                without(monomial, leading)?,
                coefficient.checked_div(factor)?,
            )]));
            let next = rest.checked_sub(&term.checked_mul(divisor)?)?;
            quotient = quotient.checked_add(&term)?;
            // Progress in the graded order ends the loop; stop if there is none.
            if next
                .leading()
                .is_some_and(|(after, _)| !less(after, rest.leading_monomial()))
            {
                return None;
            }
            rest = next;
        }
        Some(quotient)
    }

    /// The value under an assignment of symbols; `None` if one is missing or on overflow.
    pub fn evaluate(&self, value_of: impl Fn(&str) -> Option<i64>) -> Option<i64> {
        let mut total = 0i64;
        for (monomial, &coefficient) in &self.0 {
            let mut term = coefficient;
            for symbol in monomial {
                term = term.checked_mul(value_of(symbol)?)?;
            }
            total = total.checked_add(term)?;
        }
        Some(total)
    }

    /// The dimension with these symbols replaced by numbers; the others stay. `None` on overflow.
    pub fn substituted(&self, value_of: impl Fn(&str) -> Option<i64>) -> Option<Self> {
        let mut result = Self::default();
        for (monomial, &coefficient) in &self.0 {
            let mut factor = coefficient;
            let mut rest = Monomial::new();
            for symbol in monomial {
                match value_of(symbol) {
                    Some(value) => factor = factor.checked_mul(value)?,
                    None => rest.push(symbol.clone()),
                }
            }
            if factor != 0 {
                result.add_term(rest, factor)?;
            }
        }
        Some(result)
    }

    /// The terms of the normal form, highest degree first: coefficient and symbols.
    pub fn terms(&self) -> Vec<(i64, &[Symbol])> {
        let mut terms: Vec<_> = self.0.iter().map(|(m, &c)| (c, m.as_slice())).collect();
        terms.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| a.1.cmp(b.1)));
        terms
    }

    fn add_term(&mut self, monomial: Monomial, coefficient: i64) -> Option<()> {
        let sum = self
            .0
            .get(&monomial)
            .copied()
            .unwrap_or(0)
            .checked_add(coefficient)?;
        if sum == 0 {
            self.0.remove(&monomial);
        } else {
            self.0.insert(monomial, sum);
        }
        Some(())
    }

    fn leading(&self) -> Option<(&Monomial, &i64)> {
        self.0.iter().max_by(|a, b| order(a.0, b.0))
    }

    fn leading_monomial(&self) -> &[Symbol] {
        self.leading().map_or(&[], |(monomial, _)| monomial)
    }
}

const MAX_TERMS: usize = 1000;
const MAX_DEGREE: usize = 64;

/// Graded lexicographic order, which multiplication keeps.
fn order(a: &[Symbol], b: &[Symbol]) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| b.cmp(a))
}

fn less(a: &[Symbol], b: &[Symbol]) -> bool {
    order(a, b).is_lt()
}

/// `monomial / divisor`, if every symbol of the divisor occurs often enough.
fn without(monomial: &[Symbol], divisor: &[Symbol]) -> Option<Monomial> {
    let mut rest = monomial.to_vec();
    for symbol in divisor {
        let position = rest.iter().position(|other| other == symbol)?;
        rest.remove(position);
    }
    Some(rest)
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        if value == 0 {
            Self::default()
        } else {
            Self(BTreeMap::from([(Monomial::new(), value)]))
        }
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Self {
        Self::from(i64::try_from(value).expect("a size within i64"))
    }
}

impl From<i32> for Dim {
    fn from(value: i32) -> Self {
        Self::from(i64::from(value))
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Self::symbol(name)
    }
}

impl From<&Self> for Dim {
    fn from(dim: &Self) -> Self {
        dim.clone()
    }
}

impl<T: Into<Dim>> Add<T> for Dim {
    type Output = Self;

    /// # Panics
    /// On overflow; arithmetic on dimensions from outside goes through `checked_add`.
    fn add(self, other: T) -> Self {
        self.checked_add(&other.into())
            .expect("a dimension within i64")
    }
}

impl<T: Into<Dim>> Mul<T> for Dim {
    type Output = Self;

    /// # Panics
    /// On overflow; arithmetic on dimensions from outside goes through `checked_mul`.
    fn mul(self, other: T) -> Self {
        self.checked_mul(&other.into())
            .expect("a dimension within i64")
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        for (index, (coefficient, monomial)) in self.terms().into_iter().enumerate() {
            match (index, coefficient < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            let magnitude = coefficient.unsigned_abs();
            let names = monomial.join("*");
            match (magnitude, names.is_empty()) {
                (_, true) => write!(f, "{magnitude}")?,
                (1, false) => f.write_str(&names)?,
                (_, false) => write!(f, "{magnitude}*{names}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(name: &str) -> Dim {
        Dim::symbol(name)
    }

    #[test]
    fn normal_form_decides_equality() {
        let (a, b) = (dim("a"), dim("b"));
        assert_eq!(
            (a.clone() + b.clone()) * (a.clone() + b.clone()),
            a.clone() * a.clone() + a.clone() * b.clone() * 2 + b.clone() * b.clone()
        );
        assert_eq!(a.checked_sub(&a).unwrap(), Dim::from(0));
        assert_eq!((b * a * 3 + 1).to_string(), "3*a*b + 1");
    }

    #[test]
    fn division_is_exact_or_refused() {
        let (a, b) = (dim("a"), dim("b"));
        let product = (a.clone() + 2) * (b.clone() + 3) * 4;
        assert_eq!(product.div_exact(&(a.clone() + 2)), Some((b + 3) * 4));
        assert_eq!(product.div_exact(&Dim::from(8)), None);
        assert_eq!((a.clone() + 1).div_exact(&a), None);
        assert_eq!(a.div_exact(&Dim::from(0)), None);
    }

    #[test]
    fn overflow_is_refused() {
        assert_eq!(Dim::from(i64::MAX).checked_mul(&Dim::from(2)), None);
        assert_eq!(dim("a").evaluate(|_| None), None);
        let square = dim("a") * dim("a");
        assert_eq!(square.evaluate(|_| Some(i64::MAX)), None);
        assert_eq!(square.evaluate(|_| Some(5)), Some(25));
    }
}
