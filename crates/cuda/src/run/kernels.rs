//! Kernels that steps share: each different source is compiled once, many at a time.
//!
//! The blocks of a model share their kernels, so a program of a thousand steps has some dozens of
//! sources. Compiled code is kept on disk by the device's cache, and loaded kernels here as long
//! as the backend lives.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Generated, Result};

/// Compiles and loads one kernel.
pub(crate) trait Compiler: Send + Sync {
    /// A loaded kernel. A cheap handle.
    type Kernel: Clone + Send + Sync;

    fn compile(&self, generated: &Generated) -> Result<Self::Kernel>;
}

/// Kernels by the hash of their source.
pub(crate) struct Kernels<C: Compiler> {
    compiler: C,
    loaded: Mutex<HashMap<blake3::Hash, C::Kernel>>,
}

impl<C: Compiler> Kernels<C> {
    pub(crate) fn new(compiler: C) -> Self {
        Self {
            compiler,
            loaded: Mutex::default(),
        }
    }

    pub(crate) fn compiler(&self) -> &C {
        &self.compiler
    }

    /// Compiles those that are not there yet, on as many threads as there are cores.
    pub(crate) fn load(&self, kernels: &[&Generated]) -> Result<()> {
        let mut missing: HashMap<blake3::Hash, &Generated> = HashMap::new();
        let loaded = self.lock();
        for &generated in kernels {
            let key = key(generated);
            if !loaded.contains_key(&key) {
                missing.insert(key, generated);
            }
        }
        drop(loaded);
        let missing: Vec<_> = missing.into_iter().collect();
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            let work = || self.load_some(&missing, &next);
            let threads: Vec<_> = (0..threads.min(missing.len()))
                .map(|_| scope.spawn(work))
                .collect();
            let joined = threads.into_iter().map(|thread| {
                let result = thread.join();
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect()
        })
    }

    /// Takes the next missing kernel until none is left.
    fn load_some(&self, missing: &[(blake3::Hash, &Generated)], next: &AtomicUsize) -> Result<()> {
        while let Some((key, generated)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let kernel = self.compiler.compile(generated)?;
            self.lock().insert(*key, kernel);
        }
        Ok(())
    }

    /// The kernel of a source.
    pub(crate) fn get(&self, generated: &Generated) -> Result<C::Kernel> {
        self.load(&[generated])?;
        let kernel = self.lock().get(&key(generated)).cloned();
        Ok(kernel.expect("loaded just now"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<blake3::Hash, C::Kernel>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name lies in the text.
fn key(generated: &Generated) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for option in &generated.source.options {
        hasher.update(option.as_bytes()).update(&[0]);
    }
    hasher.update(generated.source.text.as_bytes()).finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Plan, Work, generate};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Compiler for Counting {
        type Kernel = String;

        fn compile(&self, generated: &Generated) -> Result<String> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if generated.name == "log" {
                return Err(Error::unsupported("log", "nonsense"));
            }
            Ok(generated.name.clone())
        }
    }

    fn generated(op: &str, size: usize) -> Generated {
        let text = format!(
            "graph g {{ input step %x: f32[{size}] %0: f32[{size}] = {op} %x output y = %0 }}"
        );
        let graph = tintype_ir::parse(&text).unwrap();
        let plan = Plan::new(&graph, &tintype_ir::Binding::new()).unwrap();
        let Work::Kernel(expression) = &plan.steps[0].work else {
            panic!("no kernel")
        };
        generate(expression, op).unwrap()
    }

    #[test]
    fn equal_sources_are_compiled_once() {
        let kernels = Kernels::new(Counting::default());
        let (exp, wide, tanh) = (
            generated("exp", 64),
            generated("exp", 128),
            generated("tanh", 64),
        );
        kernels.load(&[&exp, &tanh, &exp, &wide]).unwrap();
        kernels.load(&[&exp]).unwrap();
        assert_eq!(kernels.get(&exp).unwrap(), "exp");
        assert_eq!(kernels.get(&tanh).unwrap(), "tanh");
        assert_eq!(kernels.compiler.0.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn one_that_does_not_compile_is_an_error() {
        let kernels = Kernels::new(Counting::default());
        let log = generated("log", 64);
        let error = kernels.load(&[&generated("exp", 64), &log]).unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        assert!(kernels.get(&log).is_err());
    }
}
