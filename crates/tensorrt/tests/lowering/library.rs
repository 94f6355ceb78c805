//! The library, where it has been fetched, and engines built with it for a GPU that is not here.

use std::sync::OnceLock;

use libtest_mimic::Failed;
use tintype_ir::Graph;
use tintype_tensorrt::lower::{LowerOptions, Lowered, lower};
use tintype_tensorrt::{Flag, Newer, Target, Tensorrt};

use crate::fetched;

/// The library, opened once.
pub(crate) fn library() -> Result<&'static Tensorrt, Failed> {
    static LIBRARY: OnceLock<Tensorrt> = OnceLock::new();
    if let Some(library) = LIBRARY.get() {
        return Ok(library);
    }
    let path = fetched::find().ok_or("the library was not fetched")?;
    let library = Tensorrt::open(&path, Newer::Refuse)?;
    Ok(LIBRARY.get_or_init(|| library))
}

/// Lowers a program and builds a weightless engine for compute capability 8.9. Gives the size
/// of the plan in bytes.
pub(crate) fn build(program: &Graph, options: &LowerOptions) -> Result<(Lowered, u64), Failed> {
    let builder = library()?.builder()?;
    let network = builder.network()?;
    let lowered = lower(&network, program, options)?;
    let mut config = builder.config()?;
    config.set_targets(&["sm89".parse::<Target>()?])?;
    // Elsewhere such plans need a GPU to be built.
    let is_weightless = library()?.takes_placeholders() && lowered.placeholders().next().is_some();
    if is_weightless {
        config.set_flag(Flag::StripPlan, true)?;
        config.set_flag(Flag::RefitIndividual, true)?;
    }
    if lowered.is_dynamic() {
        let mut profile = builder.profile()?;
        lowered.set_profile(&mut profile)?;
        config.add_profile(&profile)?;
    }
    let mut plan = Vec::new();
    let size = builder.build(&network, &config, &mut plan)?;
    Ok((lowered, size))
}
