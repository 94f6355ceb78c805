//! Writing a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tintype_backend::Executable;
use tintype_ir::{Graph, Overlay};
use tintype_tensor::DType;

use super::manifest::{
    AxisRecord, CompiledRecord, EngineRecord, GraphRecord, MadeOf, Manifest, OverlayRecord,
    RangesRecord, TypeRecord, WeightsRecord,
};
use super::module::Moment;
use super::open::{GRAPH_LIMIT, read_list};
use super::{COMPILED, LIST, SaveOptions, Saved, disk, tensors};
use crate::ranges::EngineRanges;
use crate::{Error, MutableModule, Ranges, Result, Signature, Weights};

impl MutableModule {
    /// Writes all that another process needs to go on: the structure, the engines' compiled forms
    /// and ranges, overlays, and where each parameter lies; see [`SavedModule`](crate::SavedModule)
    /// for reading it. What is wanted is saved, also where no call has brought it yet. Weights that
    /// lie in safetensors files are not copied; those that were edited or set are.
    ///
    /// The folder may be new, or one of a saved module, which is replaced. Other files in it are
    /// left alone.
    ///
    /// # Errors
    /// [`Error::Saved`] for a folder of something else, and for a module whose graph is not known
    /// since nothing was called yet; [`Error::SavedTensor`] for a parameter in memory that
    /// safetensors files cannot hold; [`Error::Io`] where writing fails. The folder is then as it
    /// was.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<Saved> {
        self.save_with(folder, SaveOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`MutableModule::save`].
    pub fn save_with(&self, folder: impl AsRef<Path>, options: SaveOptions) -> Result<Saved> {
        let folder = folder.as_ref();
        let moment = self.moment()?;
        if moment.structures.is_empty() {
            let expected = "a module that was called, so that its graph is known";
            return Err(Error::saved(folder, expected, "one that was not"));
        }
        let target = Target::open(folder)?;
        let mut manifest = described(&moment);
        for (made_of, structure) in &moment.structures {
            let hash = structure.hash.to_string();
            let made_of = made_of.as_ref().map(|(dtypes, arguments)| MadeOf {
                dtypes: dtypes.iter().map(told_dtype).collect(),
                arguments: arguments.clone(),
            });
            let record = target.graph(&structure.graph, hash, made_of)?;
            manifest.graphs.push(record);
        }
        let backend = self.backend().name();
        for engine in &moment.engines {
            let graph = engine.structure.to_string();
            if !manifest.graphs.iter().any(|record| record.hash == graph) {
                continue;
            }
            let compiled = {
                // Nobody changes it meanwhile.
                let _entered = self.gate.enter(engine.number);
                target.compiled(backend, engine.executable.as_ref())?
            };
            let is_new = |old: &CompiledRecord| !compiled.iter().any(|new| new.file == old.file);
            manifest.compiled.retain(is_new);
            manifest.compiled.extend(compiled);
            manifest.engines.push(EngineRecord {
                backend: backend.to_owned(),
                graph,
                ranges: told_ranges(&engine.ranges),
            });
        }
        if options.weights {
            let weights = &moment.wanted.weights;
            manifest.weights = Some(target.weights(weights, options.content_hashes)?);
        }
        target.finish(&manifest)
    }
}

/// All but the files.
fn described(moment: &Moment<'_>) -> Manifest {
    let settings = moment.settings;
    Manifest {
        arguments: moment.wanted.arguments.clone(),
        ranges: ranges_record(&settings.ranges),
        most_engines: settings.most_engines,
        check_finite: settings.check_finite,
        keep_weights: settings.options.keep_weights.to_string(),
        latest: moment.latest.as_ref().map(signature_record),
        ..Manifest::default()
    }
}

/// A folder that is being written.
pub(super) struct Target<'a> {
    folder: &'a Path,
    /// What the list said before.
    pub(super) before: Option<Manifest>,
    _locked: disk::Locked,
}

impl<'a> Target<'a> {
    /// Makes or takes over a folder; nobody else writes to it until this is dropped.
    pub(super) fn open(folder: &'a Path) -> Result<Self> {
        disk::make_folder(folder)?;
        let locked = disk::Locked::to_write(folder)?;
        let before = match read_list(folder) {
            Ok(before) => Some(before),
            Err(error) if is_foreign(folder) => return Err(error),
            Err(error) => {
                if folder.join(LIST).exists() {
                    tracing::warn!("{error}; it is replaced");
                }
                None
            }
        };
        disk::remove(folder, disk::is_temporary);
        Ok(Self {
            folder,
            before,
            _locked: locked,
        })
    }

    /// Writes a graph.
    pub(super) fn graph(
        &self,
        graph: &Graph,
        hash: String,
        made_of: Option<MadeOf>,
    ) -> Result<GraphRecord> {
        let file = format!("{GRAPH_PREFIX}{hash}{GRAPH_SUFFIX}");
        let text = graph.to_string();
        if text.len() as u64 > GRAPH_LIMIT {
            let expected = format!("a graph of at most {GRAPH_LIMIT} bytes");
            let found = text.len().to_string();
            return Err(Error::saved(&self.folder.join(file), expected, found));
        }
        disk::write(self.folder, &file, text.as_bytes())?;
        Ok(GraphRecord {
            file,
            hash,
            made_of,
        })
    }

    /// Has an executable write its compiled form.
    fn compiled(&self, backend: &str, executable: &dyn Executable) -> Result<Vec<CompiledRecord>> {
        let folder = self.folder.join(COMPILED);
        disk::make_folder(&folder)?;
        self.listed(backend, &executable.save(&folder)?)
    }

    /// The records of files that are in the folder of compiled forms.
    pub(super) fn listed(&self, backend: &str, names: &[String]) -> Result<Vec<CompiledRecord>> {
        let folder = self.folder.join(COMPILED);
        let record = |name: &String| {
            if !disk::is_plain(name) {
                return Err(Error::saved(&folder, "a plain name of a file", name));
            }
            let (size, hash) = disk::hash(&folder.join(name))?;
            Ok(CompiledRecord {
                backend: backend.to_owned(),
                file: name.clone(),
                size,
                hash,
            })
        };
        names.iter().map(record).collect()
    }

    /// Writes down where weights lie, and those that lie nowhere.
    pub(super) fn weights(&self, weights: &Weights, hashes: bool) -> Result<WeightsRecord> {
        let mut writer = tensors::Writer::new(self.folder, hashes);
        let mut parameters = writer.list("parameters", &weights.parameters)?;
        let mut own = writer.list("overlays", &weights.own)?;
        let files = writer.finish([&mut parameters, &mut own])?;
        Ok(WeightsRecord {
            files,
            parameters,
            overlays: weights.overlays.iter().map(overlay_record).collect(),
            own,
        })
    }

    /// Writes the list, from which moment the new folder counts, and removes what only the old
    /// one needed.
    pub(super) fn finish(self, manifest: &Manifest) -> Result<Saved> {
        disk::write(self.folder, LIST, &manifest.to_bytes())?;
        let kept: BTreeSet<&str> = manifest.files().collect();
        disk::remove(self.folder, |name| {
            (tensors::is_own(name) || is_graph(name)) && !kept.contains(name)
        });
        // Others may keep files there that are not listed yet.
        let before = self.before.iter().flat_map(|before| &before.compiled);
        let before: BTreeSet<&str> = before.map(|record| &*record.file).collect();
        let compiled: BTreeSet<&str> = manifest.compiled.iter().map(|one| &*one.file).collect();
        disk::remove(&self.folder.join(COMPILED), |name| {
            before.contains(name) && !compiled.contains(name)
        });
        Ok(manifest.told())
    }
}

impl Manifest {
    /// The files of the folder itself that count.
    fn files(&self) -> impl Iterator<Item = &str> {
        let graphs = self.graphs.iter().map(|graph| graph.file.as_str());
        let files = self.weights.iter().flat_map(|weights| &weights.files);
        let own = files.filter(|file| file.is_own);
        graphs.chain(own.map(|file| file.path.as_str()))
    }

    fn told(&self) -> Saved {
        let mut saved = Saved {
            compiled: self.compiled.len(),
            ..Saved::default()
        };
        if let Some(weights) = &self.weights {
            let is_own = |file: usize| weights.files.get(file).is_some_and(|file| file.is_own);
            let records = weights.parameters.values().chain(weights.own.values());
            let (copied, referred): (Vec<_>, Vec<_>) =
                records.partition(|record| is_own(record.tensor.file));
            (saved.copied, saved.referred) = (copied.len(), referred.len());
            let own = weights.files.iter().filter(|file| file.is_own);
            saved.copied_bytes = own.map(|file| file.size).sum();
        }
        saved
    }
}

/// Whether a list is there that is none of a module, or one of a later version.
fn is_foreign(folder: &Path) -> bool {
    let list = folder.join(LIST);
    match disk::read(&list, super::open::LIST_LIMIT) {
        Ok(bytes) => super::manifest::is_foreign(&bytes),
        Err(_) => list.exists(),
    }
}

fn is_graph(name: &str) -> bool {
    let hash = name.strip_prefix(GRAPH_PREFIX);
    let hash = hash.and_then(|rest| rest.strip_suffix(GRAPH_SUFFIX));
    hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

pub(super) fn told_ranges(ranges: &EngineRanges) -> BTreeMap<String, [usize; 2]> {
    let told = |(symbol, range): (&tintype_ir::Symbol, &std::ops::RangeInclusive<usize>)| {
        (symbol.to_string(), [*range.start(), *range.end()])
    };
    ranges.iter().map(told).collect()
}

fn told_dtype((name, dtype): (&String, &DType)) -> (String, String) {
    (name.clone(), dtype.to_string())
}

pub(super) fn ranges_record(ranges: &Ranges) -> RangesRecord {
    let axes = ranges.axes().map(|(input, axis, range)| AxisRecord {
        input: input.to_owned(),
        axis,
        range: [*range.start(), *range.end()],
    });
    RangesRecord {
        symbols: told_ranges(ranges.symbols()),
        axes: axes.collect(),
    }
}

fn signature_record(signature: &Signature) -> BTreeMap<String, TypeRecord> {
    let types = signature.iter().map(|(name, dtype, shape)| {
        let record = TypeRecord {
            dtype: dtype.to_string(),
            shape: shape.to_vec(),
        };
        (name.to_owned(), record)
    });
    types.collect()
}

fn overlay_record(overlay: &Overlay) -> OverlayRecord {
    OverlayRecord {
        parameter: overlay.parameter().to_owned(),
        fragment: overlay.fragment().to_string(),
    }
}

const GRAPH_PREFIX: &str = "graph-";
const GRAPH_SUFFIX: &str = ".txt";
