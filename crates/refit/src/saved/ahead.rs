//! A folder of a module that nobody has run: what was compiled for it elsewhere.

use std::path::Path;

use tintype_ir::Graph;
use tintype_weights::Parameters;

use super::manifest::{EngineRecord, Manifest};
use super::save::{Target, ranges_record, told_ranges};
use super::{COMPILED, Saved, disk};
use crate::{Ranges, Result, Weights};

/// A graph that was compiled ahead of time, as for a GPU that is not here.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// use tintype_refit::{Ahead, SavedModule};
/// let graph = tintype_ir::parse("graph g { input step %x: f32[2] output y = %x }")?;
/// Ahead::new(&graph, "cpu").save(folder)?;
/// assert_eq!(SavedModule::open(folder)?.graphs().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Ahead<'a> {
    graph: &'a Graph,
    ranges: Ranges,
    backend: &'a str,
    parameters: Option<&'a Parameters>,
    compiled: &'a [String],
}

impl<'a> Ahead<'a> {
    /// Of a graph, before any pass, and the backend for which it was compiled.
    pub fn new(graph: &'a Graph, backend: &'a str) -> Self {
        Self {
            graph,
            ranges: Ranges::new(),
            backend,
            parameters: None,
            compiled: &[],
        }
    }

    /// The same for ranges of sizes; all that the graph allows where none are given.
    #[must_use]
    pub fn ranges(mut self, ranges: &Ranges) -> Self {
        self.ranges = ranges.clone();
        self
    }

    /// The same with parameters, if they are at hand.
    #[must_use]
    pub fn parameters(mut self, parameters: Option<&'a Parameters>) -> Self {
        self.parameters = parameters;
        self
    }

    /// The same with files that are in the [folder of compiled
    /// forms](crate::SavedModule::compiled_folder) already.
    #[must_use]
    pub fn compiled(mut self, names: &'a [String]) -> Self {
        self.compiled = names;
        self
    }

    /// Writes the folder. If it is one of this graph, what was compiled for it before stays, and
    /// so do its parameters unless others are given.
    ///
    /// # Errors
    /// As [`MutableModule::save`](crate::MutableModule::save).
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<Saved> {
        let mut target = Target::open(folder.as_ref())?;
        let hash = self.graph.hash().to_string();
        let is_same = |before: &Manifest| matches!(&*before.graphs, [only] if only.hash == hash && only.made_of.is_none());
        let mut manifest = target
            .before
            .take_if(|before| is_same(before))
            .unwrap_or_default();
        let compiled = folder.as_ref().join(COMPILED);
        manifest.compiled.retain(|record| {
            compiled.join(&record.file).is_file() && !self.compiled.contains(&record.file)
        });
        manifest
            .compiled
            .extend(target.listed(self.backend, self.compiled)?);
        let mut ranges = self.graph.symbols().clone();
        ranges.extend(self.ranges.resolved(self.graph)?);
        let engine = EngineRecord {
            backend: self.backend.to_owned(),
            graph: hash.clone(),
            ranges: told_ranges(&ranges),
        };
        manifest.ranges = ranges_record(&self.ranges);
        if !manifest.engines.contains(&engine) {
            manifest.engines.push(engine);
        }
        manifest.graphs = vec![target.graph(self.graph, hash, None)?];
        if let Some(parameters) = self.parameters {
            let weights = Weights::new(parameters.clone());
            manifest.weights = Some(target.weights(&weights, false)?);
        }
        disk::make_folder(&compiled)?;
        target.finish(&manifest)
    }
}
