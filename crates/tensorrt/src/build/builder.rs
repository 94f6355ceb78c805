//! The builder.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Arc;

use tintype_tensorrt_sys::callback::Implementation;
use tintype_tensorrt_sys::{IBuilder, ITimingCache, NetworkDefinitionCreationFlag};

use super::gate;
use super::layers::{self, EngineLayer};
use super::writer::PlanWriter;
use super::{Config, Profile};
use crate::calls::{Calls, Owned};
use crate::network::Network;
use crate::{Error, Result, Tensorrt};

/// Makes networks and configurations, and builds plans of them. It stays in its thread.
///
/// What it makes cannot outlive it:
/// ```compile_fail,E0505
/// # fn f(tensorrt: &tintype_tensorrt::Tensorrt) -> tintype_tensorrt::Result<()> {
/// let builder = tensorrt.builder()?;
/// let network = builder.network()?;
/// drop(builder);
/// drop(network);
/// # Ok(()) }
/// ```
/// Nor can it, or what it makes, go to another thread:
/// ```compile_fail,E0277
/// # fn f(tensorrt: &tintype_tensorrt::Tensorrt) -> tintype_tensorrt::Result<()> {
/// let builder = tensorrt.builder()?;
/// std::thread::spawn(move || builder.config().is_ok());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Builder {
    /// First, so that it is destroyed first.
    object: Owned<IBuilder>,
    /// The library demands that they outlive the builder.
    timing_caches: RefCell<Vec<Owned<ITimingCache>>>,
    calls: Arc<Calls>,
    tensorrt: Tensorrt,
}

impl Builder {
    pub(crate) fn new(tensorrt: &Tensorrt) -> Result<Self> {
        let calls = Calls::new(tensorrt.abi());
        let object = tensorrt.create_builder(&calls)?;
        // SAFETY: the builder is alive, and the recorder outlives it: fields are dropped in
        // their order.
        calls.run("setting the builder's error recorder", || unsafe {
            object.set_error_recorder(calls.recorder())
        })?;
        Ok(Self {
            object,
            timing_caches: RefCell::default(),
            calls,
            tensorrt: tensorrt.clone(),
        })
    }

    /// The library.
    pub fn tensorrt(&self) -> &Tensorrt {
        &self.tensorrt
    }

    /// An empty, strongly typed network: each tensor has the dtype that its layer gives it.
    pub fn network(&self) -> Result<Network<'_>> {
        let flags = NetworkDefinitionCreationFlag::STRONGLY_TYPED.bit();
        let object = self.calls.object("creating a network", || {
            // SAFETY: the builder is alive.
            unsafe { self.object.create_network_v2(flags) }
        })?;
        // SAFETY: the caller owns a network, and `Network` borrows the builder.
        let object = unsafe { Owned::new(object) };
        let recorder = self.calls.recorder();
        self.calls.run("setting the network's recorder", || {
            // SAFETY: the network is alive; the recorder lives in the builder, which outlives it.
            unsafe { object.set_error_recorder(recorder) }
        })?;
        Ok(Network::new(self, object))
    }

    /// A configuration with the library's defaults, but without TF32: f32 means f32.
    pub fn config(&self) -> Result<Config<'_>> {
        let object = self.calls.object("creating a configuration", || {
            // SAFETY: the builder is alive.
            unsafe { self.object.create_builder_config() }
        })?;
        // SAFETY: the caller owns a configuration, and `Config` borrows the builder.
        Config::new(self, unsafe { Owned::new(object) })
    }

    /// An empty optimization profile.
    pub fn profile(&self) -> Result<Profile<'_>> {
        let object = self.calls.object("creating an optimization profile", || {
            // SAFETY: the builder is alive.
            unsafe { self.object.create_optimization_profile() }
        })?;
        Ok(Profile::new(self, object))
    }

    /// Lets a build use up to `count` threads; at least 1, which is the default.
    pub fn set_max_threads(&mut self, count: usize) -> Result<()> {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        self.calls
            .done(format_args!("allowing {count} threads"), || {
                // SAFETY: the builder is alive.
                unsafe { self.object.set_max_threads(count) }
            })
    }

    /// Builds a network and writes its plan, piece by piece; gives the plan's size in bytes.
    /// Network and configuration stay as they are and can be built again. Slow: seconds to
    /// minutes. Builds for different targets wait for each other, in all threads of a process:
    /// the library keeps their list for all.
    ///
    /// # Errors
    /// [`Error::Call`] with the library's reasons; [`Error::Stopped`] if the configuration's
    /// monitor said so; [`Error::Write`] if the plan could not be written. What was written by
    /// then is of no use. [`Error::Foreign`] for a network or configuration of another builder.
    pub fn build(
        &self,
        network: &Network<'_>,
        config: &Config<'_>,
        writer: &mut (dyn Write + Send),
    ) -> Result<u64> {
        const ACTION: &str = "building a plan";
        self.expect_own(network.builder(), "the network")?;
        self.expect_own(config.builder(), "the configuration")?;
        let _pass = gate::enter();
        config.begin();
        let writer = Implementation::stream_writer(PlanWriter::new(writer));
        let built = self.calls.done(ACTION, || {
            // SAFETY: all objects are alive and of this builder, and the writer lives until the
            // call returns. What the network refers to, its weights above all, it owns.
            unsafe {
                self.object.build_serialized_network_to_stream(
                    network.raw(),
                    config.raw(),
                    writer.as_ptr(),
                )
            }
        });
        if config.is_stopped() && built.is_err() {
            return Err(Error::Stopped {
                action: ACTION.to_owned(),
            });
        }
        // The library may call a build good whose plan could not be written.
        let written = writer.into_inner().finish();
        let written = written.map_err(|source| Error::Write {
            action: "writing a plan".to_owned(),
            source,
        })?;
        built.map(|()| written)
    }

    /// As [`Builder::build`]; also gives the engine's layers, the library's kernels after all of its
    /// fusions. That needs no GPU, unlike an [`Inspector`](crate::Inspector), and a configuration of
    /// [`Verbosity::Detailed`](super::Verbosity::Detailed): others leave the list empty.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn build_and_list(
        &self,
        network: &Network<'_>,
        config: &Config<'_>,
        writer: &mut (dyn Write + Send),
    ) -> Result<(u64, Vec<EngineLayer>)> {
        let build = || self.build(network, config, writer);
        let (built, listings) = crate::log::capture_details(layers::TITLE, build);
        let layers = listings.iter().flat_map(|listing| layers::parse(listing));
        Ok((built?, layers.collect()))
    }

    pub(crate) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    /// Keeps a timing cache as long as the builder.
    pub(super) fn keep(&self, cache: Owned<ITimingCache>) {
        self.timing_caches.borrow_mut().push(cache);
    }

    fn expect_own(&self, other: &Self, what: &str) -> Result<()> {
        if std::ptr::eq(self, other) {
            return Ok(());
        }
        Err(Error::Foreign {
            action: "building a plan".to_owned(),
            what: what.to_owned(),
            owner: "builder",
        })
    }
}
