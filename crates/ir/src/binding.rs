//! Values of symbols: what the three programs of one graph share.

use std::collections::BTreeMap;

use tintype_tensor::{DType, Shape};

use crate::{Dim, Error, Graph, Result, Symbol};

/// A value for each symbol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Binding(BTreeMap<Symbol, usize>);

impl Binding {
    /// No symbol bound.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a symbol.
    pub fn get(&self, symbol: &str) -> Option<usize> {
        self.0.get(symbol).copied()
    }

    /// Binds a symbol, replacing an earlier value.
    pub fn set(&mut self, symbol: &str, value: usize) {
        self.0.insert(Symbol::from(symbol), value);
    }

    /// The size of a dimension; an error for an unbound symbol, an overflow or a negative size.
    pub fn evaluate(&self, dim: &Dim) -> Result<usize> {
        if let Some(unbound) = dim.symbols().find(|symbol| self.get(symbol).is_none()) {
            return Err(Error::Unbound(unbound.to_string()));
        }
        dim.evaluate(|symbol| self.get(symbol).and_then(|value| i64::try_from(value).ok()))
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| Error::Overflow(dim.to_string()))
    }

    /// Takes in the shape of one input of `graph`: binds symbols that stand alone,
    /// checks dtype, rank, ranges, and all sizes that follow from bound symbols. After an error nothing has changed.
    pub fn bind_input(
        &mut self,
        graph: &Graph,
        name: &str,
        dtype: DType,
        shape: &Shape,
    ) -> Result<()> {
        let Some(input) = graph.inputs().iter().find(|input| input.name == name) else {
            let names: Vec<_> = graph
                .inputs()
                .iter()
                .map(|input| input.name.as_str())
                .collect();
            return Err(Error::Input {
                input: name.to_owned(),
                expected: format!("one of the inputs {}", names.join(", ")),
                found: format!("{dtype}{shape}"),
            });
        };
        let mismatch = || Error::Input {
            input: name.to_owned(),
            expected: input.ty.to_string(),
            found: format!("{dtype}{shape}"),
        };
        if input.ty.dtype != dtype || input.ty.rank() != shape.len() {
            return Err(mismatch());
        }
        let mut bound = self.clone();
        for (dim, &size) in input.ty.dims.iter().zip(shape.iter()) {
            match dim.as_symbol() {
                Some(symbol) => bound.bind_symbol(graph, name, symbol, size)?,
                None if dim.symbols().any(|symbol| bound.get(symbol).is_none()) => {}
                None if bound.evaluate(dim)? != size => return Err(mismatch()),
                None => {}
            }
        }
        *self = bound;
        Ok(())
    }

    fn bind_symbol(
        &mut self,
        graph: &Graph,
        input: &str,
        symbol: &Symbol,
        found: usize,
    ) -> Result<()> {
        if let Some(range) = graph.symbols().get(symbol)
            && !range.contains(&found)
        {
            return Err(Error::Range {
                input: input.to_owned(),
                symbol: symbol.to_string(),
                min: *range.start(),
                max: *range.end(),
                found,
            });
        }
        match self.0.insert(symbol.clone(), found) {
            Some(expected) if expected != found => Err(Error::Conflict {
                input: input.to_owned(),
                symbol: symbol.to_string(),
                expected,
                found,
            }),
            _ => Ok(()),
        }
    }
}
