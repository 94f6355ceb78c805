//! Ranges of sizes: what a symbol can be, and what an engine is to be fastest for.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use tintype_ir::{Dim, Symbol, TensorType};

use crate::{Error, Result};

/// The values that a size may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SizeRange {
    /// The least.
    pub min: usize,
    /// The one to be fastest for.
    pub opt: usize,
    /// The greatest.
    pub max: usize,
}

impl SizeRange {
    /// One size, known when the engine is built.
    pub const fn fixed(size: usize) -> Self {
        Self {
            min: size,
            opt: size,
            max: size,
        }
    }

    /// A range of which nothing is known but its ends. It is to be fastest for their geometric
    /// mean: nobody knows better without knowing the model.
    pub fn of(range: &RangeInclusive<usize>) -> Self {
        let (min, max) = (*range.start(), *range.end());
        let mean = (min as f64 * max as f64).sqrt().round() as usize;
        let opt = mean.clamp(min, max.max(min));
        Self { min, opt, max }
    }
}

/// The symbols of a graph, those of one size put in as numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Symbols {
    ranges: BTreeMap<Symbol, SizeRange>,
}

impl Symbols {
    /// The graph's ranges, narrowed by those that the caller wants.
    pub(super) fn new(
        declared: &BTreeMap<Symbol, RangeInclusive<usize>>,
        wanted: &BTreeMap<String, SizeRange>,
    ) -> Result<Self> {
        let mut ranges = BTreeMap::new();
        for (symbol, range) in declared {
            let wanted = wanted.get(&**symbol).copied();
            let size = wanted.unwrap_or_else(|| SizeRange::of(range));
            let ordered = size.min <= size.opt && size.opt <= size.max;
            if !ordered || !range.contains(&size.min) || !range.contains(&size.max) {
                return Err(Error::Setting {
                    what: format!("the range of `{symbol}`"),
                    expected: format!("min <= opt <= max within {range:?}"),
                    found: format!("{} <= {} <= {}", size.min, size.opt, size.max),
                });
            }
            ranges.insert(symbol.clone(), size);
        }
        let unknown = wanted
            .keys()
            .find(|name| !ranges.contains_key(name.as_str()));
        if let Some(unknown) = unknown {
            let known: Vec<_> = ranges.keys().map(|symbol| &**symbol).collect();
            return Err(Error::Setting {
                what: "the range of a symbol".to_owned(),
                expected: format!("one of {}", known.join(", ")),
                found: unknown.clone(),
            });
        }
        Ok(Self { ranges })
    }

    /// Those whose size is known at run time only.
    pub(super) fn dynamic(&self) -> impl Iterator<Item = (&Symbol, SizeRange)> {
        let ranges = self.ranges.iter().map(|(symbol, &range)| (symbol, range));
        ranges.filter(|(_, range)| range.min != range.max)
    }

    /// A dimension with the symbols of one size put in.
    pub(super) fn dim(&self, dim: &Dim) -> Result<Dim> {
        let overflow = || Error::from(tintype_ir::Error::Overflow(dim.to_string()));
        let mut sum = Dim::from(0);
        for (coefficient, symbols) in dim.terms() {
            let mut term = Dim::from(coefficient);
            for symbol in symbols {
                let factor = match self.ranges.get(symbol) {
                    Some(range) if range.min == range.max => Dim::from(range.min),
                    _ => Dim::symbol(symbol),
                };
                term = term.checked_mul(&factor).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(&term).ok_or_else(overflow)?;
        }
        Ok(sum)
    }

    pub(super) fn dims(&self, dims: &[Dim]) -> Result<Vec<Dim>> {
        dims.iter().map(|dim| self.dim(dim)).collect()
    }

    pub(super) fn ty(&self, ty: &TensorType) -> Result<TensorType> {
        Ok(ty.with_dims(self.dims(&ty.dims)?))
    }

    /// Smallest, usual and largest shape of a type, if it is not static.
    pub(super) fn shapes(&self, ty: &TensorType) -> Result<Option<[Vec<i64>; 3]>> {
        if ty.is_static() {
            return Ok(None);
        }
        let all = |pick: fn(SizeRange) -> [usize; 2]| -> Result<Vec<i64>> {
            let sizes = ty.dims.iter().map(|dim| self.bound(dim, pick));
            sizes.collect()
        };
        Ok(Some([
            all(|range| [range.min, range.max])?,
            all(|range| [range.opt, range.opt])?,
            all(|range| [range.max, range.min])?,
        ]))
    }

    /// The value with the first pick in positive terms and the second in negative ones: with
    /// least and greatest value a lower bound. It is no tighter than terms by themselves are.
    fn bound(&self, dim: &Dim, pick: fn(SizeRange) -> [usize; 2]) -> Result<i64> {
        let overflow = || Error::from(tintype_ir::Error::Overflow(dim.to_string()));
        let mut total = 0_i64;
        for (coefficient, symbols) in dim.terms() {
            let mut term = coefficient;
            for symbol in symbols {
                let range = self.ranges.get(symbol).copied();
                let range = range
                    .ok_or_else(|| Error::from(tintype_ir::Error::Unbound(symbol.to_string())))?;
                let size = pick(range)[usize::from(coefficient < 0)];
                let size = i64::try_from(size).map_err(|_| overflow())?;
                term = term.checked_mul(size).ok_or_else(overflow)?;
            }
            total = total.checked_add(term).ok_or_else(overflow)?;
        }
        Ok(total.max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_tensor::DType;

    fn symbols(wanted: &[(&str, SizeRange)]) -> Result<Symbols> {
        let declared = BTreeMap::from([(Symbol::from("a"), 1..=8), (Symbol::from("b"), 2..=4)]);
        let wanted = wanted.iter().map(|&(name, range)| (name.to_owned(), range));
        Symbols::new(&declared, &wanted.collect())
    }

    #[test]
    fn one_size_is_a_number() {
        let symbols = symbols(&[("a", SizeRange::fixed(3))]).unwrap();
        let dim = Dim::symbol("a") * Dim::symbol("b") * 2 + Dim::symbol("a");
        assert_eq!(symbols.dim(&dim).unwrap().to_string(), "6*b + 3");
        let dynamic: Vec<_> = symbols
            .dynamic()
            .map(|(symbol, _)| symbol.to_string())
            .collect();
        assert_eq!(dynamic, ["b"]);
    }

    #[test]
    fn shapes_are_bounds() {
        let symbols = symbols(&[(
            "b",
            SizeRange {
                min: 2,
                opt: 3,
                max: 4,
            },
        )])
        .unwrap();
        let minus = Dim::symbol("a").checked_sub(&Dim::symbol("b")).unwrap();
        let ty = TensorType::new(DType::F32, [Dim::symbol("a") * 2 + 1, minus]);
        let [min, opt, max] = symbols.shapes(&ty).unwrap().unwrap();
        assert_eq!((min, opt, max), (vec![3, 0], vec![7, 0], vec![17, 6]));
    }

    #[test]
    fn ranges_outside_are_refused() {
        let wide = SizeRange {
            min: 1,
            opt: 2,
            max: 9,
        };
        let error = symbols(&[("a", wide)]).unwrap_err();
        assert!(error.to_string().contains("within 1..=8"), "{error}");
        let error = symbols(&[("c", SizeRange::fixed(1))]).unwrap_err();
        assert!(
            error.to_string().contains("expected one of a, b, found c"),
            "{error}"
        );
    }
}
