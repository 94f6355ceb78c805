//! The inspector: which layers an engine consists of.

use std::ffi::c_char;

use tintype_tensorrt_sys as sys;
use tintype_tensorrt_sys::{IEngineInspector, LayerInformationFormat};

use super::tensors::text;
use super::{Context, Engine};
use crate::Result;
use crate::calls::Owned;

/// Tells the layers of an engine, as JSON. How much it tells was decided when the engine was
/// built: see [`Verbosity`](crate::build::Verbosity).
#[derive(Debug)]
pub struct Inspector {
    /// First, so that it is destroyed before the engine.
    object: Owned<IEngineInspector>,
    engine: Engine,
}

// SAFETY: an inspector belongs to no thread, and all calls of it go through the engine's
// `calls`, one at a time.
unsafe impl Send for Inspector {}

impl Inspector {
    pub(super) fn new(engine: &Engine) -> Result<Self> {
        engine.device().bind()?;
        let object = engine.calls().object("creating an inspector", || {
            // SAFETY: the engine is alive.
            unsafe { engine.raw().create_engine_inspector() }
        })?;
        Ok(Self {
            // SAFETY: the caller owns an inspector; the engine is kept until after it.
            object: unsafe { Owned::new(object) },
            engine: engine.clone(),
        })
    }

    /// All layers, as a JSON object.
    pub fn engine_json(&self) -> Result<String> {
        // SAFETY: the inspector is alive.
        self.ask(None, || unsafe {
            self.object
                .get_engine_information(LayerInformationFormat::JSON)
        })
    }

    /// One layer, as JSON; they are counted by [`Engine::layer_count`].
    pub fn layer_json(&self, layer: usize) -> Result<String> {
        let layer = i32::try_from(layer).unwrap_or(i32::MAX);
        // SAFETY: the inspector is alive.
        self.ask(None, || unsafe {
            self.object
                .get_layer_information(layer, LayerInformationFormat::JSON)
        })
    }

    /// All layers with the sizes that a context runs them with, as a JSON object.
    pub fn context_json(&self, context: &Context) -> Result<String> {
        // SAFETY: the inspector is alive.
        self.ask(Some(context), || unsafe {
            self.object
                .get_engine_information(LayerInformationFormat::JSON)
        })
    }

    fn ask(
        &self,
        context: Option<&Context>,
        call: impl FnOnce() -> std::result::Result<*const c_char, sys::Error>,
    ) -> Result<String> {
        self.engine.device().bind()?;
        self.engine.calls().object("inspecting an engine", || {
            // SAFETY: both are alive; the inspector forgets the context before this returns.
            // The text is copied before the next call.
            unsafe {
                if let Some(context) = context {
                    self.object.set_execution_context(Some(context.raw()))?;
                }
                let pointer = call()?;
                let answer = text(pointer);
                if context.is_some() {
                    self.object.set_execution_context(None)?;
                }
                Ok::<_, sys::Error>((!pointer.is_null()).then_some(answer))
            }
        })
    }
}
