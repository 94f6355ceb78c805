//! Where the library is looked for.
//!
//! A [`SearchPath`] is a list of places in order; nothing is opened here. It is a pure function
//! of an [`Environment`] and of the folders that exist.
//!
//! 1. `TINTYPE_TENSORRT`, a file or a folder; then nowhere else: who names a library means it.
//! 2. The system's own search, which follows `LD_LIBRARY_PATH`.
//! 3. Folders of pip packages in Python environments (`VIRTUAL_ENV`, `CONDA_PREFIX`, those on
//!    `PATH`, the user's, the system's).
//! 4. Folders where SDKs are installed.
//!
//! ```
//! use std::path::Path;
//! use tintype_tensorrt_sys::search::{Environment, Place, SearchPath};
//!
//! let environment = Environment { explicit: Some("/opt/trt/libnvinfer.so.11".into()), ..Environment::default() };
//! let places = SearchPath::new(&environment).into_places();
//! assert_eq!(places, [Place::File(Path::new("/opt/trt/libnvinfer.so.11").into())]);
//! ```

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// The names of libraries that can build, best first: RTX comes as a package of its own.
const FULL: [&str; 4] = [
    "libtensorrt_rtx.so.1",
    "libnvinfer.so.11",
    "libtensorrt_rtx.so",
    "libnvinfer.so",
];

/// Libraries that only run engines; better than none.
const LEAN: [&str; 2] = ["libnvinfer_lean.so.11", "libnvinfer_lean.so"];

/// Where SDKs put the library, below [`Environment::root`].
const SDK_FOLDERS: [&str; 12] = [
    "usr/local/tensorrt",
    "usr/local/tensorrt-rtx",
    "usr/local/TensorRT",
    "usr/local/TensorRT-RTX",
    "opt/tensorrt",
    "opt/tensorrt-rtx",
    "opt/TensorRT",
    "opt/TensorRT-RTX",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/local/lib",
];

/// Folders that pip packages make below `site-packages`.
const PACKAGES: [&str; 4] = [
    "tensorrt_rtx_libs",
    "tensorrt_libs",
    "tensorrt_rtx",
    "tensorrt_lean_libs",
];

/// What decides where to look.
#[derive(Clone, Debug)]
pub struct Environment {
    /// `TINTYPE_TENSORRT`.
    pub explicit: Option<PathBuf>,
    /// Python environments: `VIRTUAL_ENV`, `CONDA_PREFIX`, those on `PATH`.
    pub python: Vec<PathBuf>,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// The folder that stands for `/`.
    pub root: PathBuf,
}

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A name that the system's own search is asked for.
    Name(&'static str),
    /// A file that exists, or that was named.
    File(PathBuf),
    /// A folder without a library: nothing to open, but to be reported.
    Nothing(PathBuf),
}

/// Places in the order in which they are tried.
#[derive(Clone, Debug)]
pub struct SearchPath(Vec<Place>);

impl Environment {
    /// This process's.
    pub fn of_process() -> Self {
        let path = |name: &str| {
            std::env::var_os(name)
                .filter(|value: &OsString| !value.is_empty())
                .map(PathBuf::from)
        };
        let mut python = ["VIRTUAL_ENV", "CONDA_PREFIX"]
            .into_iter()
            .filter_map(path)
            .collect::<Vec<_>>();
        python.extend(pythons_on(&std::env::var_os("PATH").unwrap_or_default()));
        Self {
            explicit: path("TINTYPE_TENSORRT"),
            python,
            home: path("HOME"),
            root: PathBuf::from("/"),
        }
    }
}

impl Default for Environment {
    /// An environment with nothing set.
    fn default() -> Self {
        Self {
            explicit: None,
            python: Vec::new(),
            home: None,
            root: PathBuf::from("/"),
        }
    }
}

impl SearchPath {
    /// The places for an environment.
    pub fn new(environment: &Environment) -> Self {
        if let Some(explicit) = &environment.explicit {
            return Self(explicit_places(explicit));
        }
        let sites = python_folders(environment);
        let sdks = SDK_FOLDERS.map(|folder| environment.root.join(folder));
        let mut folders = sites
            .iter()
            .flat_map(|site| PACKAGES.map(|package| site.join(package)))
            .collect::<Vec<_>>();
        folders.extend(sdks.iter().flat_map(|sdk| [sdk.join("lib"), sdk.clone()]));
        let mut places = FULL.map(Place::Name).to_vec();
        for names in [&FULL[..], &LEAN[..]] {
            places.extend(folders.iter().flat_map(|folder| files(folder, names)));
        }
        let is_empty = |folder: &PathBuf| {
            let holds =
                |place: &Place| matches!(place, Place::File(path) if path.starts_with(folder));
            !places.iter().any(holds)
        };
        let empty = sites.into_iter().chain(sdks).filter(is_empty);
        let empty = empty.map(Place::Nothing).collect::<Vec<_>>();
        places.extend(empty);
        Self(places)
    }

    /// The places.
    pub fn into_places(self) -> Vec<Place> {
        self.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(formatter, "{name} (system search)"),
            Self::File(path) | Self::Nothing(path) => path.display().fmt(formatter),
        }
    }
}

/// A file as it is; of a folder, what it and the folders that an SDK or a package has below it
/// hold.
fn explicit_places(explicit: &Path) -> Vec<Place> {
    if !explicit.is_dir() {
        return vec![Place::File(explicit.to_owned())];
    }
    let below = PACKAGES.into_iter().chain(["lib", "lib64"]);
    let folders = std::iter::once(explicit.to_owned())
        .chain(below.map(|name| explicit.join(name)))
        .collect::<Vec<_>>();
    let mut places = Vec::new();
    for names in [&FULL[..], &LEAN[..]] {
        places.extend(folders.iter().flat_map(|folder| files(folder, names)));
    }
    if places.is_empty() {
        places.push(Place::Nothing(explicit.to_owned()));
    }
    places
}

fn files(folder: &Path, names: &[&str]) -> Vec<Place> {
    let paths = names.iter().map(|name| folder.join(name));
    paths
        .filter(|path| path.is_file())
        .map(Place::File)
        .collect()
}

/// Environments whose `python3` is found by its name.
fn pythons_on(path: &OsStr) -> Vec<PathBuf> {
    std::env::split_paths(path)
        .filter(|folder| folder.join("python3").exists())
        .filter_map(|folder| Some(folder.parent()?.to_owned()))
        .collect()
}

/// The folders of every Python environment that pip installs to.
fn python_folders(environment: &Environment) -> Vec<PathBuf> {
    let mut libraries = Vec::new();
    for prefix in &environment.python {
        libraries.push(prefix.join("lib"));
    }
    if let Some(home) = &environment.home {
        libraries.push(home.join(".local/lib"));
    }
    for folder in ["usr/local/lib", "usr/lib"] {
        libraries.push(environment.root.join(folder));
    }
    let sites = libraries.iter().flat_map(|library| site_folders(library));
    let mut found = Vec::new();
    for site in sites {
        if !found.contains(&site) {
            found.push(site);
        }
    }
    found
}

/// `python3.12/site-packages` and the like below a `lib` folder, newest version first.
fn site_folders(library: &Path) -> Vec<PathBuf> {
    let entries = library.read_dir().into_iter().flatten();
    let mut pythons = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("python3"))
        })
        .collect::<Vec<_>>();
    pythons.sort_by_key(|path| std::cmp::Reverse(minor_version(path)));
    pythons
        .iter()
        .flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)))
        .filter(|site| site.is_dir())
        .collect()
}

/// The 12 of `python3.12`.
fn minor_version(python: &Path) -> u32 {
    let name = python.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.rsplit('.').next()?.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
