//! A module as a folder: saved by one process, loaded by another in the time that it takes to
//! read a list.
//!
//! | file | holds |
//! |---|---|
//! | `module.json` | the list: version, checksum, and which of the other files count |
//! | `graph-<hash>.txt` | a graph in the text form |
//! | `changed-<hash>.safetensors` | parameters that are in no checkpoint: edited, or set from memory |
//! | `compiled/…` | what the backend compiled, see [`Executable::save`](tintype_backend::Executable::save) |
//! | `module.lock` | nothing; held while the list is read or written |
//!
//! Weights that lie in safetensors files stay there: the list has the file's path, size, time and
//! header, and the name, rows, scale and shape of each parameter in it. Nothing is executed on
//! load but the graph, and no weight is read before the first call.
//!
//! **A kill at any moment leaves the old folder or the new one.** Graphs and tensors are named by
//! what they hold, so that no save writes over a file that the list names; compiled forms are
//! replaced whole by equal ones. The list is renamed into place last, when all else is on disk, and
//! files that it does not name are removed after that. What a kill leaves behind is removed by the
//! next save.
//!
//! ```
//! # use std::sync::Arc;
//! # use tintype_backend::Tensors;
//! # use tintype_cpu::CpuBackend;
//! # use tintype_refit::{LoadOptions, MutableModule, State};
//! # use tintype_tensor::Tensor;
//! # use tintype_weights::Parameters;
//! # let graph = tintype_ir::parse("graph scaled { dim n = 1..=64 param @scale: f32[1] \
//! #   input step %x: f32[n] %0: f32[n] = broadcast @scale %1: f32[n] = mul %x, %0 output y = %1 }")?;
//! # let scale = Tensor::from_f32([1], vec![2.0])?;
//! # let parameters = Parameters::builder().tensor("scale", scale).build()?;
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path().join("module");
//! let backend = Arc::new(CpuBackend::new());
//! let module = MutableModule::builder(backend.clone(), graph, parameters).build();
//! let x = Tensors::new().with("x", Tensor::from_f32([2], vec![1.0, 5.0])?);
//! module.call(&Tensors::new(), &x)?;
//! module.save(&folder)?;
//!
//! let loaded = MutableModule::load(&folder, backend, LoadOptions::default())?;
//! assert_eq!(loaded.module.state()?, State::NeedsRefit);
//! let call = loaded.module.call(&Tensors::new(), &x)?;
//! assert_eq!(call.outputs.host("y")?.to_f32_vec()?, [2.0, 10.0]);
//! assert_eq!(call.report.compilations(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ahead;
mod disk;
mod load;
mod manifest;
mod module;
mod open;
mod options;
mod save;
mod tensors;
#[cfg(test)]
mod tests;
mod verify;

pub use ahead::Ahead;
pub use open::{CompiledFile, SavedModule};
pub use options::{LoadOptions, Loaded, SaveOptions, Saved};
pub use tensors::ChangedFile;
pub use verify::Verified;

/// The list's name in its folder.
const LIST: &str = "module.json";

/// The folder of compiled forms.
const COMPILED: &str = "compiled";
