//! A module of a folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tintype_backend::{Backend, CompileOptions};
use tintype_ir::{Graph, Overlay, Symbol};
use tintype_tensor::{DType, Shape};
use tintype_weights::Parameters;

use super::manifest::{MadeOf, RangeRecord, TypeRecord, WeightsRecord, shown};
use super::{ChangedFile, LoadOptions, Loaded, SavedModule, tensors};
use crate::define::DefineError;
use crate::ranges::EngineRanges;
use crate::structure::Structure;
use crate::{
    Define, Error, Given, ModuleBuilder, MutableModule, Ranges, Report, Result, Signature, Weights,
};

impl MutableModule {
    /// Goes on where another process saved; see [`SavedModule::open`] and [`SavedModule::load`].
    ///
    /// # Errors
    /// As these two.
    pub fn load(
        folder: impl AsRef<Path>,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Result<Loaded> {
        SavedModule::open(folder)?.load(backend, options)
    }
}

/// The graphs that a definition made in another process.
struct SavedGraphs(Vec<(MadeOf, Graph)>);

impl SavedModule {
    /// A module on a backend. Checkpoints are mapped, not read: the first call brings all weights.
    /// Engines of which the compiled form is here are made now; the others, and all if the module
    /// was saved by another backend, by the first call that needs them, for the ranges that they
    /// had.
    ///
    /// A file that is no longer what it was is read as it is now; the module tells which.
    ///
    /// # Errors
    /// A file that is missing, or damaged; a tensor that has another shape than it had; a folder
    /// without weights where `options` give none; with [`LoadOptions::verify`] also what
    /// [`SavedModule::verify`] says.
    pub fn load(&self, backend: Arc<dyn Backend>, options: LoadOptions) -> Result<Loaded> {
        let (weights, changed) = self.weights(options.parameters.as_ref())?;
        if options.verify {
            self.compare(&weights)?;
        }
        let engines = self.engines(backend.name())?;
        let latest = self.latest()?;
        let compile_options = self.compile_options(&options)?;
        let define = options.define.unwrap_or_else(|| self.define());
        let mut builder = ModuleBuilder::new(backend, define, Parameters::default())
            .weights(weights)
            .ranges(self.ranges())
            .most_engines(self.manifest.most_engines)
            .check_finite(self.manifest.check_finite)
            .options(compile_options)
            .known_ranges(&engines);
        for (name, value) in &self.manifest.arguments {
            builder = builder.argument(name, *value);
        }
        let module = builder.build();
        let mut report = Report::default();
        let most = self.manifest.most_engines.max(1);
        for (structure, ranges) in engines.iter().skip(engines.len().saturating_sub(most)) {
            if let Err(error) = module.adopt(structure, ranges, &mut report) {
                let folder = self.folder.display();
                tracing::warn!("{folder}: an engine is left to the first call: {error}");
            }
        }
        if let Some(latest) = latest {
            module.resume(latest)?;
        }
        Ok(Loaded {
            module,
            changed,
            report,
        })
    }

    /// What weights are computed from; nothing is read.
    pub(super) fn weights(
        &self,
        given: Option<&Parameters>,
    ) -> Result<(Weights, Vec<ChangedFile>)> {
        let list = self.list();
        let Some(record) = &self.manifest.weights else {
            let expected = "parameters beside the folder, which was saved without";
            let given = given.ok_or_else(|| Error::saved(&list, expected, "none"))?;
            return Ok((Weights::new(given.clone()), Vec::new()));
        };
        let is_needed = |file| given.is_none() || is_of_overlays(record, file);
        let reader = tensors::Reader::open(&list, &record.files, self.own.as_ref(), &is_needed)?;
        let weights = Weights {
            parameters: reader.parameters(&record.parameters, given)?,
            own: reader.parameters(&record.own, None)?,
            overlays: self.overlays(record)?.into(),
        };
        Ok((weights, reader.changed))
    }

    fn overlays(&self, record: &WeightsRecord) -> Result<Vec<Overlay>> {
        let overlays = record.overlays.iter().map(|record| {
            let fragment = tintype_ir::parse(&record.fragment);
            let overlay = fragment.and_then(|graph| Overlay::new(&*record.parameter, graph));
            overlay.map_err(|error| self.damaged("the text form of an overlay", error))
        });
        overlays.collect()
    }

    /// The engines that this backend had, the one used longest ago first.
    fn engines(&self, backend: &str) -> Result<Vec<(&Structure, EngineRanges)>> {
        let mut engines = Vec::new();
        for record in &self.manifest.engines {
            if record.backend != backend {
                continue;
            }
            let mut graphs = self.graphs.iter();
            let graph = graphs.find(|graph| graph.hash.to_string() == record.graph);
            let expected = "an engine of one of the graphs";
            let graph = graph.ok_or_else(|| self.damaged(expected, shown(&record.graph)))?;
            let ranges = engine_ranges(&record.ranges);
            let expected = "ranges within those of the graph";
            let fits = graph.graph.narrowed(&ranges);
            fits.map_err(|error| self.damaged(expected, error))?;
            engines.push((graph, ranges));
        }
        Ok(engines)
    }

    fn latest(&self) -> Result<Option<Signature>> {
        let Some(latest) = &self.manifest.latest else {
            return Ok(None);
        };
        let mut signature = Signature::new();
        for (name, TypeRecord { dtype, shape }) in latest {
            let dtype = self.dtype(dtype)?;
            signature = signature.with(name, dtype, Shape::from(shape.clone()));
        }
        Ok(Some(signature))
    }

    fn dtype(&self, name: &str) -> Result<DType> {
        let dtype = name.parse::<DType>();
        dtype.map_err(|_| self.damaged("a dtype", shown(name)))
    }

    fn compile_options(&self, options: &LoadOptions) -> Result<CompileOptions> {
        let told = self.manifest.keep_weights.parse();
        let told = told.map_err(|found| self.damaged("where weights are kept", found))?;
        let keep_weights = options.keep_weights.unwrap_or(told);
        // The first call that compiles may come from another folder.
        let compiled = Self::compiled_folder(&self.folder);
        let compiled = std::path::absolute(&compiled).unwrap_or(compiled);
        let options = CompileOptions::default().with_keep_weights(keep_weights);
        Ok(options.with_folder(compiled))
    }

    fn define(&self) -> Arc<dyn Define> {
        let graphs = self.manifest.graphs.iter().zip(&self.graphs);
        let made = graphs.filter_map(|(record, structure)| {
            let made_of = record.made_of.clone()?;
            Some((made_of, structure.graph.clone()))
        });
        let made: Vec<_> = made.collect();
        match self.graphs.first() {
            Some(only) if made.is_empty() => Arc::new(only.graph.clone()),
            _ => Arc::new(SavedGraphs(made)),
        }
    }

    fn ranges(&self) -> Ranges {
        let record = &self.manifest.ranges;
        let mut ranges = Ranges::new();
        for (symbol, &[start, end]) in &record.symbols {
            ranges = ranges.symbol(symbol, start..=end);
        }
        for axis in &record.axes {
            let [start, end] = axis.range;
            ranges = ranges.axis(&axis.input, axis.axis, start..=end);
        }
        ranges
    }

    fn damaged(&self, expected: &str, found: impl std::fmt::Display) -> Error {
        Error::saved(&self.list(), expected, found)
    }
}

/// Whether parameters of overlays lie in a file.
fn is_of_overlays(record: &WeightsRecord, file: usize) -> bool {
    let mut own = record.own.values();
    own.any(|own| {
        own.tensor.file == file || own.scale.as_ref().is_some_and(|scale| scale.file == file)
    })
}

fn engine_ranges(record: &BTreeMap<String, RangeRecord>) -> EngineRanges {
    let range = |(symbol, &[start, end]): (&String, &RangeRecord)| {
        (Symbol::from(symbol.as_str()), start..=end)
    };
    record.iter().map(range).collect()
}

impl Define for SavedGraphs {
    fn graph(&self, given: &Given) -> Result<Graph, DefineError> {
        let dtypes = given.dtypes.iter();
        let dtypes: BTreeMap<_, _> = dtypes
            .map(|(name, dtype)| (name.clone(), dtype.to_string()))
            .collect();
        let made_of = MadeOf {
            dtypes,
            arguments: given.arguments.clone(),
        };
        let mut graphs = self.0.iter();
        if let Some((_, graph)) = graphs.find(|(saved, _)| *saved == made_of) {
            return Ok(graph.clone());
        }
        let saved: Vec<String> = self.0.iter().map(|(saved, _)| saved.to_string()).collect();
        let saved = saved.join("; ");
        let message = format!(
            "the module was saved with graphs for {saved}; expected one of these, found {made_of}"
        );
        Err(message.into())
    }
}

/// What saved graphs are for, as the path tells it.
impl std::fmt::Display for MadeOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dtypes = self
            .dtypes
            .iter()
            .map(|(name, dtype)| format!("{name}: {dtype}"));
        let arguments = self.arguments.iter();
        let arguments = arguments.map(|(name, value)| format!("{name} = {value}"));
        let all: Vec<String> = dtypes.chain(arguments).collect();
        f.write_str(&all.join(", "))
    }
}
