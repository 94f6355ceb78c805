//! For which sizes engines are compiled.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use tintype_ir::{Binding, Graph, Symbol};

use crate::{Error, Result};

/// Ranges of sizes, by symbol or by input and axis. What is not declared is compiled for the
/// sizes of the first call, and again for others.
///
/// ```
/// use tintype_refit::Ranges;
/// let ranges = Ranges::new().symbol("batch", 1..=4).axis("x", 1, 16..=512);
/// # let _ = ranges;
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    symbols: BTreeMap<Symbol, RangeInclusive<usize>>,
    axes: Vec<(String, usize, RangeInclusive<usize>)>,
}

/// The ranges that an engine was compiled for; symbols without one are unbounded by it.
pub(crate) type EngineRanges = BTreeMap<Symbol, RangeInclusive<usize>>;

impl Ranges {
    /// None declared.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a range for a symbol of the graph.
    #[must_use]
    pub fn symbol(mut self, symbol: &str, range: RangeInclusive<usize>) -> Self {
        self.symbols.insert(Symbol::from(symbol), range);
        self
    }

    /// The same with a range for an axis of an input, which must be one symbol there.
    #[must_use]
    pub fn axis(mut self, input: &str, axis: usize, range: RangeInclusive<usize>) -> Self {
        self.axes.push((input.to_owned(), axis, range));
        self
    }

    /// What was declared by symbol.
    pub(crate) fn symbols(&self) -> &EngineRanges {
        &self.symbols
    }

    /// What was declared by input and axis.
    pub(crate) fn axes(&self) -> impl Iterator<Item = (&str, usize, &RangeInclusive<usize>)> {
        let axes = self.axes.iter();
        axes.map(|(input, axis, range)| (input.as_str(), *axis, range))
    }

    /// All ranges by symbol, each within the graph's own.
    pub(crate) fn resolved(&self, graph: &Graph) -> Result<EngineRanges> {
        let mut resolved = EngineRanges::new();
        for (symbol, range) in &self.symbols {
            let what = || format!("range of symbol `{symbol}`");
            resolved.insert(symbol.clone(), checked(graph, symbol, range, &what)?);
        }
        for (input, axis, range) in &self.axes {
            let what = || format!("range of axis {axis} of input `{input}`");
            let symbol = symbol_of(graph, input, *axis, range, &what)?;
            let range = checked(graph, &symbol, range, &what)?;
            resolved.insert(symbol, range);
        }
        Ok(resolved)
    }

    /// The ranges of an engine that shall run these sizes: what is declared where it holds them,
    /// and the size itself where nothing does.
    pub(crate) fn for_sizes(&self, graph: &Graph, sizes: &Binding) -> Result<EngineRanges> {
        let declared = self.resolved(graph)?;
        let ranges = graph.symbols().keys().map(|symbol| {
            let size = sizes.get(symbol).expect("every symbol is bound");
            let range = declared.get(symbol).filter(|range| range.contains(&size));
            (symbol.clone(), range.cloned().unwrap_or(size..=size))
        });
        Ok(ranges.collect())
    }
}

/// Whether an engine of these ranges runs these sizes.
pub(crate) fn holds(ranges: &EngineRanges, sizes: &Binding) -> bool {
    ranges
        .iter()
        .all(|(symbol, range)| sizes.get(symbol).is_some_and(|size| range.contains(&size)))
}

fn symbol_of(
    graph: &Graph,
    input: &str,
    axis: usize,
    range: &RangeInclusive<usize>,
    what: &dyn Fn() -> String,
) -> Result<Symbol> {
    let found = graph.inputs().iter().find(|one| one.name == input);
    let dim = found.and_then(|input| input.ty.dims.get(axis));
    let symbol = dim.and_then(|dim| dim.as_symbol());
    symbol.cloned().ok_or_else(|| Error::Range {
        what: what(),
        expected: match (found, dim) {
            (None, _) => {
                let names: Vec<&str> = graph.inputs().iter().map(|one| &*one.name).collect();
                format!("one of the inputs {}", names.join(", "))
            }
            (Some(input), None) => format!("an axis of {}", input.ty),
            (_, Some(dim)) => format!("an axis that is one symbol, not `{dim}`"),
        },
        found: format!("{range:?}"),
    })
}

/// The range, which is one of the graph's.
fn checked(
    graph: &Graph,
    symbol: &Symbol,
    range: &RangeInclusive<usize>,
    what: &dyn Fn() -> String,
) -> Result<RangeInclusive<usize>> {
    match graph.expect_within(symbol, range) {
        Ok(()) => Ok(range.clone()),
        Err(tintype_ir::Error::Narrow {
            expected, found, ..
        }) => Err(Error::Range {
            what: what(),
            expected,
            found,
        }),
        Err(other) => Err(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        tintype_ir::parse(
            "graph g { dim a = 1..=8 dim b = 1..=64 input step %x: f32[a, b, 2] output y = %x }",
        )
        .unwrap()
    }

    fn sizes(a: usize, b: usize) -> Binding {
        let mut sizes = Binding::new();
        sizes.set("a", a);
        sizes.set("b", b);
        sizes
    }

    #[test]
    fn what_is_declared_holds_and_the_rest_is_seen() {
        let ranges = Ranges::new().axis("x", 1, 16..=32);
        let engine = ranges.for_sizes(&graph(), &sizes(2, 20)).unwrap();
        assert_eq!(
            engine,
            EngineRanges::from([("a".into(), 2..=2), ("b".into(), 16..=32)])
        );
        assert!(holds(&engine, &sizes(2, 32)) && !holds(&engine, &sizes(3, 20)));
        // Out of the declared range: that size alone, the declaration stays.
        let other = ranges.for_sizes(&graph(), &sizes(2, 40)).unwrap();
        assert_eq!(other["b"], 40..=40);
    }

    #[test]
    fn what_the_graph_does_not_have_is_named() {
        let error = |ranges: Ranges| ranges.resolved(&graph()).unwrap_err().to_string();
        assert_eq!(
            error(Ranges::new().symbol("c", 1..=2)),
            "range of symbol `c`: expected one of the symbols a, b, found 1..=2"
        );
        assert_eq!(
            error(Ranges::new().axis("x", 0, 0..=2)),
            "range of axis 0 of input `x`: expected a range within 1..=8, found 0..=2"
        );
        assert!(error(Ranges::new().axis("x", 2, 1..=2)).contains("not `2`"));
        assert!(error(Ranges::new().axis("x", 3, 1..=2)).contains("an axis of f32[a, b, 2]"));
        assert!(error(Ranges::new().axis("z", 0, 1..=2)).contains("one of the inputs x"));
    }
}
