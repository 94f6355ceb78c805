//! One engine with its weights: what a refit changes and request states hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tintype_device::{CudaTensor, DeviceBuffer, Stream};
use tintype_tensor::{Shape, Tensor};

use super::Manifest;
use super::exchange::Weights;
use super::plans::{BuildOptions, Plan};
use super::required::Required;
use crate::Result;
use crate::engine::{
    Allocation, Context, ContextOptions, Engine, Refitter, Runtime, RuntimeCache, Specialization,
};
use crate::plan::{KernelFile, PlanFolder};

/// A plan that engines are made of.
#[derive(Debug)]
pub(super) struct Source {
    plan: Mutex<Plan>,
    /// Kernels that the library compiled for this GPU when the plan ran.
    kernels: Option<KernelFiles>,
}

/// Where compiled kernels are kept.
#[derive(Debug)]
struct KernelFiles {
    /// The user's own, which is added to.
    own: KernelFile,
    /// What went with the module, which is not.
    saved: Option<KernelFile>,
}

/// An engine. Those who hold it keep its weights as they are.
#[derive(Debug)]
pub(super) struct Instance {
    /// Before the engine, which they keep alive themselves.
    contexts: Mutex<HashMap<u64, SessionContext>>,
    /// None if there is nothing that could be set.
    refit: Option<Mutex<Refit>>,
    manifest: Manifest,
    kernels: Option<Kernels>,
    engine: Engine,
}

#[derive(Debug)]
struct Refit {
    refitter: Refitter,
    required: Required,
    /// Names of weights that the library once said to be enough by themselves, with the literals
    /// that it wanted besides. Asking takes longer than the refit: seconds per thousands of weights.
    complete: BTreeMap<BTreeSet<String>, Vec<String>>,
}

#[derive(Debug)]
struct Kernels {
    cache: RuntimeCache,
    file: KernelFile,
    /// Length of what was written or read last.
    len: Mutex<usize>,
}

/// What a session has of an engine.
#[derive(Debug)]
pub(super) struct SessionContext {
    pub(super) context: Context,
    /// Sizes of the inputs for which `memory` suffices.
    pub(super) sizes: Vec<Shape>,
    /// The memory that the context has been given.
    pub(super) memory: Option<Arc<DeviceBuffer>>,
}

/// New weights by name.
pub(super) type NewWeights = Weights<NewWeight>;

/// Where a new weight lies.
#[derive(Debug, Clone)]
pub(super) enum NewWeight {
    Device(CudaTensor),
    Host(Tensor),
}

impl Source {
    pub(super) fn new(plan: Plan, build: &BuildOptions, runtime: &Runtime) -> Self {
        let kernels = runtime.tensorrt().has_runtime_cache().then(|| {
            let device = runtime.device();
            let driver = device.driver().version();
            let gpu = format!("{} driver {driver}", device.info().name);
            KernelFiles {
                own: build.cache().kernels(&plan.key, &gpu),
                saved: build.folder().map(|folder| folder.kernels(&plan.key, &gpu)),
            }
        });
        Self {
            plan: Mutex::new(plan),
            kernels,
        }
    }

    /// Writes the plan and the kernels that the library keeps beside it; gives the files' names.
    pub(super) fn save(&self, folder: &PlanFolder) -> Result<Vec<String>> {
        let plan = lock(&self.plan);
        let mut names = vec![folder.put(&plan.key, &plan.entry)?];
        if let Some(kernels) = &self.kernels {
            let (file, bytes) = kernels.fuller();
            if let Some(bytes) = bytes {
                names.push(folder.put_kernels(file, &bytes)?);
            }
        }
        Ok(names)
    }

    /// An engine without weights.
    pub(super) fn load(&self, runtime: &Runtime) -> Result<Instance> {
        let mut plan = lock(&self.plan);
        let start = plan.entry.seek(SeekFrom::Start(0));
        start.map_err(|source| crate::Error::Read {
            action: "reading a plan".to_owned(),
            source,
        })?;
        let engine = runtime.engine_from(&mut plan.entry)?;
        let refit = match plan.manifest.weights.as_slice() {
            [] => None,
            _ => Some(Mutex::new(Refit::new(&engine, &plan.manifest)?)),
        };
        let kernels = self
            .kernels
            .as_ref()
            .map(|files| Kernels::load(&engine, files));
        Ok(Instance {
            contexts: Mutex::default(),
            refit,
            manifest: plan.manifest.clone(),
            kernels: kernels.transpose()?,
            engine,
        })
    }
}

impl KernelFiles {
    /// The file that has more, and what it has: the user's own begins as what went with the module,
    /// and grows.
    fn fuller(&self) -> (&KernelFile, Option<Vec<u8>>) {
        let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
        let own = self.own.read();
        let saved = self.saved.as_ref().map(|saved| (saved, saved.read()));
        match saved {
            Some((file, bytes)) if len(&bytes) > len(&own) => (file, bytes),
            _ => (&self.own, own),
        }
    }
}

impl Kernels {
    fn load(engine: &Engine, files: &KernelFiles) -> Result<Self> {
        let cache = engine.runtime_cache()?;
        let (file, bytes) = files.fuller();
        let bytes = bytes.unwrap_or_default();
        if !bytes.is_empty()
            && let Err(error) = cache.read(&bytes)
        {
            tracing::warn!("{} is begun anew: {error}", file.path().display());
        }
        Ok(Self {
            cache,
            file: files.own.clone(),
            len: Mutex::new(bytes.len()),
        })
    }

    /// Keeps what has been compiled since.
    fn save(&self) -> Result<()> {
        let bytes = self.cache.to_bytes()?;
        let mut len = lock(&self.len);
        if *len != bytes.len() {
            self.file.write(&bytes)?;
            *len = bytes.len();
        }
        Ok(())
    }
}

impl Instance {
    /// How its tensors are called.
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether each weight comes from a program, with its dtype and number of elements.
    pub(super) fn check(&self, weight_program: &tintype_ir::Graph) -> Result<()> {
        match &self.refit {
            Some(refit) => lock(refit).required.check(weight_program),
            None => Ok(()),
        }
    }

    /// Writes those of `weights` that it needs, and literals that were never set. Returns when
    /// the device has done it, or with names of further weights that belong to them: the library
    /// may have merged some. Nothing has then been written.
    ///
    /// # Errors
    /// [`Error::Missing`](crate::Error::Missing) before anything is written if weights would be
    /// lacking; what the library or the device says: some weights may then be new, others old.
    pub(super) fn write(
        &self,
        graph: &str,
        weights: &NewWeights,
        stream: &Stream,
    ) -> Result<Vec<String>> {
        let Some(refit) = &self.refit else {
            return Ok(Vec::new());
        };
        let mut refit = lock(refit);
        let written = refit.write(graph, weights, stream);
        if !matches!(&written, Ok(lacking) if lacking.is_empty()) {
            // What is set must not be written by a later refit.
            if let Err(error) = refit.refitter.unset_all() {
                tracing::warn!("{error}");
            }
        }
        written
    }

    /// The bytes of those of `weights` that go to it from the host.
    pub(super) fn host_bytes(&self, weights: &NewWeights) -> usize {
        let Some(refit) = &self.refit else { return 0 };
        let refit = lock(refit);
        let needed = weights
            .iter()
            .filter(|(name, _)| refit.required.needs(name));
        let bytes = needed.map(|(_, weight)| match weight {
            NewWeight::Device(_) => 0,
            NewWeight::Host(tensor) => tensor.bytes().len(),
        });
        bytes.sum()
    }

    /// Lets a session use its context of this engine, made when it is first wanted. The engine
    /// owns it, so that idle sessions keep no engine alive.
    pub(super) fn with_context<T>(
        &self,
        session: u64,
        run: impl FnOnce(&mut SessionContext) -> tintype_backend::Result<T>,
    ) -> tintype_backend::Result<T> {
        let context = lock(&self.contexts).remove(&session);
        let mut context = match context {
            Some(context) => context,
            None => self.context()?,
        };
        let result = run(&mut context);
        lock(&self.contexts).insert(session, context);
        result
    }

    fn context(&self) -> Result<SessionContext> {
        let runs_eagerly = self.engine.tensorrt().has_runtime_cache();
        let context = self.engine.context(&ContextOptions {
            allocation: Allocation::Caller,
            // The same weights and inputs give the same bits from the first run on.
            specialization: runs_eagerly.then_some(Specialization::Eager),
            runtime_cache: self.kernels.as_ref().map(|kernels| kernels.cache.clone()),
            ..ContextOptions::default()
        })?;
        Ok(SessionContext {
            context,
            sizes: Vec::new(),
            memory: None,
        })
    }

    /// Drops what a session had here.
    pub(super) fn end_session(&self, session: u64) {
        let context = lock(&self.contexts).remove(&session);
        drop(context);
        self.save_kernels();
    }

    /// Keeps compiled kernels for the next run of the program. Not having them costs time only.
    pub(super) fn save_kernels(&self) {
        if let Some(Err(error)) = self.kernels.as_ref().map(Kernels::save) {
            tracing::warn!("{error}");
        }
    }
}

impl Refit {
    fn new(engine: &Engine, manifest: &Manifest) -> Result<Self> {
        let mut refitter = engine.refitter()?;
        // Types are compared by `Required`; looking at values would cost time.
        refitter.set_validation(false)?;
        let offered = refitter.weights();
        let offered = offered.map(|weights| (weights.name, weights.dtype, weights.count));
        let required = Required::new(manifest, offered)?;
        Ok(Self {
            refitter,
            required,
            complete: BTreeMap::new(),
        })
    }

    fn write(&mut self, graph: &str, weights: &NewWeights, stream: &Stream) -> Result<Vec<String>> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for (name, weight) in weights {
            if self.required.needs(name) {
                self.set(name, weight)?;
                names.insert(name.clone());
            }
        }
        if self.required.lacks_literals() {
            names.extend(self.set_literals(|_| true)?);
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        // The list that counts is our own. Where the library wants more, it shall have it.
        self.required.expect_complete(graph, &names)?;
        if !self.complete.contains_key(&names) {
            let (literals, lacking): (Vec<String>, Vec<String>) = self
                .refitter
                .missing()?
                .into_iter()
                .partition(|name| self.required.is_literal(name));
            if !lacking.is_empty() {
                return Ok(lacking);
            }
            if self.complete.len() >= COMPLETE {
                self.complete.clear();
            }
            self.complete.insert(names.clone(), literals);
        }
        let literals = self.complete[&names].clone();
        names.extend(self.set_literals(|name| literals.iter().any(|other| other == name))?);
        self.refitter.refit(stream)?;
        stream.synchronize()?;
        self.required.give(names);
        self.required.expect_complete(graph, &BTreeSet::new())?;
        Ok(Vec::new())
    }

    fn set(&mut self, name: &str, weight: &NewWeight) -> Result<()> {
        match weight {
            NewWeight::Device(tensor) => self.refitter.set(name, tensor),
            NewWeight::Host(tensor) => self.refitter.set_host(name, tensor),
        }
    }

    /// Sets the literals that are wanted, and gives their names.
    fn set_literals(&mut self, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (name, tensor) in self.required.literals() {
            if is_wanted(name) {
                self.refitter.set_host(name, tensor)?;
                names.push(name.clone());
            }
        }
        Ok(names)
    }
}

/// What these locks protect is whole between calls, also after a panic elsewhere.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many sets of names are remembered: LoRAs that are switched often reach a few.
const COMPLETE: usize = 64;
