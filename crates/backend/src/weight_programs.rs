//! Weight programs with overlays, attached once for each set of overlays.
//!
//! Attaching copies a program of thousands of nodes, and those who switch between a few LoRAs ask
//! for the same ones again and again: [`WeightPrograms`] remembers the latest, with what follows
//! from a program alone. Nothing here reads a parameter.
//!
//! ```
//! use tintype_backend::WeightPrograms;
//! use tintype_ir::{Overlay, StagedGraph, parse};
//!
//! let graph = "graph g { param @w: f32[2] input step %x: f32[2] %0: f32[2] = mul %x, @w output y = %0 }";
//! let programs = WeightPrograms::new(&StagedGraph::split(&parse(graph)?)?);
//! let overlay = "graph o { param @base: f32[2] %0: f32[2] = neg @base output w = %0 }";
//! let overlays = [Overlay::new("w", parse(overlay)?)?];
//! let attached = programs.with(&overlays)?;
//! assert_eq!(attached.graph().nodes().len(), 1);
//! let weights = programs.reached(&attached, &["w".to_owned()].into());
//! assert_eq!((weights.len(), attached.bytes(&weights)), (1, 8));
//! // Nothing is attached again.
//! assert!(std::sync::Arc::ptr_eq(&attached, &programs.with(&overlays)?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tintype_ir::{Graph, Overlay, StagedGraph, Value};
use tintype_tensor::Shape;
use tintype_weights::Parameters;

use crate::Result;

/// The weight program of one compiled graph under any overlays.
#[derive(Debug)]
pub struct WeightPrograms {
    bare: Arc<AttachedProgram>,
    /// The latest used last.
    attached: Mutex<Vec<Arc<AttachedProgram>>>,
}

/// A weight program with overlays in front of the parameters that they change.
#[derive(Debug)]
pub struct AttachedProgram {
    graph: Arc<Graph>,
    overlays: Vec<Overlay>,
    /// The places of outputs by name.
    places: HashMap<String, usize>,
    /// The bytes of outputs.
    sizes: Vec<usize>,
    /// The shapes of parameters.
    shapes: Vec<Shape>,
}

impl WeightPrograms {
    /// Of the weight program of a graph.
    pub fn new(graph: &StagedGraph) -> Self {
        let bare = AttachedProgram::new(graph.weight.clone(), Vec::new());
        Self {
            bare: Arc::new(bare),
            attached: Mutex::default(),
        }
    }

    /// The program without overlays.
    pub fn bare(&self) -> &Arc<AttachedProgram> {
        &self.bare
    }

    /// The program with these overlays, in order.
    ///
    /// # Errors
    /// An overlay on a parameter that the program does not have, or of another type.
    pub fn with(&self, overlays: &[Overlay]) -> Result<Arc<AttachedProgram>> {
        if overlays.is_empty() {
            return Ok(Arc::clone(&self.bare));
        }
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let known = attached.iter().position(|known| known.has(overlays));
        let found = if let Some(index) = known {
            attached.remove(index)
        } else {
            let graph = Overlay::attach(&self.bare.graph, overlays)?;
            Arc::new(AttachedProgram::new(graph, overlays.to_vec()))
        };
        if attached.len() == MOST_PROGRAMS {
            attached.remove(0);
        }
        attached.push(Arc::clone(&found));
        Ok(found)
    }

    /// The weights that changed parameters reach, in a program with overlays as in that without:
    /// an overlay need not read the parameter that it lies on.
    pub fn reached(
        &self,
        program: &AttachedProgram,
        changed: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let changed: HashSet<&str> = changed.iter().map(String::as_str).collect();
        let mut reached = BTreeSet::new();
        for graph in [&program.graph, &self.bare.graph] {
            let weights = StagedGraph::reached_weights(graph, &changed).into_iter();
            reached.extend(weights.map(str::to_owned));
            if program.overlays.is_empty() {
                break;
            }
        }
        reached
    }
}

impl AttachedProgram {
    fn new(graph: Graph, overlays: Vec<Overlay>) -> Self {
        let outputs = graph.outputs().iter();
        // Parameters and weights have static types.
        let sizes = outputs.clone().map(|output| {
            let ty = graph.type_of(output.value);
            let shape = ty.static_shape();
            shape.map_or(0, |shape| shape.byte_len(ty.dtype).unwrap_or_default())
        });
        let places = outputs.enumerate();
        let parameters = graph.parameters().iter();
        let shapes = parameters.map(|parameter| parameter.ty.static_shape());
        Self {
            sizes: sizes.collect(),
            places: places
                .map(|(index, output)| (output.name.clone(), index))
                .collect(),
            shapes: shapes
                .map(|shape| shape.expect("parameters have static types"))
                .collect(),
            overlays,
            graph: Arc::new(graph),
        }
    }

    /// The program.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// The names of all weights.
    pub fn names(&self) -> BTreeSet<String> {
        self.places.keys().cloned().collect()
    }

    /// The bytes of some weights; nothing for those that it does not give.
    pub fn bytes(&self, names: &BTreeSet<String>) -> usize {
        let places = names.iter().filter_map(|name| self.places.get(name));
        places.map(|&place| self.sizes[place]).sum()
    }

    /// Some weights in groups of at most so many bytes, in the order of the program; a larger
    /// weight is a group of its own.
    pub fn groups(&self, names: &BTreeSet<String>, most: usize) -> Vec<BTreeSet<String>> {
        let mut groups: Vec<(BTreeSet<String>, usize)> = Vec::new();
        let outputs = self.graph.outputs().iter().zip(&self.sizes);
        for (output, &bytes) in outputs.filter(|(output, _)| names.contains(&output.name)) {
            match groups.last_mut() {
                Some((group, held)) if *held + bytes <= most => {
                    group.insert(output.name.clone());
                    *held += bytes;
                }
                _ => groups.push((BTreeSet::from([output.name.clone()]), bytes)),
            }
        }
        groups.into_iter().map(|(group, _)| group).collect()
    }

    /// Looks at every parameter that these weights need, without reading it.
    ///
    /// # Errors
    /// One that is missing, of another shape, or holds no floats where floats are needed.
    pub fn check(&self, parameters: &Parameters, names: &BTreeSet<String>) -> Result<()> {
        for index in self.read_by(names) {
            let parameter = &self.graph.parameters()[index];
            parameters.check(&parameter.name, parameter.ty.dtype, &self.shapes[index])?;
        }
        Ok(())
    }

    /// The parameters that these weights are computed from, by number, in order.
    fn read_by(&self, names: &BTreeSet<String>) -> impl Iterator<Item = usize> {
        let mut nodes = vec![false; self.graph.nodes().len()];
        let mut parameters = vec![false; self.shapes.len()];
        let mut reach = |value: Value, nodes: &mut Vec<bool>| match value {
            Value::Parameter(index) => parameters[index] = true,
            Value::Node(index) => nodes[index] = true,
            Value::Input(_) => {}
        };
        for place in names.iter().filter_map(|name| self.places.get(name)) {
            reach(self.graph.outputs()[*place].value, &mut nodes);
        }
        for (index, node) in self.graph.nodes().iter().enumerate().rev() {
            if nodes[index] {
                for &operand in &node.operands {
                    reach(operand, &mut nodes);
                }
            }
        }
        let is_read = parameters.into_iter().enumerate();
        is_read.filter_map(|(index, is_read)| is_read.then_some(index))
    }

    fn has(&self, overlays: &[Overlay]) -> bool {
        let mut pairs = self.overlays.iter().zip(overlays);
        self.overlays.len() == overlays.len() && pairs.all(|(one, other)| one.is_same(other))
    }
}

/// Sets of overlays that are remembered: those of a few LoRAs, alone and together.
const MOST_PROGRAMS: usize = 6;

#[cfg(test)]
mod tests {
    use tintype_ir::parse;
    use tintype_tensor::Tensor;

    use super::*;

    fn programs() -> WeightPrograms {
        let text = "graph g { param @a: f32[2] param @b: f32[2] input step %x: f32[2] \
                    %0: f32[2] = exp @a %1: f32[2] = mul @a, @b \
                    %2: f32[2] = mul %x, %0 # first\n %3: f32[2] = mul %2, %1 # second\n \
                    output y = %3 }";
        WeightPrograms::new(&StagedGraph::split(&parse(text).unwrap()).unwrap())
    }

    /// Puts what it reads besides in the place of `a`.
    fn replacement(own: &str) -> Overlay {
        let text = format!("graph o {{ param @{own}: f32[2] output a = @{own} }}");
        Overlay::new("a", parse(&text).unwrap()).unwrap()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn an_overlay_that_hides_its_parameter_is_reached_by_both() {
        let programs = programs();
        let attached = programs.with(&[replacement("new")]).unwrap();
        let both = programs.bare().names();
        assert_eq!(both.len(), 2);
        // Taken off or laid on, the parameter changes; so it does with what is laid on.
        assert_eq!(programs.reached(&attached, &set(&["a"])), both);
        assert_eq!(programs.reached(&attached, &set(&["new"])), both);
        assert_eq!(programs.reached(&attached, &set(&["b"])).len(), 1);
        assert!(programs.reached(programs.bare(), &set(&["new"])).is_empty());
    }

    #[test]
    fn only_what_is_read_is_looked_at() {
        let programs = programs();
        let attached = programs.with(&[replacement("new")]).unwrap();
        let all = attached.names();
        let first = programs.reached(&attached, &set(&["a"]));
        let only_first: BTreeSet<String> = first
            .difference(&programs.reached(&attached, &set(&["b"])))
            .cloned()
            .collect();
        let tensor = Tensor::from_f32([2], vec![1.0, 2.0]).unwrap();
        let given = Parameters::builder().tensor("new", tensor).build().unwrap();
        attached.check(&given, &only_first).unwrap();
        let error = attached.check(&given, &all).unwrap_err().to_string();
        assert!(error.contains("`b`"), "{error}");
        assert!(programs.bare().check(&given, &only_first).is_err());
        for (tensor, expected) in [
            (Tensor::from_f32([3], vec![0.0; 3]).unwrap(), "[2]"),
            (Tensor::new([2], vec![1i64, 2]).unwrap(), "floats"),
        ] {
            let given = Parameters::builder().tensor("new", tensor).build().unwrap();
            let error = attached.check(&given, &only_first).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(attached.groups(&all, 8).len(), 2);
        assert_eq!(attached.groups(&all, 16), std::slice::from_ref(&all));
        assert_eq!(attached.bytes(&all), 16);
    }

    #[test]
    fn a_few_sets_of_overlays_are_remembered() {
        let programs = programs();
        let sets: Vec<[Overlay; 1]> = (0..=MOST_PROGRAMS)
            .map(|number| [replacement(&format!("own{number}"))])
            .collect();
        let first = programs.with(&sets[0]).unwrap();
        for set in &sets[1..MOST_PROGRAMS] {
            programs.with(set).unwrap();
        }
        assert!(Arc::ptr_eq(&first, &programs.with(&sets[0]).unwrap()));
        let second = programs.with(&sets[1]).unwrap();
        for set in &sets[2..] {
            programs.with(set).unwrap();
        }
        assert!(Arc::ptr_eq(&second, &programs.with(&sets[1]).unwrap()));
        assert!(!Arc::ptr_eq(&first, &programs.with(&sets[0]).unwrap()));
        assert!(programs.with(&[replacement("x"), replacement("y")]).is_ok());
        let misfit = Overlay::new("c", replacement("x").fragment().clone()).unwrap();
        assert!(programs.with(&[misfit]).is_err());
    }
}
