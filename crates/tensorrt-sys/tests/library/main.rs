//! Builds real engines on the CPU with the library, where it has been fetched.
//!
//! `cargo xtask test` fetches it (`cargo xtask fetch tensorrt` by hand). Where it is not there,
//! each of these tests is reported as ignored, by its name, and the reason is printed.

#[path = "../support/fetched.rs"]
mod fetched;
mod layers;

use std::ffi::CStr;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_tensorrt_sys::callback::{Implementation, Logger, ProgressMonitor, StreamWriter};
use tintype_tensorrt_sys::{
    BuilderFlag, ComputeCapability, DataType, Dims, Error, IBuilder, IBuilderConfig, ICudaEngine,
    ILayer, ILogger, INetworkDefinition, ITensor, Interface, Library, Line, LoadOptions,
    MatrixOperation, NetworkDefinitionCreationFlag, Newer, Severity, Weights,
};

type Test = (&'static str, fn(&Path) -> Result<(), Failed>);

const TESTS: [Test; 9] = [
    ("the library reports the version of its package", version),
    (
        "an engine of a matrix product is built without a gpu",
        engine,
    ),
    ("a plan without weights holds none of them", weightless),
    ("a writer's failure is its own to remember", failing_writer),
    ("a monitor that says stop ends the build", stopped),
    ("mistakes reach the logger", mistakes),
    ("a runtime says what it lacks", runtime),
    (
        "layers of every kind are built into an engine",
        layers::every_kind,
    ),
    ("settings come back as they were set", layers::settings),
];

fn main() {
    let arguments = Arguments::from_args();
    let library = fetched::find_for(TESTS.len());
    let trial = |(name, test): Test| {
        let path = library.clone();
        let run = move || test(&path.ok_or("the library was not fetched")?);
        Trial::test(name, run).with_ignored_flag(library.is_none())
    };
    libtest_mimic::run(&arguments, TESTS.map(trial).into()).exit();
}

/// Keeps what the library says.
#[derive(Default)]
struct Log(Mutex<Vec<(Severity, String)>>);

impl Logger for Log {
    fn log(&self, severity: Severity, message: &CStr) {
        let message = message.to_string_lossy().into_owned();
        self.0
            .lock()
            .expect("no holder panics")
            .push((severity, message));
    }
}

impl Log {
    /// The errors since the last call of `take_error`.
    fn errors(&self) -> String {
        let messages = self.0.lock().expect("no holder panics");
        let errors = messages
            .iter()
            .filter(|(severity, _)| severity.0 <= Severity::ERROR.0);
        let texts = errors.map(|(_, text)| text.as_str()).collect::<Vec<_>>();
        texts.join("\n")
    }

    /// Whether an error was logged since the last call of this.
    fn take_error(&self) -> bool {
        let messages = std::mem::take(&mut *self.0.lock().expect("no holder panics"));
        let mut severities = messages.iter().map(|(severity, _)| severity.0);
        severities.any(|severity| severity <= Severity::ERROR.0)
    }
}

/// The process's only logger: the library stays with the first while any object is alive.
fn logger() -> &'static Implementation<ILogger, Log> {
    static LOGGER: OnceLock<Implementation<ILogger, Log>> = OnceLock::new();
    LOGGER.get_or_init(|| Implementation::logger(Log::default()))
}

/// Held by each test: messages of one must not be taken for another's.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    logger().take_error();
    guard
}

/// Takes a plan, up to a limit.
struct Plan {
    bytes: Mutex<Vec<u8>>,
    limit: usize,
}

impl StreamWriter for Plan {
    fn write(&self, bytes: &[u8]) -> Option<usize> {
        let mut all = self.bytes.lock().expect("no holder panics");
        all.extend_from_slice(bytes);
        (all.len() <= self.limit).then_some(bytes.len())
    }
}

/// Counts steps and stops after some.
struct Steps {
    count: AtomicI32,
    limit: i32,
}

impl ProgressMonitor for Steps {
    fn step_completed(&self, _phase: &CStr, _step: i32) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst) < self.limit
    }
}

/// What a build needs. The logger lives for ever.
struct Objects {
    config: IBuilderConfig,
    network: INetworkDefinition,
    builder: IBuilder,
}

impl Objects {
    /// A strongly typed network and a configuration for compute capability 8.9.
    ///
    /// # Safety
    /// The library stays loaded, which it always does.
    unsafe fn new(library: &Library) -> Result<Self, Failed> {
        // SAFETY: the logger lives for ever.
        unsafe {
            let builder = library.create_builder(logger().as_ptr())?;
            let flags = NetworkDefinitionCreationFlag::STRONGLY_TYPED.bit();
            let network = builder.create_network_v2(flags)?.ok_or("no network")?;
            let config = builder.create_builder_config()?.ok_or("no config")?;
            assert!(config.set_nb_compute_capabilities(1)?);
            assert!(config.set_compute_capability(ComputeCapability::SM89, 0)?);
            Ok(Self {
                config,
                network,
                builder,
            })
        }
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // SAFETY: all three are owned here, and nothing else of theirs is used any more.
        unsafe {
            self.config.destroy();
            self.network.destroy();
            self.builder.destroy();
        }
    }
}

/// A build of a matrix product.
struct Build {
    objects: Objects,
    /// Read by the library until the build is over.
    _weights: Vec<u16>,
}

impl std::ops::Deref for Build {
    type Target = Objects;

    fn deref(&self) -> &Objects {
        &self.objects
    }
}

const SIZE: i64 = 512;

/// `x[1, 256, 512] · weight[1, 512, 512]ᵀ` in bf16, for compute capability 8.9.
fn build(path: &Path, weightless: bool) -> Result<Build, Failed> {
    let library = Library::open(path, Newer::Refuse)?;
    let weights = vec![0x3c00_u16; (SIZE * SIZE) as usize];
    // SAFETY: the weights are kept beside the objects, which go first.
    unsafe {
        let objects = Objects::new(&library)?;
        let values = Weights::new(DataType::BF16, weights.as_ptr().cast(), SIZE * SIZE);
        let placeholder = Weights::placeholder(DataType::BF16, SIZE * SIZE);
        let values = if weightless { placeholder } else { values };
        matrix_product(objects.network, values)?;
        if weightless {
            objects.config.set_flag(BuilderFlag::STRIP_PLAN)?;
            objects.config.set_flag(BuilderFlag::REFIT_INDIVIDUAL)?;
        }
        Ok(Build {
            objects,
            _weights: weights,
        })
    }
}

/// # Safety
/// The network is alive and the weights live until it was built.
unsafe fn matrix_product(network: INetworkDefinition, weights: Weights) -> Result<(), Failed> {
    let shape = Dims::new(&[1, 256, SIZE])?;
    let weight_shape = Dims::new(&[1, SIZE, SIZE])?;
    // SAFETY: texts and shapes live longer than the calls; the caller vouches for the rest.
    unsafe {
        let x = network
            .add_input(c"x".as_ptr(), DataType::BF16, &shape)?
            .ok_or("no input")?;
        let constant = network
            .add_constant(&weight_shape, weights)?
            .ok_or("no constant")?;
        // A placeholder has got an address to be known by.
        assert!(network.set_weights_name(constant.get_weights()?, c"weight".as_ptr())?);
        let weight = output(constant.into())?;
        let (none, transposed) = (MatrixOperation::NONE, MatrixOperation::TRANSPOSE);
        let product = network
            .add_matrix_multiply(x, none, weight, transposed)?
            .ok_or("no product")?;
        ILayer::from(product).set_name(c"product".as_ptr())?;
        let result = output(product.into())?;
        result.set_name(c"y".as_ptr())?;
        assert_eq!(result.get_dimensions()?.as_slice(), [1, 256, SIZE]);
        assert_eq!(result.get_type()?, DataType::BF16);
        assert_eq!(CStr::from_ptr(result.get_name()?), c"y");
        network.mark_output(result)?;
        assert_eq!(network.get_nb_layers()?, 2);
        Ok(())
    }
}

/// # Safety
/// The layer is alive.
unsafe fn output(layer: ILayer) -> Result<ITensor, Failed> {
    // SAFETY: as the caller says.
    Ok(unsafe { layer.get_output(0) }?.ok_or("no output")?)
}

/// The plan, if the library says that it is whole.
fn plan_of(build: &Objects, limit: usize) -> Result<Option<Vec<u8>>, Failed> {
    let writer = Implementation::stream_writer(Plan {
        bytes: Mutex::default(),
        limit,
    });
    // SAFETY: all objects are alive, and the writer until the call returns.
    let done = unsafe {
        build.builder.build_serialized_network_to_stream(
            build.network,
            build.config,
            writer.as_ptr(),
        )
    }?;
    let bytes = writer.into_inner().bytes.into_inner()?;
    Ok(done.then_some(bytes))
}

fn version(path: &Path) -> Result<(), Failed> {
    let library = Library::open(path, Newer::Refuse)?;
    // The folder of the package is called `rtx-1.7.1.116-cu13`.
    let (version, build) = (
        library.abi().version(),
        library.build().ok_or("no build number")?,
    );
    let expected = format!("rtx-{version}.{build}-");
    assert!(path.to_string_lossy().contains(&expected), "{expected}");
    assert_eq!(library.abi().line(), Line::Rtx);
    assert!(library.has_builder());
    let folder = path.parent().ok_or("no folder")?;
    let options = LoadOptions {
        path: Some(folder.to_owned()),
        ..LoadOptions::default()
    };
    assert_eq!(Library::load(&options)?.path(), path);
    Ok(())
}

fn engine(path: &Path) -> Result<(), Failed> {
    let _alone = alone();
    let build = build(path, false)?;
    let monitor = Implementation::progress_monitor(Steps {
        count: AtomicI32::new(0),
        limit: i32::MAX,
    });
    // SAFETY: the monitor outlives the build and is taken back.
    unsafe { build.config.set_progress_monitor(monitor.as_ptr()) }?;
    let plan = plan_of(&build, usize::MAX)?.ok_or("no plan")?;
    assert!(
        plan.len() > 2 * (SIZE * SIZE) as usize,
        "{} bytes",
        plan.len()
    );
    assert!(monitor.count.load(Ordering::SeqCst) > 0);
    // SAFETY: as above; the result is owned and destroyed.
    unsafe {
        let memory = build
            .builder
            .build_serialized_network(build.network, build.config)?;
        let memory = memory.ok_or("no memory")?;
        assert_eq!(memory.size()?, plan.len());
        assert!(!memory.data()?.is_null());
        memory.destroy();
        build.config.set_progress_monitor(std::ptr::null_mut())?;
    }
    Ok(())
}

fn weightless(path: &Path) -> Result<(), Failed> {
    let _alone = alone();
    if !Library::open(path, Newer::Refuse)?
        .abi()
        .has("IRefitter", "releaseRefitResources")
    {
        // Placeholders came with the same version as that function, 1.7.
        return Ok(());
    }
    let build = build(path, true)?;
    let plan = plan_of(&build, usize::MAX)?.ok_or("no plan")?;
    assert!(plan.len() < (SIZE * SIZE) as usize, "{} bytes", plan.len());
    assert!(plan.windows(6).any(|bytes| bytes == b"weight"));
    Ok(())
}

/// TensorRT-RTX goes on after a failed write and reports success; who writes must know.
fn failing_writer(path: &Path) -> Result<(), Failed> {
    let _alone = alone();
    let build = build(path, false)?;
    let limit = 1000;
    let plan = plan_of(&build, limit)?.ok_or("the library has learnt to notice a failure")?;
    assert!(plan.len() > limit, "{} bytes", plan.len());
    Ok(())
}

fn stopped(path: &Path) -> Result<(), Failed> {
    let _alone = alone();
    let build = build(path, false)?;
    let monitor = Implementation::progress_monitor(Steps {
        count: AtomicI32::new(0),
        limit: 0,
    });
    // SAFETY: the monitor outlives the build.
    unsafe { build.config.set_progress_monitor(monitor.as_ptr()) }?;
    assert_eq!(plan_of(&build, usize::MAX)?, None);
    // SAFETY: the config is alive.
    unsafe { build.config.set_progress_monitor(std::ptr::null_mut()) }?;
    Ok(())
}

fn mistakes(path: &Path) -> Result<(), Failed> {
    let _alone = alone();
    let build = build(path, false)?;
    let shape = Dims::new(&[3])?;
    // SAFETY: the network is alive and the texts live longer than the call.
    let second = unsafe {
        build
            .network
            .add_input(c"x".as_ptr(), DataType::FLOAT, &shape)
    }?;
    assert_eq!(second, None);
    assert!(logger().take_error());
    Ok(())
}

/// Without a GPU there is no runtime, or one that makes no engine; both say so.
fn runtime(path: &Path) -> Result<(), Failed> {
    let _alone = alone();
    let library = Library::open(path, Newer::Refuse)?;
    // SAFETY: the logger lives for ever.
    let runtime = match unsafe { library.create_runtime(logger().as_ptr()) } {
        Ok(runtime) => runtime,
        Err(Error::NotCreated { what, .. }) => {
            assert_eq!(what, "IRuntime");
            assert!(logger().take_error());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let no_plan = [0_u8; 256];
    // SAFETY: the runtime is alive, and so are the bytes, until it is destroyed.
    unsafe {
        let engine: Option<ICudaEngine> =
            runtime.deserialize_cuda_engine(no_plan.as_ptr().cast(), no_plan.len())?;
        assert_eq!(engine, None);
        runtime.destroy();
    }
    assert!(logger().take_error());
    Ok(())
}
