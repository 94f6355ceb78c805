//! A folder that was read, before anything is made of it.

use std::path::{Path, PathBuf};

use tintype_ir::{Graph, GraphHash};
use tintype_weights::SafetensorsFile;

use super::manifest::{GraphRecord, Manifest, shown};
use super::{COMPILED, LIST, disk, tensors};
use crate::structure::Structure;
use crate::{Error, Result};

/// The folder of a saved module: its list and graphs, read and checked. Checkpoints are not looked
/// at before [`SavedModule::load`].
///
/// ```no_run
/// # fn f(backend: std::sync::Arc<dyn tintype_backend::Backend>) -> tintype_refit::Result<()> {
/// use tintype_refit::{LoadOptions, SavedModule};
/// let saved = SavedModule::open("folder")?;
/// println!("{} files of compiled forms", saved.compiled().count());
/// let module = saved.load(backend, LoadOptions::default())?.module;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct SavedModule {
    pub(super) folder: PathBuf,
    pub(super) manifest: Manifest,
    /// As in the list.
    pub(super) graphs: Vec<Structure>,
    /// The file of tensors that the folder holds itself.
    pub(super) own: Option<SafetensorsFile>,
}

/// A file of a compiled form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompiledFile<'a> {
    /// The backend that wrote it.
    pub backend: &'a str,
    /// Its name in the folder of compiled forms.
    pub name: &'a str,
    /// Bytes.
    pub size: u64,
}

impl SavedModule {
    /// Reads the list and the graphs of a folder, and maps the file of tensors that it may hold.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is missing; [`Error::Saved`] for one that is damaged, of a
    /// later version, or leads to other folders.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        // A file that is mapped, or read, may go with the next save.
        let locked = disk::Locked::to_read(folder);
        let manifest = read_list(folder)?;
        let list = folder.join(LIST);
        let graphs = manifest.graphs.iter();
        let graphs = graphs.map(|record| read_graph(folder, &list, record));
        let graphs = graphs.collect::<Result<Vec<_>>>()?;
        for record in &manifest.compiled {
            expect_plain(&list, &record.file)?;
        }
        let own = open_own(folder, &list, &manifest)?;
        drop(locked);
        expect_graphs(&list, &manifest)?;
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
            graphs,
            own,
        })
    }

    /// Where the files of compiled forms of a folder lie, for
    /// [`CompileOptions::folder`](tintype_backend::CompileOptions::folder).
    pub fn compiled_folder(folder: impl AsRef<Path>) -> PathBuf {
        folder.as_ref().join(COMPILED)
    }

    /// The graphs, each with its hash.
    pub fn graphs(&self) -> impl Iterator<Item = (&Graph, GraphHash)> {
        let graphs = self.graphs.iter();
        graphs.map(|structure| (&structure.graph, structure.hash))
    }

    /// The files of compiled forms.
    pub fn compiled(&self) -> impl Iterator<Item = CompiledFile<'_>> {
        self.manifest.compiled.iter().map(|record| CompiledFile {
            backend: &record.backend,
            name: &record.file,
            size: record.size,
        })
    }

    /// Whether the folder tells where parameters are.
    pub fn has_weights(&self) -> bool {
        self.manifest.weights.is_some()
    }

    pub(super) fn list(&self) -> PathBuf {
        self.folder.join(LIST)
    }
}

pub(super) fn read_list(folder: &Path) -> Result<Manifest> {
    let path = folder.join(LIST);
    Manifest::from_bytes(&path, &disk::read(&path, LIST_LIMIT)?)
}

fn read_graph(folder: &Path, list: &Path, record: &GraphRecord) -> Result<Structure> {
    expect_plain(list, &record.file)?;
    let path = folder.join(&record.file);
    let wrong = |found: String| Error::saved(&path, "the text form of a graph", found);
    let bytes = disk::read(&path, GRAPH_LIMIT)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| wrong(error.to_string()))?;
    let graph = tintype_ir::parse(text).map_err(|error| wrong(error.to_string()))?;
    tintype_ir::verify(&graph).map_err(|error| wrong(error.to_string()))?;
    let structure = Structure::new(graph);
    if structure.hash.to_string() != record.hash {
        let expected = format!("a graph of hash {}", shown(&record.hash));
        return Err(Error::saved(&path, expected, structure.hash));
    }
    Ok(structure)
}

/// A graph that is always the same is the only one.
fn expect_graphs(list: &Path, manifest: &Manifest) -> Result<()> {
    let fixed = manifest
        .graphs
        .iter()
        .filter(|graph| graph.made_of.is_none());
    let (all, fixed) = (manifest.graphs.len(), fixed.count());
    if all > 0 && (fixed == 0 || all == 1) {
        return Ok(());
    }
    let expected = "one graph, or some that tell what they were made of";
    Err(Error::saved(
        list,
        expected,
        format!("{fixed} of {all} that do not"),
    ))
}

fn open_own(folder: &Path, list: &Path, manifest: &Manifest) -> Result<Option<SafetensorsFile>> {
    let files = manifest.weights.iter().flat_map(|weights| &weights.files);
    let mut own = files.filter(|file| file.is_own);
    let Some(record) = own.next() else {
        return Ok(None);
    };
    if own.next().is_some() || !tensors::is_own(&record.path) {
        let expected = "one file of the folder itself, named by what it holds";
        return Err(Error::saved(list, expected, shown(&record.path)));
    }
    tensors::open_own(folder, record).map(Some)
}

fn expect_plain(list: &Path, name: &str) -> Result<()> {
    if disk::is_plain(name) {
        return Ok(());
    }
    Err(Error::saved(list, "a plain name of a file", shown(name)))
}

/// Some hundred bytes for each parameter.
pub(super) const LIST_LIMIT: u64 = 64 << 20;
/// The graph of FLUX.1 takes less than one mebibyte.
pub(super) const GRAPH_LIMIT: u64 = 64 << 20;
