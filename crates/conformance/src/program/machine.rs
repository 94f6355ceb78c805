//! The machine: which backends are there, and why others are not.

use std::path::PathBuf;
use std::sync::Arc;

use tintype_backend::Backend;
use tintype_cpu::{CpuBackend, CpuEvaluator};
use tintype_cuda::{CudaBackend, CudaOptions};
use tintype_device::Driver;
use tintype_tensorrt::backend::{BuildOptions, F8Weights, TensorrtBackend, TensorrtOptions};
use tintype_tensorrt::plan::PlanCache;
use tintype_tensorrt::{LoadOptions, Target, Tensorrt};

use super::report::Report;
use super::{Arguments, Result};

/// What sections run on.
pub(crate) struct Machine {
    /// In the order in which they are tried.
    pub(crate) backends: Vec<Entry>,
    /// The library, which builds plans also where nothing runs them; or why it is not there.
    pub(crate) tensorrt: std::result::Result<Tensorrt, String>,
    /// What plans are built for, if not for the GPU that is there.
    pub(crate) target: Option<Target>,
    /// Where recorded cases are; `None` if they are not.
    pub(crate) fixtures: Option<PathBuf>,
    /// Where plans are kept.
    pub(crate) plans: PlanCache,
    /// How weights of f8 come into engines.
    f8_weights: F8Weights,
    /// Whether the CPU is compared with itself.
    pub(crate) is_rehearsal: bool,
    /// Lasts as long as plans are needed.
    _folder: Option<tempfile::TempDir>,
}

/// A backend by name.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Why it is not there, if it is not.
    pub(crate) found: std::result::Result<Found, String>,
}

/// A backend that is there.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) backend: Arc<dyn Backend>,
    /// The one for graphs with f8, where that needs plans for another architecture.
    pub(crate) for_f8: Arc<dyn Backend>,
}

impl Machine {
    /// What is known of a backend; none if it was not asked for.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.backends.iter().find(|entry| entry.name == name)
    }

    /// Looks at everything and says it.
    pub(crate) fn find(arguments: &Arguments, report: &mut Report) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let system = (std::env::consts::OS, std::env::consts::ARCH);
        report.machine(
            "cpu",
            format!("{} {}, {threads} threads", system.0, system.1),
        );
        if let Ok(driver) = Driver::load() {
            let version = driver.version();
            let version = format!("CUDA {}.{}", version.major, version.minor);
            report.machine("driver", version);
            // Linux tells the number that people know it by.
            let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
            if let Some(line) = text.lines().next() {
                report.machine("driver's module", line.trim());
            }
            for device in driver.devices().unwrap_or_default() {
                let capability = device.compute_capability;
                let memory = device.memory_bytes >> 20;
                let text = format!("{}, {capability}, {memory} MiB", device.name);
                report.machine(&format!("cuda:{}", device.ordinal), text);
            }
        }
        let tensorrt = Tensorrt::load(&LoadOptions::default()).map_err(|error| error.to_string());
        match &tensorrt {
            Ok(library) => {
                let abi = format!("{} at {}", library.abi(), library.path().display());
                report.machine("tensorrt", abi);
            }
            Err(reason) => report.machine("tensorrt", format!("not there: {reason}")),
        }
        let tf32 = std::env::var("NVIDIA_TF32_OVERRIDE");
        report.machine("NVIDIA_TF32_OVERRIDE", tf32.as_deref().unwrap_or("not set"));
        let folder = match &arguments.plans {
            Some(_) => None,
            None => Some(tempfile::tempdir()?),
        };
        let path = arguments.plans.as_deref();
        let path = path.or(folder.as_ref().map(tempfile::TempDir::path));
        let plans = PlanCache::new(path.expect("one of both")).with_limit(u64::MAX);
        let mut machine = Self {
            backends: Vec::new(),
            tensorrt,
            target: arguments.target,
            fixtures: fixtures(arguments)?,
            plans,
            f8_weights: match arguments.f8_weights.as_str() {
                "codes" => F8Weights::Codes,
                "widened" => F8Weights::Widened,
                _ => F8Weights::Auto,
            },
            is_rehearsal: arguments.rehearse,
            _folder: folder,
        };
        if let Some(unknown) = arguments
            .backend
            .iter()
            .find(|name| !NAMES.contains(&name.as_str()))
        {
            return Err(format!("no backend is called `{unknown}`: {}", NAMES.join(", ")).into());
        }
        let entries = [
            (NAMES[0], Ok(cpu())),
            (NAMES[1], machine.run_tensorrt(report)),
            (NAMES[2], run_cuda(arguments, report)),
        ];
        for (name, found) in entries {
            let is_wanted = arguments.backend.is_empty();
            if is_wanted || arguments.backend.iter().any(|wanted| wanted == name) {
                if let Err(reason) = &found {
                    report.machine(&format!("no backend {name}"), reason.as_str());
                }
                // Rows say no more than that; the rest has been said once.
                let short = |reason: String| {
                    let first = reason.split("; ").next().unwrap_or_default();
                    first.to_owned()
                };
                let found = found.map_err(short);
                machine.backends.push(Entry { name, found });
            }
        }
        Ok(machine)
    }

    /// Whether something runs on a GPU.
    pub(crate) fn has_gpu(&self) -> bool {
        let gpus = self.backends.iter().filter(|entry| entry.name != "cpu");
        gpus.into_iter().any(|entry| entry.found.is_ok())
    }

    /// How plans are built and where they are kept.
    pub(crate) fn build_options(&self) -> BuildOptions {
        BuildOptions::new(self.plans.clone()).with_f8_weights(self.f8_weights)
    }

    fn run_tensorrt(&self, report: &mut Report) -> std::result::Result<Found, String> {
        let open = |target: Option<Target>| {
            let mut options = TensorrtOptions::new(Arc::new(CpuEvaluator), self.build_options());
            if let Some(target) = target {
                options = options.with_target(target);
            }
            TensorrtBackend::new(options).map_err(|error| error.to_string())
        };
        let backend = open(self.target)?;
        report.machine("backend tensorrt", backend.description());
        // Plans for Ampere have no f8, which the GPU may have all the same.
        let (ampere, ada) = (Target::new(8, 0), Target::new(8, 9));
        let has_ada = backend.tensorrt().targets().contains(&ada);
        let backend: Arc<dyn Backend> = Arc::new(backend);
        let for_f8 = if self.target == Some(ampere) && has_ada {
            Arc::new(open(Some(ada))?)
        } else {
            Arc::clone(&backend)
        };
        Ok(Found { backend, for_f8 })
    }
}

/// Every backend that the program knows.
const NAMES: [&str; 3] = ["cpu", "tensorrt", "cuda"];

fn run_cuda(arguments: &Arguments, report: &mut Report) -> std::result::Result<Found, String> {
    let mut options = CudaOptions::new(Arc::new(CpuEvaluator));
    if arguments.branches {
        options = options.with_branches();
        report.machine("branches", "side by side");
    }
    let backend = CudaBackend::new(options).map_err(|error| error.to_string())?;
    report.machine("backend cuda", backend.description());
    let backend: Arc<dyn Backend> = Arc::new(backend);
    Ok(Found {
        for_f8: Arc::clone(&backend),
        backend,
    })
}

fn cpu() -> Found {
    let backend: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    Found {
        for_f8: Arc::clone(&backend),
        backend,
    }
}

/// The folder that was named, or the one in the repository if the program runs there.
fn fixtures(arguments: &Arguments) -> Result<Option<PathBuf>> {
    let usual = PathBuf::from("crates/conformance/fixtures");
    let has_cases = |folder: &PathBuf| folder.join("cases/cases.json").is_file();
    match &arguments.fixtures {
        Some(folder) if has_cases(folder) => Ok(Some(folder.clone())),
        Some(folder) => Err(format!("{}: no cases/cases.json there", folder.display()).into()),
        None => Ok(Some(usual).filter(has_cases)),
    }
}
