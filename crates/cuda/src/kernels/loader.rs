//! Kernels compiled for one device, loaded once each, and launched.
//!
//! The blocks of a model have the same kernels on other memory: sources that are equal share one
//! loaded module. Compiled code is kept on disk by [`KernelCache`].
//!
//! ```ignore
//! let loader = KernelLoader::new(&device, KernelCache::of_user())?;
//! let kernel = loader.load("norm_modulate", vec![generate(&expression, "norm_modulate")?])?;
//! unsafe { kernel.enqueue(&stream, &addresses) }?;
//! ```

use std::path::Path;

use tintype_device::{
    Argument, CacheKey, Device, Grid, Kernel, KernelCache, Module, Nvrtc, Stream, Target,
};

use crate::run::kernels::{Compiler, Kernels};
use crate::run::{Addresses, Prepared};
use crate::{Error, Generated, KernelArgument, Result};

/// What compiles and loads kernels for one device.
pub(crate) struct KernelLoader {
    device: Device,
    kernels: Kernels<GpuCompiler>,
}

/// Compiles one kernel and loads it.
struct GpuCompiler {
    device: Device,
    nvrtc: Nvrtc,
    target: Target,
    cache: KernelCache,
}

/// Kernels that run one after another, ready to enqueue.
#[derive(Debug)]
pub(crate) struct LoadedKernel {
    step: String,
    launches: Vec<Launch>,
    scratch_bytes: usize,
    cache: KernelCache,
}

#[derive(Debug)]
struct Launch {
    kernel: Kernel,
    grid: Grid,
    arguments: Vec<KernelArgument>,
    code: CacheKey,
}

impl KernelLoader {
    /// A loader for the device.
    ///
    /// # Errors
    /// [`Error::Device`] without an NVRTC that has code for this device.
    pub(crate) fn new(device: &Device, cache: KernelCache) -> Result<Self> {
        let nvrtc = Nvrtc::load(Some(device.driver().version()))?;
        Ok(Self {
            device: device.clone(),
            kernels: Kernels::new(GpuCompiler {
                device: device.clone(),
                target: nvrtc.target_for(device.info().compute_capability)?,
                nvrtc,
                cache,
            }),
        })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Loads the kernels of a step, which run in this order.
    ///
    /// # Errors
    /// [`Error::Kernel`] for a text that does not compile and for code that cannot be loaded,
    /// [`Error::Unsupported`] for more blocks or threads than a launch takes.
    pub(crate) fn load(&self, step: &str, kernels: Vec<Generated>) -> Result<LoadedKernel> {
        let scratch_bytes = scratch_bytes(&kernels);
        let compiler = self.kernels.compiler();
        let launches = kernels.into_iter().map(|kernel| {
            let grid = grid_of(&kernel)?;
            Ok(Launch {
                kernel: self.kernels.get(&kernel)?,
                code: compiler.key(&kernel),
                grid,
                arguments: kernel.arguments,
            })
        });
        Ok(LoadedKernel {
            step: step.to_owned(),
            launches: launches.collect::<Result<_>>()?,
            scratch_bytes,
            cache: compiler.cache.clone(),
        })
    }

    /// Compiles kernels side by side that steps will want.
    pub(crate) fn expect(&self, kernels: &[Generated]) -> Result<()> {
        self.kernels.load(&kernels.iter().collect::<Vec<_>>())
    }
}

impl GpuCompiler {
    fn key(&self, generated: &Generated) -> CacheKey {
        KernelCache::key(&generated.source, self.target, self.nvrtc.version())
    }
}

impl Compiler for GpuCompiler {
    type Kernel = Kernel;

    fn compile(&self, generated: &Generated) -> Result<Kernel> {
        let name = &generated.name;
        let load = || {
            let source = &generated.source;
            let code = self.cache.compile(&self.nvrtc, source, self.target)?;
            let kernel = Module::load(&self.device, name, &code)?.kernel(name)?;
            if generated.shared_bytes > SHARED_BYTES_OF_ALL {
                kernel.allow_shared_bytes(generated.shared_bytes as u32)?;
            }
            Ok(kernel)
        };
        load().map_err(|source| Error::kernel(name, name, source))
    }
}

impl Prepared for LoadedKernel {
    fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    unsafe fn enqueue(&self, stream: &Stream, addresses: &Addresses<'_>) -> Result<()> {
        for launch in &self.launches {
            let arguments: Vec<Argument<'_>> = launch
                .arguments
                .iter()
                .map(|argument| value_of(argument, addresses))
                .collect();
            // SAFETY: the arguments are those that the kernel's text declares, and what lies at
            // the addresses is promised by the caller.
            let launched = unsafe { launch.kernel.launch(stream, launch.grid, &arguments) };
            launched.map_err(|source| Error::kernel(&self.step, launch.kernel.name(), source))?;
        }
        Ok(())
    }

    fn save(&self, folder: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for launch in &self.launches {
            names.extend(self.cache.save(&launch.code, folder)?);
        }
        Ok(names)
    }
}

fn value_of(argument: &KernelArgument, addresses: &Addresses<'_>) -> Argument<'static> {
    match *argument {
        KernelArgument::Address { place, bytes } => {
            Argument::U64((addresses.of)(place) + bytes as u64)
        }
        KernelArgument::Scale(scale) => Argument::F32(scale),
        KernelArgument::Scratch { bytes } => Argument::U64(addresses.scratch + bytes as u64),
    }
}

fn grid_of(kernel: &Generated) -> Result<Grid> {
    let fits = kernel.blocks <= MOST_BLOCKS && kernel.threads <= MOST_THREADS;
    if !fits {
        let message = format!("{} blocks of {} threads", kernel.blocks, kernel.threads);
        return Err(Error::unsupported(&kernel.name, message));
    }
    Ok(Grid {
        shared_bytes: kernel.shared_bytes as u32,
        ..Grid::line(kernel.blocks as u32, kernel.threads as u32)
    })
}

/// The scratch memory that kernels share: up to the end of the part that reaches farthest. Parts
/// have their sizes from whoever wrote the kernels, as [`Generated::scratch_bytes`].
fn scratch_bytes(kernels: &[Generated]) -> usize {
    let all = kernels.iter().map(|kernel| kernel.scratch_bytes);
    all.max().unwrap_or(0)
}

/// What a launch takes along the first axis.
const MOST_BLOCKS: usize = (1 << 31) - 1;
const MOST_THREADS: usize = 1024;

/// What a block can have without asking.
const SHARED_BYTES_OF_ALL: usize = 48 * 1024;

#[cfg(test)]
mod tests {
    use tintype_device::Source;

    use super::*;
    use crate::Place;

    fn kernel(blocks: usize, threads: usize) -> Generated {
        Generated {
            source: Source::new("a.cu", ""),
            name: "a".to_owned(),
            blocks,
            threads,
            shared_bytes: 1024,
            scratch_bytes: 512,
            arguments: Vec::new(),
        }
    }

    #[test]
    fn grids_that_no_launch_takes_are_errors() {
        let grid = grid_of(&kernel(7, 256)).unwrap();
        assert_eq!(
            (grid.blocks, grid.threads, grid.shared_bytes),
            ([7, 1, 1], [256, 1, 1], 1024)
        );
        assert!(grid_of(&kernel(1 << 31, 256)).is_err());
        assert!(grid_of(&kernel(1, 2048)).is_err());
    }

    #[test]
    fn arguments_are_addresses_in_places_and_in_scratch_memory() {
        let of = |place| match place {
            Place::Buffer(2) => 4096,
            _ => 0,
        };
        let addresses = Addresses {
            of: &of,
            scratch: 1 << 20,
        };
        let address = KernelArgument::Address {
            place: Place::Buffer(2),
            bytes: 64,
        };
        assert_eq!(value_of(&address, &addresses), Argument::U64(4160));
        let scratch = KernelArgument::Scratch { bytes: 256 };
        assert_eq!(
            value_of(&scratch, &addresses),
            Argument::U64((1 << 20) + 256)
        );
        assert_eq!(
            value_of(&KernelArgument::Scale(0.5), &addresses),
            Argument::F32(0.5)
        );
        assert_eq!(scratch_bytes(&[kernel(1, 1), kernel(2, 2)]), 512);
    }
}
