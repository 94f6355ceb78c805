//! A picture under way: an engine whose weights nobody changes.

use std::sync::Arc;

use tintype_backend::{RequestState, Session, Tensors};

use crate::engine::Engine;
use crate::gate::Entered;
use crate::{Report, Result};

/// An engine from the request to the last step. Changes of the engine wait until it is dropped,
/// so its weights are those from beginning to end. It stays in the thread that began it.
///
/// A request state may live longer than its picture and keeps its weights, but some backends
/// then need a second set of them: drop states first.
///
/// ```no_run
/// # fn f(module: &tintype_refit::MutableModule, prompt: tintype_backend::Tensors,
/// #      latents: tintype_backend::Tensors) -> tintype_refit::Result<()> {
/// use tintype_refit::Signature;
/// let mut picture = module.picture(&Signature::of(&prompt).and(&latents))?;
/// let state = picture.prepare(&prompt)?;
/// for _ in 0..20 {
///     let outputs = picture.step(state.as_ref(), &latents)?;
/// }
/// # Ok(()) }
/// ```
pub struct Picture<'m> {
    engine: Arc<Engine>,
    /// There until the picture is dropped.
    session: Option<Box<dyn Session>>,
    report: Report,
    /// Held, never looked at; the last to go.
    _entered: Entered<'m>,
}

/// What a call gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Call {
    /// The graph's outputs.
    pub outputs: Tensors,
    /// What was noticed and done before it ran.
    pub report: Report,
}

impl<'m> Picture<'m> {
    pub(crate) fn new(
        engine: Arc<Engine>,
        session: Box<dyn Session>,
        report: Report,
        entered: Entered<'m>,
    ) -> Self {
        Self {
            engine,
            session: Some(session),
            report,
            _entered: entered,
        }
    }

    /// What was noticed and done before it began.
    pub fn report(&self) -> &Report {
        &self.report
    }

    pub(crate) fn into_report(mut self) -> Report {
        std::mem::take(&mut self.report)
    }

    /// Whether the graph has outputs of the step stage.
    pub fn has_steps(&self) -> bool {
        self.engine.has_steps()
    }

    /// Runs the request program. Several states may live at once.
    ///
    /// # Errors
    /// What the backend says.
    pub fn prepare(&mut self, inputs: &Tensors) -> Result<Box<dyn RequestState>> {
        Ok(self.session().prepare(inputs)?)
    }

    /// Runs the step program.
    ///
    /// # Errors
    /// What the backend says.
    pub fn step(&mut self, state: &dyn RequestState, inputs: &Tensors) -> Result<Tensors> {
        Ok(self.session().step(state, inputs)?)
    }

    /// Runs the step program into memory that the caller keeps; see [`Session::step_into`].
    ///
    /// # Errors
    /// What the backend says.
    pub fn step_into(
        &mut self,
        state: &dyn RequestState,
        inputs: &Tensors,
        outputs: &mut Tensors,
    ) -> Result<()> {
        Ok(self.session().step_into(state, inputs, outputs)?)
    }

    fn session(&mut self) -> &mut dyn Session {
        self.session.as_deref_mut().expect("there until the drop")
    }
}

impl Drop for Picture<'_> {
    fn drop(&mut self) {
        // What a panic left of a session is not for others.
        if let Some(session) = self.session.take()
            && !std::thread::panicking()
        {
            self.engine.give_back(session);
        }
    }
}
