//! What a plan depends on, as one hash.

use std::collections::BTreeMap;
use std::fmt;

use tintype_ir::Graph;
use tintype_tensorrt_sys::Abi;

/// The name of a plan: a hash of all that its bytes depend on.
///
/// ```
/// # use tintype_tensorrt::plan::{PlanKey, Recipe};
/// # use tintype_tensorrt_sys::{Abi, Newer};
/// let rtx = Recipe::new(Abi::of_number(10701, Newer::Refuse)?, "sm89");
/// let step = |op: &str| {
///     let text = format!("graph g {{ input step %x: f32[2] %0: f32[2] = {op} %x output y = %0 }}");
///     PlanKey::new(&tintype_ir::parse(&text).unwrap(), &rtx)
/// };
/// assert_eq!(step("gelu_erf"), step("gelu_erf"));
/// assert_ne!(step("gelu_erf"), step("gelu_tanh"));
/// # Ok::<(), tintype_tensorrt_sys::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlanKey(blake3::Hash);

/// What a plan depends on beside its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    abi: Abi,
    target: String,
    options: BTreeMap<String, String>,
}

impl Recipe {
    /// A plan of this library for `target`: an architecture such as `sm89`, or the name of the
    /// very GPU where the library builds for that alone.
    pub fn new(abi: Abi, target: impl Into<String>) -> Self {
        Self {
            abi,
            target: target.into(),
            options: BTreeMap::new(),
        }
    }

    /// The same with an option that changes the plan.
    #[must_use]
    pub fn with(mut self, option: impl Into<String>, value: impl fmt::Display) -> Self {
        self.options.insert(option.into(), value.to_string());
        self
    }
}

impl PlanKey {
    /// The key of the plan of a request or step program.
    pub fn new(program: &Graph, recipe: &Recipe) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Lengths keep two neighbours from being taken for another two.
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(VERSION);
        part(program.hash().as_bytes());
        // Line and version, as "TensorRT-RTX 1.7.1".
        part(recipe.abi.to_string().as_bytes());
        part(recipe.target.as_bytes());
        for (option, value) in &recipe.options {
            part(option.as_bytes());
            part(value.as_bytes());
        }
        Self(hasher.finalize())
    }

    /// The key in a file's name: 64 hexadecimal digits, in lower case.
    pub fn from_hex(text: &str) -> Option<Self> {
        let hash = blake3::Hash::from_hex(text).ok()?;
        // Upper case names no file of ours.
        (hash.to_hex().as_str() == text).then_some(Self(hash))
    }

    /// A key for a file that is no plan.
    pub(super) fn of_name(name: &str) -> Self {
        Self(blake3::hash(name.as_bytes()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl fmt::Debug for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlanKey({self})")
    }
}

/// Changes whenever the bytes that are hashed do.
const VERSION: &[u8] = b"tintype plan key 1";

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
