//! How an engine is to be built.

use std::ops::ControlFlow;

use tintype_tensorrt_sys::callback::Implementation;
use tintype_tensorrt_sys::{
    BuilderFlag, ComputeCapability, IBuilderConfig, IProgressMonitor, MemoryPoolType,
    ProfilingVerbosity,
};

use super::progress::Monitor;
use super::{Builder, Profile, Progress, Target};
use crate::calls::Owned;
use crate::{Error, Result};

/// Settings of a build.
#[derive(Debug)]
pub struct Config<'b> {
    /// First, so that it is destroyed before what it refers to.
    object: Owned<IBuilderConfig>,
    monitor: Option<Implementation<IProgressMonitor, Monitor<'b>>>,
    builder: &'b Builder,
}

/// Something that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flag {
    /// The plan holds no weights that refit can give.
    StripPlan,
    /// All named weights can be refitted.
    Refit,
    /// Weights can be refitted with those that they were built with.
    RefitIdentical,
    /// Only weights that are marked can be refitted.
    RefitIndividual,
    /// Products of f32 may be rounded to 10 bits of mantissa.
    Tf32,
    /// Not a number stays not a number.
    StrictNans,
    /// The plan runs on later versions of the library too.
    VersionCompatible,
    /// Weights may stay in host memory.
    WeightStreaming,
    /// The library logs how much memory the build takes.
    MonitorMemory,
}

/// Memory that the library may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryPool {
    /// Scratch memory of a layer when the engine runs.
    Workspace,
    /// Memory of the GPU while kernels are tried.
    Tactics,
    /// Shared memory of a block.
    SharedMemory,
}

/// How much the inspector can say of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verbosity {
    /// Nothing.
    None,
    /// Names of layers.
    #[default]
    Names,
    /// Everything.
    Detailed,
}

impl<'b> Config<'b> {
    pub(super) fn new(builder: &'b Builder, object: Owned<IBuilderConfig>) -> Result<Self> {
        let mut config = Self {
            object,
            monitor: None,
            builder,
        };
        config.set_flag(Flag::Tf32, false)?;
        Ok(config)
    }

    /// The GPUs that the engine is for. None: with TensorRT-RTX all that it knows (a plan for
    /// several cannot be refitted), with TensorRT the GPU that is there.
    ///
    /// # Errors
    /// [`Error::Target`] for what the library does not build for.
    pub fn set_targets(&mut self, targets: &[Target]) -> Result<()> {
        if !self.builder.tensorrt().takes_targets() && targets.is_empty() {
            return Ok(());
        }
        for &target in targets {
            self.expect_target(target)?;
        }
        let numbers = targets.iter().map(|target| target.number());
        self.set_capabilities(&numbers.map(ComputeCapability).collect::<Vec<_>>())
    }

    /// Builds for the GPU that is there.
    pub fn set_target_of_this_gpu(&mut self) -> Result<()> {
        if !self.builder.tensorrt().takes_targets() {
            return Ok(());
        }
        self.set_capabilities(&[ComputeCapability::CURRENT])
    }

    /// Switches something on or off. All is off but what the library has on by itself.
    pub fn set_flag(&mut self, flag: Flag, on: bool) -> Result<()> {
        let raw = flag.raw();
        let action = format_args!("switching {flag:?} {}", if on { "on" } else { "off" });
        self.builder.calls().checked(action, || {
            // SAFETY: the configuration is alive.
            unsafe {
                if on {
                    self.object.set_flag(raw)
                } else {
                    self.object.clear_flag(raw)
                }
            }
        })
    }

    /// Whether something is on.
    pub fn flag(&self, flag: Flag) -> Result<bool> {
        self.builder.calls().run("asking for a flag", || {
            // SAFETY: the configuration is alive.
            unsafe { self.object.get_flag(flag.raw()) }
        })
    }

    /// Limits a kind of memory to some bytes.
    pub fn set_memory_limit(&mut self, pool: MemoryPool, bytes: usize) -> Result<()> {
        let action = format_args!("limiting {pool:?} to {bytes} bytes");
        self.builder.calls().checked(action, || {
            // SAFETY: the configuration is alive.
            unsafe { self.object.set_memory_pool_limit(pool.raw(), bytes) }
        })
    }

    /// The limit of a kind of memory in bytes.
    pub fn memory_limit(&self, pool: MemoryPool) -> Result<usize> {
        self.builder.calls().run("asking for a limit", || {
            // SAFETY: the configuration is alive.
            unsafe { self.object.get_memory_pool_limit(pool.raw()) }
        })
    }

    /// How long to look for fast kernels, 0 to 5. The library's default is 3.
    ///
    /// # Errors
    /// [`Error::Setting`] for another number.
    pub fn set_optimization_level(&mut self, level: u8) -> Result<()> {
        if level > 5 {
            return Err(Error::Setting {
                what: "optimization level".to_owned(),
                expected: "0 to 5".to_owned(),
                found: level.to_string(),
            });
        }
        let action = format_args!("setting optimization level {level}");
        self.builder.calls().checked(action, || {
            // SAFETY: the configuration is alive.
            unsafe { self.object.set_builder_optimization_level(i32::from(level)) }
        })
    }

    /// How long the library looks for fast kernels.
    pub fn optimization_level(&self) -> Result<i32> {
        self.builder
            .calls()
            .run("asking for the optimization level", || {
                // SAFETY: the configuration is alive.
                unsafe { self.object.get_builder_optimization_level() }
            })
    }

    /// The most streams that the engine may use beside the one it is run in.
    pub fn set_max_aux_streams(&mut self, count: usize) -> Result<()> {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        self.builder.calls().done("limiting auxiliary streams", || {
            // SAFETY: the configuration is alive.
            unsafe { self.object.set_max_aux_streams(count) }
        })
    }

    /// How much the inspector can say.
    pub fn set_verbosity(&mut self, verbosity: Verbosity) -> Result<()> {
        self.builder.calls().checked("setting the verbosity", || {
            // SAFETY: the configuration is alive.
            unsafe { self.object.set_profiling_verbosity(verbosity.raw()) }
        })
    }

    /// Adds ranges of sizes and gives the profile's number, from 0. The library copies them:
    /// later changes of the profile do not matter.
    ///
    /// # Errors
    /// [`Error::Call`] for an incomplete profile; [`Error::Foreign`] for one of another builder.
    pub fn add_profile(&mut self, profile: &Profile<'_>) -> Result<usize> {
        const ACTION: &str = "adding an optimization profile";
        if !std::ptr::eq(profile.builder(), self.builder) {
            return Err(Error::Foreign {
                action: ACTION.to_owned(),
                what: "the profile".to_owned(),
                owner: "builder",
            });
        }
        self.builder.calls().object(ACTION, || {
            // SAFETY: configuration and profile are alive and of the same builder.
            let index = unsafe { self.object.add_optimization_profile(Some(profile.raw())) };
            index.map(|index| usize::try_from(index).ok())
        })
    }

    /// Tells a closure how far builds with this configuration are. It is called from threads of
    /// the library; `Break` stops the build at the next step.
    pub fn on_progress(
        &mut self,
        follow: impl Fn(Progress<'_>) -> ControlFlow<()> + Send + Sync + 'b,
    ) -> Result<()> {
        let monitor = Implementation::progress_monitor(Monitor::new(Box::new(follow)));
        self.builder
            .calls()
            .checked("setting the progress monitor", || {
                // SAFETY: the configuration is alive; the monitor is kept until after it, and an
                // older one is let go only now that the library has another.
                unsafe { self.object.set_progress_monitor(monitor.as_ptr()) }
            })?;
        self.monitor = Some(monitor);
        Ok(())
    }

    pub(super) fn builder(&self) -> &'b Builder {
        self.builder
    }

    pub(super) fn raw(&self) -> IBuilderConfig {
        self.object.raw()
    }

    /// A build begins.
    pub(super) fn begin(&self) {
        if let Some(monitor) = &self.monitor {
            monitor.begin();
        }
    }

    /// Whether the last build was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.monitor
            .as_ref()
            .is_some_and(|monitor| monitor.is_stopped())
    }

    fn set_capabilities(&mut self, capabilities: &[ComputeCapability]) -> Result<()> {
        let calls = self.builder.calls();
        let count = capabilities.len() as i32;
        calls.done("setting the number of targets", || {
            // SAFETY: the configuration is alive.
            unsafe { self.object.set_nb_compute_capabilities(count) }
        })?;
        for (index, &capability) in (0..).zip(capabilities) {
            calls.done(format_args!("setting target {}", capability.0), || {
                // SAFETY: the configuration is alive, and the index below the number just set.
                unsafe { self.object.set_compute_capability(capability, index) }
            })?;
        }
        Ok(())
    }

    fn expect_target(&self, target: Target) -> Result<()> {
        let tensorrt = self.builder.tensorrt();
        let targets = tensorrt.targets();
        if targets.contains(&target) {
            return Ok(());
        }
        let reason = if targets.is_empty() {
            "it builds for the GPU that is there, without naming it".to_owned()
        } else {
            format!("it builds for {}", Target::list(targets))
        };
        Err(Error::Target {
            target,
            reason,
            abi: tensorrt.abi(),
        })
    }
}

impl Flag {
    fn raw(self) -> BuilderFlag {
        match self {
            Self::StripPlan => BuilderFlag::STRIP_PLAN,
            Self::Refit => BuilderFlag::REFIT,
            Self::RefitIdentical => BuilderFlag::REFIT_IDENTICAL,
            Self::RefitIndividual => BuilderFlag::REFIT_INDIVIDUAL,
            Self::Tf32 => BuilderFlag::TF32,
            Self::StrictNans => BuilderFlag::STRICT_NANS,
            Self::VersionCompatible => BuilderFlag::VERSION_COMPATIBLE,
            Self::WeightStreaming => BuilderFlag::WEIGHT_STREAMING,
            Self::MonitorMemory => BuilderFlag::MONITOR_MEMORY,
        }
    }
}

impl MemoryPool {
    fn raw(self) -> MemoryPoolType {
        match self {
            Self::Workspace => MemoryPoolType::WORKSPACE,
            Self::Tactics => MemoryPoolType::TACTIC_DRAM,
            Self::SharedMemory => MemoryPoolType::TACTIC_SHARED_MEMORY,
        }
    }
}

impl Verbosity {
    fn raw(self) -> ProfilingVerbosity {
        match self {
            Self::None => ProfilingVerbosity::NONE,
            Self::Names => ProfilingVerbosity::LAYER_NAMES_ONLY,
            Self::Detailed => ProfilingVerbosity::DETAILED,
        }
    }
}
