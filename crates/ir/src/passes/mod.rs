//! Passes: each takes a verified graph and gives a verified graph.
//!
//! A pass computes the same values as before, but for roundings: it may remove
//! some, never add any. Fusions leave the weight program alone: its few simple
//! operations are what overlays are attached to and what devices have kernels for.
//! No pass holds state, and none is skipped in silence: what goes wrong in one
//! carries its name.
//!
//! ```
//! use tintype_ir::passes::{Options, optimize};
//! let text = r#"
//! graph "mlp" {
//!   param @w: f32[8, 4]
//!   input step %x: f32[2, 4]
//!   %0: f32[4, 8] = transpose @w {permutation = [1, 0]}
//!   %1: f32[2, 8] = matmul %x, %0
//!   output y = %1
//! }
//! "#;
//! let graph = optimize(&tintype_ir::parse(text)?, &Options::default(), None)?;
//! assert!(graph.to_string().contains("= linear %x, @w"));
//! # Ok::<(), tintype_ir::Error>(())
//! ```

mod absorb_casts;
mod activations;
mod attention;
mod canonical;
mod common_subexpressions;
mod dead_code;
mod fold_constants;
mod fuse_qkv;
mod fusion;
mod linear;
mod matcher;
mod modulate;
mod norms;
mod rewriter;
mod rotary;
mod simplify;

use crate::{Error, Evaluator, Graph, Result, verify};

pub use absorb_casts::AbsorbCasts;
pub use activations::{Gelu, Silu, Softmax};
pub use attention::FuseAttention;
pub use canonical::{Canonical, canonical};
pub use common_subexpressions::{CommonSubexpressions, common_subexpressions};
pub(crate) use dead_code::reached;
pub use dead_code::{DeadCode, dead_code};
pub use fold_constants::{FOLD_LIMIT, FoldConstants, fold_constants};
pub use fuse_qkv::{FuseQkv, fuse_qkv};
pub use linear::FuseLinear;
pub use modulate::{FuseGatedResidual, FuseModulate};
pub use norms::{FuseLayerNorm, FuseRmsNorm};
pub use rewriter::Rewriter;
pub use rotary::FuseRotary;
pub use simplify::{Simplify, simplify};

/// A step from graph to graph.
pub trait Pass {
    /// The name, as in filetests and errors.
    fn name(&self) -> &'static str;

    /// The new graph.
    fn run(&self, graph: &Graph) -> Result<Graph>;
}

/// Runs passes one after another. With `check`, the graph is verified before the
/// first and after each one; the error then names the pass that broke it.
pub fn run(graph: &Graph, passes: &[&dyn Pass], check: bool) -> Result<Graph> {
    if check {
        verify(graph)?;
    }
    let mut current = graph.clone();
    for pass in passes {
        let named = |source: Error| Error::Pass {
            pass: pass.name(),
            source: Box::new(source),
        };
        current = pass.run(&current).map_err(named)?;
        if check {
            verify(&current).map_err(named)?;
        }
    }
    Ok(current)
}

/// What [`optimize`] does beside the passes that every backend wants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Whether the projections of one attention become one linear.
    pub fuse_qkv: bool,
    /// Whether each pass is verified; set in tests and debug builds.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fuse_qkv: true,
            verify: cfg!(debug_assertions),
        }
    }
}

impl Options {
    /// The options with the projections of an attention fused, or not.
    #[must_use]
    pub fn with_fuse_qkv(mut self, fuse_qkv: bool) -> Self {
        self.fuse_qkv = fuse_qkv;
        self
    }

    /// The options with each pass verified, or not.
    #[must_use]
    pub fn with_verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }
}

/// The passes that every backend wants, in order: clean, fuse, clean.
///
/// LayerNorm comes before RMSNorm, which would take its second half for itself, and
/// softmax before attention, which is built on it. Casts are absorbed last, since
/// the fusions look for computing in f32.
pub fn standard_passes() -> Vec<&'static dyn Pass> {
    vec![
        &DeadCode,
        &Simplify,
        &CommonSubexpressions,
        &Gelu,
        &Silu,
        &Softmax,
        &FuseRotary,
        &FuseLinear,
        &FuseModulate,
        &FuseLayerNorm,
        &FuseRmsNorm,
        &FuseAttention,
        &FuseGatedResidual,
        // Transposes around an attention stand between it and the casts of its operands.
        &Simplify,
        &AbsorbCasts,
        &Simplify,
        &CommonSubexpressions,
        &DeadCode,
    ]
}

/// Runs [`standard_passes`], constant folding where there is an evaluator, and what
/// `options` asks for.
///
/// # Errors
/// [`Error::Pass`], naming the pass.
pub fn optimize(
    graph: &Graph,
    options: &Options,
    evaluator: Option<&dyn Evaluator>,
) -> Result<Graph> {
    let fold = evaluator.map(|evaluator| FoldConstants { evaluator });
    let mut passes: Vec<&dyn Pass> = Vec::new();
    passes.extend(fold.as_ref().map(|pass| pass as &dyn Pass));
    passes.extend(standard_passes());
    if options.fuse_qkv {
        passes.extend([
            &FuseQkv as &dyn Pass,
            &Simplify,
            &CommonSubexpressions,
            &DeadCode,
        ]);
    }
    run(graph, &passes, options.verify)
}

/// The pass of this name, for tools and tests; constant folding is not among them,
/// since it needs an evaluator.
pub fn by_name(name: &str) -> Option<&'static dyn Pass> {
    let mut passes = standard_passes();
    passes.push(&FuseQkv);
    passes.push(&Canonical);
    passes.into_iter().find(|pass| pass.name() == name)
}
