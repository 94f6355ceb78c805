//! The libraries and our own kernels as makers of steps.
//!
//! | step | first | then |
//! |---|---|---|
//! | product | cuBLASLt | own kernels |
//! | product of codes | cuBLASLt | cuBLASLt and own kernels, in parts; own kernels |
//! | attention, convolution | cuDNN | own kernels |
//! | kernel, special | own kernels | |
//!
//! A library that is missing refuses every step, so the first one says in the log what is missing.

use std::path::Path;
use std::sync::Arc;

use tintype_device::{Device, KernelCache, SavedFolders};

use super::Prepared;
use super::gpu::GpuOptions;
use super::makers::{Maker, Makers, Offer, describe};
use super::parts::{Parts, PreparedParts, ways};
use crate::kernels::{KernelLoader, Machine, own_kernels};
use crate::libraries::blas::{Blas, BlasOptions};
use crate::libraries::dnn::{Dnn, DnnOptions};
use crate::{Error, Generated, Product, Result, Step, Work};

type Ready = Offer<Box<dyn Prepared>>;

/// Products.
struct Products(std::result::Result<Blas, String>);

/// Products of codes that the library does not take whole.
struct ProductsInParts(Blas, Arc<KernelLoader>);

/// Attention and convolutions.
struct Networks(std::result::Result<Dnn, String>);

/// Everything, slower.
struct OwnKernels(Arc<KernelLoader>);

/// Everyone who makes steps ready on a device, the fastest first.
///
/// # Errors
/// [`Error::Device`] without NVRTC: nothing runs without generated kernels.
pub(super) fn makers(
    device: &Device,
    options: &GpuOptions,
    saved: &SavedFolders,
) -> Result<Makers<Box<dyn Prepared>>> {
    let folder = options.cache.as_deref();
    let mut makers: Vec<Box<dyn Maker<Box<dyn Prepared>>>> = Vec::new();
    let cache = kernel_cache(folder).with_saved(saved);
    let own = Arc::new(KernelLoader::new(device, cache)?);
    if options.libraries {
        let blas = blas(device, folder, saved);
        makers.push(Box::new(Products(blas.clone())));
        makers.push(Box::new(Networks(dnn(device, folder, saved))));
        if let Ok(blas) = blas {
            makers.push(Box::new(ProductsInParts(blas, Arc::clone(&own))));
        }
    }
    makers.push(Box::new(OwnKernels(own)));
    Ok(Makers::new(makers))
}

fn blas(
    device: &Device,
    folder: Option<&Path>,
    saved: &SavedFolders,
) -> std::result::Result<Blas, String> {
    let options = BlasOptions {
        choices: folder.map(|folder| folder.join("products.json")),
        saved: saved.clone(),
        ..BlasOptions::default()
    };
    Blas::with(device, options).map_err(|error| error.to_string())
}

fn dnn(
    device: &Device,
    folder: Option<&Path>,
    saved: &SavedFolders,
) -> std::result::Result<Dnn, String> {
    let mut options = DnnOptions {
        saved: saved.clone(),
        ..DnnOptions::default()
    };
    if let Some(folder) = folder {
        options.folder = Some(folder.join("engines"));
    }
    Dnn::with(device, options).map_err(|error| error.to_string())
}

/// Compiled kernels in a folder, or the user's.
pub(super) fn kernel_cache(folder: Option<&Path>) -> KernelCache {
    folder.map_or_else(KernelCache::of_user, |folder| {
        KernelCache::new(folder.join("kernels"))
    })
}

impl Maker<Box<dyn Prepared>> for Products {
    fn name(&self) -> &'static str {
        "cuBLASLt"
    }

    fn description(&self) -> Option<String> {
        Some(match &self.0 {
            Ok(blas) => format!("cuBLASLt {}", blas.version()),
            Err(reason) => format!("no cuBLASLt ({reason})"),
        })
    }

    fn judge(&self, step: &Step) -> Offer<()> {
        let Work::Product(call) = &step.work else {
            return Offer::NotMine;
        };
        match &self.0 {
            Ok(blas) => judgement(blas.judge(call)),
            Err(reason) => Offer::Refused(reason.clone()),
        }
    }

    fn offer(&self, step: &Step) -> Result<Ready> {
        let Work::Product(call) = &step.work else {
            return Ok(Offer::NotMine);
        };
        match &self.0 {
            Ok(blas) => offer(blas.product(name_of(step), call)),
            Err(reason) => Ok(Offer::Refused(reason.clone())),
        }
    }
}

impl ProductsInParts {
    /// The first of some ways of which all products are taken, or why none is.
    fn judged(&self, step: &Step) -> std::result::Result<Parts, String> {
        let mut reasons = Vec::new();
        for parts in ways(step) {
            let mut products = parts.steps.iter().filter_map(product);
            match products.try_for_each(|call| self.0.judge(call)) {
                Ok(()) => return Ok(parts),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; "))
    }

    fn prepare(&self, step: &Step) -> Result<Box<dyn Prepared>> {
        match product(step) {
            Some(call) => Ok(Box::new(self.0.product(name_of(step), call)?)),
            None => Ok(Box::new(self.1.prepare(step)?)),
        }
    }
}

impl Maker<Box<dyn Prepared>> for ProductsInParts {
    fn name(&self) -> &'static str {
        "cuBLASLt and own kernels"
    }

    fn judge(&self, step: &Step) -> Offer<()> {
        if ways(step).is_empty() {
            return Offer::NotMine;
        }
        judgement(self.judged(step).map(|_| ()))
    }

    fn offer(&self, step: &Step) -> Result<Ready> {
        let mut reasons = Vec::new();
        let ways = ways(step);
        for parts in &ways {
            let made = parts.steps.iter().map(|part| self.prepare(part));
            match made.collect::<Result<Vec<_>>>() {
                Ok(made) => return offer(Ok(PreparedParts::new(parts, made))),
                Err(Error::Unsupported { message, .. }) => reasons.push(message),
                Err(error) => return Err(error),
            }
        }
        if ways.is_empty() {
            return Ok(Offer::NotMine);
        }
        Ok(Offer::Refused(reasons.join("; ")))
    }
}

impl Maker<Box<dyn Prepared>> for Networks {
    fn name(&self) -> &'static str {
        "cuDNN"
    }

    fn description(&self) -> Option<String> {
        Some(match &self.0 {
            Ok(dnn) => format!("cuDNN {}", dnn.version()),
            Err(reason) => format!("no cuDNN ({reason})"),
        })
    }

    fn judge(&self, step: &Step) -> Offer<()> {
        match (&self.0, &step.work) {
            (Ok(dnn), Work::Attention(call)) => judgement(dnn.judge_attention(call)),
            (Ok(_), Work::Convolution(call)) => judgement(Dnn::judge_convolution(call)),
            (Err(reason), Work::Attention(_) | Work::Convolution(_)) => {
                Offer::Refused(reason.clone())
            }
            _ => Offer::NotMine,
        }
    }

    fn offer(&self, step: &Step) -> Result<Ready> {
        match (&self.0, &step.work) {
            (Ok(dnn), Work::Attention(call)) => {
                let made = dnn.attention(name_of(step), call);
                offer(made.inspect(|made| tell(step, made.path())))
            }
            (Ok(dnn), Work::Convolution(call)) => {
                let made = dnn.convolution(name_of(step), call);
                offer(made.inspect(|made| tell(step, made.path())))
            }
            (Err(reason), Work::Attention(_) | Work::Convolution(_)) => {
                Ok(Offer::Refused(reason.clone()))
            }
            _ => Ok(Offer::NotMine),
        }
    }
}

impl Maker<Box<dyn Prepared>> for OwnKernels {
    fn name(&self) -> &'static str {
        "own kernels"
    }

    fn judge(&self, _: &Step) -> Offer<()> {
        Offer::Ready(())
    }

    fn offer(&self, step: &Step) -> Result<Ready> {
        offer(self.0.prepare(step))
    }

    fn expect(&self, steps: &[Step]) -> Result<()> {
        let machine = Machine::from(self.0.device().info());
        let own = steps.iter().filter(|step| is_own(&step.work));
        let kernels = own.map(|step| own_kernels(step, &machine));
        let kernels: Vec<Vec<Generated>> = kernels.collect::<Result<_>>()?;
        self.0.expect(&kernels.concat())
    }
}

fn product(step: &Step) -> Option<&Product> {
    match &step.work {
        Work::Product(call) => Some(call),
        _ => None,
    }
}

/// What a library says of a form.
fn judgement(judged: std::result::Result<(), String>) -> Offer<()> {
    match judged {
        Ok(()) => Offer::Ready(()),
        Err(reason) => Offer::Refused(reason),
    }
}

/// Whether no library takes such work.
fn is_own(work: &Work) -> bool {
    matches!(work, Work::Kernel(_) | Work::Special { .. })
}

/// What a maker has made, or why it does not.
fn offer<P: Prepared + 'static>(made: Result<P>) -> Result<Ready> {
    match made {
        Ok(prepared) => Ok(Offer::Ready(Box::new(prepared))),
        Err(Error::Unsupported { message, .. }) => Ok(Offer::Refused(message)),
        Err(error) => Err(error),
    }
}

/// By which of its paths cuDNN runs a step.
fn tell(step: &Step, path: &str) {
    tracing::debug!("{}: {path} by cuDNN", describe(step));
}

/// What messages call a step: its module, as far as it has one.
fn name_of(step: &Step) -> &str {
    if step.label.is_empty() {
        &step.name
    } else {
        &step.label
    }
}
