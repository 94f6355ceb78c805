//! Sizes that are known at run time only, as tensors of a network.
//!
//! A symbol is read off the shape of an input; a polynomial is computed from these, and several
//! sizes are put one after another. The library computes such tensors on the host.

use std::collections::{BTreeMap, HashMap};

use tintype_ir::{Dim, Symbol};
use tintype_tensor::{DType, Tensor as HostTensor};

use super::layers::{PlacedWeight, WeightSource};
use crate::network::{ElementWise, Network, Value};
use crate::{Error, Result};

pub(super) struct Sizes<'n> {
    network: &'n Network<'n>,
    /// The input and axis where each symbol stands alone.
    sources: BTreeMap<Symbol, (Value<'n>, usize)>,
    known: HashMap<Dim, Value<'n>>,
    lists: HashMap<Vec<Dim>, Value<'n>>,
    /// The constants made here.
    pub(super) weights: Vec<PlacedWeight>,
}

impl<'n> Sizes<'n> {
    pub(super) fn new(network: &'n Network<'n>) -> Self {
        Self {
            network,
            sources: BTreeMap::new(),
            known: HashMap::new(),
            lists: HashMap::new(),
            weights: Vec::new(),
        }
    }

    /// Learns which symbols the sizes of an input give.
    pub(super) fn learn(&mut self, input: Value<'n>, dims: &[Dim]) {
        for (axis, dim) in dims.iter().enumerate() {
            if let Some(symbol) = dim.as_symbol() {
                self.sources.entry(symbol.clone()).or_insert((input, axis));
            }
        }
    }

    /// Sizes as `i64[n]`.
    pub(super) fn list(&mut self, dims: &[Dim]) -> Result<Value<'n>> {
        if let Some(&known) = self.lists.get(dims) {
            return Ok(known);
        }
        let list = if let [dim] = dims {
            self.size(dim)?
        } else {
            let sizes: Result<Vec<_>> = dims.iter().map(|dim| self.size(dim)).collect();
            self.network.concatenate(&sizes?, 0)?
        };
        self.lists.insert(dims.to_vec(), list);
        Ok(list)
    }

    /// A size as `i64[1]`.
    fn size(&mut self, dim: &Dim) -> Result<Value<'n>> {
        if let Some(&known) = self.known.get(dim) {
            return Ok(known);
        }
        let size = match (dim.as_constant(), dim.as_symbol()) {
            (Some(number), _) => self.number(number)?,
            (None, Some(symbol)) => self.symbol(symbol)?,
            (None, None) => self.sum(dim)?,
        };
        self.known.insert(dim.clone(), size);
        Ok(size)
    }

    fn number(&mut self, number: i64) -> Result<Value<'n>> {
        let name = format!("size.{number}");
        let values = HostTensor::new(vec![1], vec![number]).expect("one value for one place");
        let constant = self.network.literal(&name, &values, &[1])?;
        self.weights.push(PlacedWeight {
            name,
            dtype: DType::I64,
            sizes: vec![1],
            source: WeightSource::Literal(values),
            is_size: true,
        });
        Ok(constant)
    }

    fn symbol(&mut self, symbol: &Symbol) -> Result<Value<'n>> {
        let Some(&(input, axis)) = self.sources.get(symbol) else {
            return Err(Error::from(tintype_ir::Error::Unbound(symbol.to_string())));
        };
        let shape = self.network.shape_of(input)?;
        let axis = axis as i64;
        self.network.slice(shape, [&[axis], &[1], &[1]], None, None)
    }

    fn sum(&mut self, dim: &Dim) -> Result<Value<'n>> {
        let mut sum = None;
        for (coefficient, symbols) in dim.terms() {
            let mut term = None;
            for symbol in symbols {
                let factor = self.size(&Dim::symbol(symbol))?;
                term = Some(self.combine(ElementWise::Product, term, factor)?);
            }
            if coefficient != 1 || term.is_none() {
                let factor = self.size(&Dim::from(coefficient))?;
                term = Some(self.combine(ElementWise::Product, term, factor)?);
            }
            let term = term.expect("a term has a symbol or a number");
            sum = Some(self.combine(ElementWise::Sum, sum, term)?);
        }
        sum.map_or_else(|| self.size(&Dim::from(0)), Ok)
    }

    fn combine(
        &self,
        operation: ElementWise,
        so_far: Option<Value<'n>>,
        next: Value<'n>,
    ) -> Result<Value<'n>> {
        match so_far {
            Some(so_far) => self.network.elementwise(operation, so_far, next),
            None => Ok(next),
        }
    }
}
