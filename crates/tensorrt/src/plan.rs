//! Keys of plans, and the folder they are kept in.
//!
//! A plan holds kernels and no weights, so that what it depends on is small: the request or step
//! program ([`Graph::hash`](tintype_ir::Graph::hash), in which a weight is a name, a dtype and a
//! shape), the library, the architecture and the options. All that is in its [`PlanKey`]; the
//! weight program, and with it every LoRA, is not. A [`PlanCache`] keeps plans under their keys; a
//! [`PlanFolder`] goes with a saved module.
//!
//! What it is not: it neither builds nor runs plans, and does not know what is in them.
//!
//! ```
//! use std::io::{Read, Write};
//! use tintype_tensorrt::plan::{PlanCache, PlanKey, Recipe};
//! use tintype_tensorrt_sys::{Abi, Newer};
//!
//! let text = "graph g { input step %x: f32[2] %0: f32[2] = neg %x output y = %0 }";
//! let recipe = Recipe::new(Abi::of_number(10701, Newer::Refuse)?, "sm89").with("tf32", false);
//! let key = PlanKey::new(&tintype_ir::parse(text)?, &recipe);
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let cache = PlanCache::new(folder);
//! let mut entry = cache.get_or_build(&key, |plan| {
//!     plan.write_all(b"what the library builds").expect("the cache tells of its failures");
//!     Ok(b"what must be set in it".to_vec())
//! })?;
//! let mut plan = String::new();
//! entry.read_to_string(&mut plan)?;
//! assert_eq!(plan, "what the library builds");
//! assert!(cache.get(&key).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod entry;
mod eviction;
mod folder;
mod kernels;
mod key;
mod lock;

pub use cache::{DEFAULT_LIMIT, PlanCache};
pub use entry::PlanEntry;
pub use folder::PlanFolder;
pub use kernels::KernelFile;
pub use key::{PlanKey, Recipe};
