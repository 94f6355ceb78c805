//! One adapter bound to one model: names looked up, shapes and values checked.
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_lora::Error> {
//! # let graph = tintype_ir::Graph::default();
//! use tintype_lora::{BoundAdapter, Component, LoraFile, LoraModel};
//! let model = LoraModel::new(Component::Transformer, &graph);
//! let bound = BoundAdapter::new(&model, "style", &LoraFile::open("style.safetensors")?)?;
//! println!("{} updates", bound.report().applied);
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tintype_ir::passes::dead_code;
use tintype_ir::{Graph, Overlay, Parameter};
use tintype_tensor::Shape;
use tintype_weights::Parameters;

use crate::fragment::{Bound, overlay};
use crate::own::OwnParameters;
use crate::{AdapterReport, Component, Error, LoraFile, LoraTarget, Result, Update};

/// The parameters of a model that adapters are bound to.
#[derive(Debug, Clone)]
pub struct LoraModel {
    component: Component,
    pub(crate) parameters: Vec<Parameter>,
    places: HashMap<String, usize>,
    /// Whether overlays shall lie on a parameter.
    needed: Vec<bool>,
}

impl LoraModel {
    /// Overlays may lie on every parameter of the graph.
    pub fn new(component: Component, graph: &Graph) -> Self {
        let parameters = graph.parameters().to_vec();
        let places = parameters.iter().enumerate();
        Self {
            component,
            places: places
                .map(|(index, parameter)| (parameter.name.clone(), index))
                .collect(),
            needed: vec![true; parameters.len()],
            parameters,
        }
    }

    /// Overlays lie only on what outputs of the graph need, since nothing else is in a weight
    /// program. What lies elsewhere counts as applied.
    pub fn of_outputs(component: Component, graph: &Graph) -> Self {
        let mut model = Self::new(component, graph);
        model.needed.fill(false);
        for parameter in dead_code(graph).parameters() {
            model.needed[model.places[&parameter.name]] = true;
        }
        model
    }

    /// Which model it is.
    pub fn component(&self) -> Component {
        self.component
    }

    /// CLIP's names are seen with and without their first part.
    fn find(&self, name: &str) -> Option<usize> {
        let mut found = self.places.get(name).copied();
        if found.is_none() && self.component == Component::TextEncoder {
            found = match name.strip_prefix("text_model.") {
                Some(short) => self.places.get(short).copied(),
                None => self.places.get(&format!("text_model.{name}")).copied(),
            };
        }
        found
    }
}

/// An adapter's file bound to a model. What it costs to read names and to check values is paid
/// here, once; a [`Mixer`](crate::Mixer) puts several together.
pub struct BoundAdapter {
    /// Tells it from all others.
    pub(crate) number: u64,
    name: String,
    file: LoraFile,
    report: AdapterReport,
    /// By parameter, in the graph's order.
    pub(crate) updates: BTreeMap<usize, Vec<BoundUpdate>>,
    /// The overlays of this adapter alone, in the same order.
    pub(crate) alone: BTreeMap<usize, Overlay>,
    /// What its overlays read, but for scales.
    pub(crate) factors: Parameters,
}

/// One update on one parameter.
#[derive(Debug)]
pub(crate) struct BoundUpdate {
    /// Its place among the targets of the file.
    pub(crate) target: usize,
    pub(crate) prefix: String,
}

impl BoundAdapter {
    /// Binds a file under a name.
    ///
    /// # Errors
    /// [`Error::Tensor`] for an update of another shape than its parameter, and for values that
    /// are not finite, which reads all of them the first time. Updates of parameters that the
    /// model lacks are reported, not refused.
    pub fn new(model: &LoraModel, name: &str, file: &LoraFile) -> Result<Self> {
        let mut binding = Binding::default();
        for (index, target) in file.targets().iter().enumerate() {
            if target.component == model.component {
                binding.add(model, name, file, index)?;
            }
        }
        file.check_finite()?;
        let mut own = OwnParameters::default();
        let mut alone = BTreeMap::new();
        for (&place, updates) in &binding.updates {
            let bounds: Vec<Bound<'_>> = updates.iter().map(|update| update.of(file)).collect();
            let overlay = overlay(&model.parameters[place], &bounds, &mut own)?;
            alone.insert(place, overlay);
        }
        let unmatched = binding.unmatched.difference(&binding.used);
        Ok(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.to_owned(),
            report: AdapterReport {
                adapter: name.to_owned(),
                applied: binding.applied,
                unknown_keys: file.unknown_keys().to_vec(),
                unmatched_keys: unmatched.cloned().collect(),
            },
            factors: own.build(name, file)?,
            file: file.clone(),
            updates: binding.updates,
            alone,
        })
    }

    /// The name under which it was bound.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was applied to this model, and what was not.
    pub fn report(&self) -> &AdapterReport {
        &self.report
    }

    /// What the file says of one update.
    pub(crate) fn bound<'a>(&'a self, update: &'a BoundUpdate) -> Bound<'a> {
        update.of(&self.file)
    }
}

impl fmt::Debug for BoundAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundAdapter")
            .field("name", &self.name)
            .field("file", &self.file.origin())
            .field("applied", &self.report.applied)
            .finish_non_exhaustive()
    }
}

impl BoundUpdate {
    fn of<'a>(&'a self, file: &'a LoraFile) -> Bound<'a> {
        Bound {
            target: &file.targets()[self.target],
            prefix: &self.prefix,
        }
    }
}

/// A binding in the making.
#[derive(Default)]
struct Binding {
    updates: BTreeMap<usize, Vec<BoundUpdate>>,
    applied: usize,
    used: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl Binding {
    fn add(&mut self, model: &LoraModel, name: &str, file: &LoraFile, index: usize) -> Result<()> {
        let target = &file.targets()[index];
        let Some(place) = model.find(&target.parameter) else {
            self.unmatched.extend(target.keys.iter().cloned());
            return Ok(());
        };
        let parameter = &model.parameters[place];
        check(file, target, parameter)?;
        self.used.extend(target.keys.iter().cloned());
        self.applied += 1;
        if !model.needed[place] {
            return Ok(());
        }
        let updates = self.updates.entry(place).or_default();
        // A file may say two things about one parameter, under two names.
        let number = match updates.len() {
            0 => String::new(),
            count => format!(".{count}"),
        };
        updates.push(BoundUpdate {
            target: index,
            prefix: format!("lora.{name}.{}{number}", parameter.name),
        });
        Ok(())
    }
}

/// Whether the update fits the parameter.
fn check(file: &LoraFile, target: &LoraTarget, parameter: &Parameter) -> Result<()> {
    let name = &parameter.name;
    let refused = |stored: &crate::Stored, expected: String, found: String| {
        Err(Error::tensor(file.origin(), &stored.key, expected, found))
    };
    if !parameter.ty.dtype.is_float() {
        let expected = format!("a parameter `{name}` of floats");
        return refused(target.row_tensor(), expected, parameter.ty.to_string());
    }
    let Some(wanted) = parameter.ty.static_shape() else {
        let expected = format!("a parameter `{name}` of known shape");
        return refused(target.row_tensor(), expected, parameter.ty.to_string());
    };
    let shape = target.shape();
    if shape == wanted || is_padded(target, &shape, &wanted) {
        return Ok(());
    }
    if let ([_, columns], &[rows, wanted_columns]) = (&shape[..], &wanted[..])
        && *columns != wanted_columns
    {
        let stored = target.column_tensor();
        let hint = if name == INPUT {
            format!(": the adapter is for a model with {columns} input channels")
        } else {
            String::new()
        };
        let found = format!("{columns} in shape {}{hint}", stored.shape);
        let expected = format!("{wanted_columns} columns for `{name}` [{rows}, {wanted_columns}]");
        return refused(stored, expected, found);
    }
    let stored = target.row_tensor();
    let expected = format!("values for `{name}` {wanted}");
    let found = format!("{shape} from shape {}", stored.shape);
    refused(stored, expected, found)
}

/// A LoRA of a model with fewer input channels changes the first of more, as the
/// latents come first whatever is put behind them.
fn is_padded(target: &LoraTarget, shape: &Shape, wanted: &Shape) -> bool {
    let is_plain = matches!(target.update, Update::LowRank { .. }) && target.magnitude.is_none();
    let is_narrow = match (&shape[..], &wanted[..]) {
        ([rows, columns], [wanted_rows, wanted_columns]) => {
            rows == wanted_rows && columns < wanted_columns
        }
        _ => false,
    };
    is_plain && is_narrow && target.parameter == INPUT
}

/// The parameter whose columns are the model's input channels.
const INPUT: &str = "x_embedder.weight";

/// Counts bound adapters over the whole process.
static NEXT: AtomicU64 = AtomicU64::new(0);
