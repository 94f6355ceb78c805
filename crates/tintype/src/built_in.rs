//! The model inside the program, in builds with the feature `shapes` (the default).
//!
//! Its files are read where they lie in the program; nothing is unpacked. The module is
//! there without the feature too, and says that there is no model.
//!
//! ```
//! use tintype::built_in;
//!
//! if let Some(files) = built_in::files() {
//!     assert_eq!(files.path("model_index.json").to_str(), Some("shapes (built in)/model_index.json"));
//! }
//! ```

use tintype_flux::ModelFiles;
#[cfg(feature = "shapes")]
use tintype_flux::{FluxPipeline, Result};

/// The name by which the program's `--model` chooses the built-in model.
pub const NAME: &str = "shapes";

/// The files of the built-in model, if this build has it.
pub fn files() -> Option<ModelFiles> {
    #[cfg(feature = "shapes")]
    let files = ModelFiles::embedded(tintype_shapes::LABEL, tintype_shapes::FILES);
    #[cfg(feature = "shapes")]
    let files = Some(files);
    #[cfg(not(feature = "shapes"))]
    let files = None;
    files
}

/// The built-in model on the best backend that is available: it draws coloured shapes.
///
/// Whatever a request leaves unset is as the model was made for: 128×128 pixels, 20 steps.
/// It has two LoRAs, named `chalk` and `neon`.
///
/// ```
/// use tintype::Request;
///
/// let pipeline = tintype::shapes()?;
/// let request = Request::new("a red circle above a blue square").seed(7);
/// let output = pipeline.generate(&request)?;
/// assert_eq!(output.images()?[0].width(), 128);
/// # Ok::<(), tintype::Error>(())
/// ```
///
/// # Errors
/// None that a released build gives: the files are part of it.
#[cfg(feature = "shapes")]
pub fn shapes() -> Result<FluxPipeline> {
    let files = files().expect("the feature is on");
    let backend = crate::backends::choose("auto")?;
    Ok(FluxPipeline::from_files(files)?.shared_backend(backend))
}
