//! A graph for fewer sizes than it allows.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::{Dim, Error, Graph, Op, Result, Symbol, TensorType, verify};

impl Graph {
    /// The graph for these ranges of symbols, which lie within its own; symbols that are not
    /// named keep theirs. One that is left a single value becomes that number everywhere.
    ///
    /// What a backend compiles ahead of time is best for few sizes.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// let text = "graph g { dim n = 1..=64 input step %x: f32[n] %0: f32[n] = neg %x output y = %0 }";
    /// let graph = tintype_ir::parse(text)?;
    /// let narrowed = graph.narrowed(&BTreeMap::from([("n".into(), 8..=8)]))?;
    /// assert!(narrowed.symbols().is_empty());
    /// assert_eq!(narrowed.inputs()[0].ty.to_string(), "f32[8]");
    /// # Ok::<(), tintype_ir::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Narrow`] for a symbol that the graph does not have, or a range that is empty or
    /// reaches beyond the graph's own.
    pub fn narrowed(&self, ranges: &BTreeMap<Symbol, RangeInclusive<usize>>) -> Result<Self> {
        let mut graph = self.clone();
        let mut values = BTreeMap::new();
        for (symbol, range) in ranges {
            self.expect_within(symbol, range)?;
            if range.start() == range.end() {
                graph.symbols.remove(symbol);
                values.insert(symbol.clone(), *range.start());
            } else {
                graph.symbols.insert(symbol.clone(), range.clone());
            }
        }
        if values.is_empty() {
            return Ok(graph);
        }
        for input in &mut graph.inputs {
            substitute_type(&mut input.ty, &values)?;
        }
        for node in &mut graph.nodes {
            substitute_type(&mut node.ty, &values)?;
            substitute_op(&mut node.op, &values)?;
        }
        verify(&graph)?;
        Ok(graph)
    }

    /// Whether the graph has this symbol, and the range lies within its own.
    ///
    /// # Errors
    /// [`Error::Narrow`], which says what there is.
    pub fn expect_within(&self, symbol: &Symbol, range: &RangeInclusive<usize>) -> Result<()> {
        let own = self.symbols.get(symbol);
        let is_within = own.is_some_and(|own| {
            !range.is_empty() && own.contains(range.start()) && own.contains(range.end())
        });
        if is_within {
            return Ok(());
        }
        Err(Error::Narrow {
            symbol: symbol.to_string(),
            expected: match own {
                Some(own) => format!("a range within {own:?}"),
                None => format!("one of the symbols {}", self.symbol_names()),
            },
            found: format!("{range:?}"),
        })
    }

    fn symbol_names(&self) -> String {
        let names: Vec<&str> = self.symbols.keys().map(|symbol| &**symbol).collect();
        names.join(", ")
    }
}

fn substitute_type(ty: &mut TensorType, values: &BTreeMap<Symbol, usize>) -> Result<()> {
    ty.dims
        .iter_mut()
        .try_for_each(|dim| substitute(dim, values))
}

fn substitute_op(op: &mut Op, values: &BTreeMap<Symbol, usize>) -> Result<()> {
    match op {
        Op::Reshape { dims } | Op::Broadcast { dims } => {
            dims.iter_mut().try_for_each(|dim| substitute(dim, values))
        }
        Op::Slice { start, end, .. } => {
            substitute(start, values)?;
            substitute(end, values)
        }
        Op::RelativeBuckets(buckets) => {
            substitute(&mut buckets.queries, values)?;
            substitute(&mut buckets.keys, values)
        }
        _ => Ok(()),
    }
}

fn substitute(dim: &mut Dim, values: &BTreeMap<Symbol, usize>) -> Result<()> {
    let value_of = |symbol: &str| {
        values
            .get(symbol)
            .and_then(|&value| i64::try_from(value).ok())
    };
    *dim = dim
        .substituted(value_of)
        .ok_or_else(|| Error::Overflow(dim.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn numbers_stand_for_symbols_everywhere() {
        let text = "graph g { dim a = 1..=8 dim b = 1..=8
            input request %r: f32[b] input step %x: f32[a, b, 2]
            %0: f32[2*b, a] = reshape %x
            %1: f32[b, a] = slice %0 {axis = 0, start = 0, end = b}
            %2: f32[2, b, a] = broadcast %1
            output y = %2 }";
        let graph = parse(text).unwrap();
        let narrowed = graph
            .narrowed(&BTreeMap::from([("b".into(), 3..=3), ("a".into(), 2..=4)]))
            .unwrap();
        let expected = "graph g { dim a = 2..=4
            input request %r: f32[3] input step %x: f32[a, 3, 2]
            %0: f32[6, a] = reshape %x
            %1: f32[3, a] = slice %0 {axis = 0, start = 0, end = 3}
            %2: f32[2, 3, a] = broadcast %1
            output y = %2 }";
        assert_eq!(narrowed, parse(expected).unwrap());
    }

    #[test]
    fn a_range_beyond_the_graphs_is_refused() {
        let text = "graph g { dim n = 2..=8 input step %x: f32[n] output y = %x }";
        let graph = parse(text).unwrap();
        let narrow = |symbol: &str, range| {
            graph
                .narrowed(&BTreeMap::from([(symbol.into(), range)]))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            narrow("n", 1..=4),
            "symbol `n`: expected a range within 2..=8, found 1..=4"
        );
        assert!(narrow("n", RangeInclusive::new(5, 4)).contains("found 5..=4"));
        assert!(narrow("m", 2..=2).contains("one of the symbols n"));
    }
}
