//! The runtime: plans become engines.

use std::io::{Read, Seek};
use std::sync::Arc;

use tintype_device::Device;
use tintype_tensorrt_sys::callback::Implementation;
use tintype_tensorrt_sys::{EngineInvalidityDiagnostics, EngineValidity, ICudaEngine, IRuntime};

use super::Engine;
use super::plan_reader::PlanReader;
use crate::calls::{Calls, Owned};
use crate::{Error, Result, Tensorrt};

/// Makes engines of plans, on one device. A cheap handle, for any thread.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// First, so that it is destroyed first.
    object: Owned<IRuntime>,
    calls: Arc<Calls>,
    device: Device,
    tensorrt: Tensorrt,
}

// SAFETY: a runtime belongs to no thread, and all calls of it go through `calls`, one at a time.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// What a plan's header says of this library and GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Validity {
    /// It will very likely run.
    Valid,
    /// It will run, but was built for another GPU and may be slow.
    Suboptimal,
    /// It will not run.
    Invalid {
        /// Why not.
        reasons: Vec<&'static str>,
    },
}

impl Runtime {
    pub(crate) fn new(tensorrt: &Tensorrt, device: &Device) -> Result<Self> {
        device.bind()?;
        let calls = Calls::new(tensorrt.abi());
        let object = tensorrt.create_runtime(&calls)?;
        // SAFETY: the runtime is alive, and the recorder outlives it: fields are dropped in
        // their order.
        calls.run("setting the runtime's error recorder", || unsafe {
            object.set_error_recorder(calls.recorder())
        })?;
        Ok(Self(Arc::new(Shared {
            object,
            calls,
            device: device.clone(),
            tensorrt: tensorrt.clone(),
        })))
    }

    /// The library.
    pub fn tensorrt(&self) -> &Tensorrt {
        &self.0.tensorrt
    }

    /// The device that engines are loaded to.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The engine of a plan in memory. Plans are kernels, which run: load those that you built.
    ///
    /// # Errors
    /// [`Error::Call`] for what is no plan, a plan of another version, for another GPU, or too
    /// large for it.
    pub fn engine(&self, plan: &[u8]) -> Result<Engine> {
        self.deserialize(|| {
            // SAFETY: the runtime is alive, and the bytes are until the call returns.
            unsafe {
                self.0
                    .object
                    .deserialize_cuda_engine(plan.as_ptr().cast(), plan.len())
            }
        })
    }

    /// The same of a plan that is read as it is needed, and never lies in memory as a whole.
    /// It begins where the reader is.
    ///
    /// # Errors
    /// Also [`Error::Read`] for what the reader says.
    pub fn engine_from(&self, plan: impl Read + Seek + Send) -> Result<Engine> {
        let failed = |source| Error::Read {
            action: "reading a plan".to_owned(),
            source,
        };
        let reader = PlanReader::new(plan).map_err(failed)?;
        let reader = Implementation::stream_reader(reader);
        let engine = self.deserialize(|| {
            // SAFETY: runtime and reader live until the call returns, and the library does not
            // read later, since weights are not streamed.
            unsafe { self.0.object.deserialize_cuda_engine_v2(reader.as_ptr()) }
        });
        match reader.into_inner().failure() {
            Some(source) => Err(failed(source)),
            None => engine,
        }
    }

    /// How many bytes of a plan [`Runtime::validity`] needs.
    ///
    /// # Errors
    /// [`Error::Library`] with TensorRT, which cannot tell.
    pub fn header_len(&self) -> Result<usize> {
        let len = self
            .0
            .calls
            .run("asking for the length of a plan's header", || {
                // SAFETY: the runtime is alive.
                unsafe { self.0.object.get_engine_header_size() }
            })?;
        Ok(usize::try_from(len).unwrap_or_default())
    }

    /// Whether a plan that begins with `header` will run. Its body is not looked at.
    ///
    /// # Errors
    /// [`Error::Setting`] for fewer bytes than [`Runtime::header_len`]; [`Error::Library`] with
    /// TensorRT, which cannot tell.
    pub fn validity(&self, header: &[u8]) -> Result<Validity> {
        let expected = self.header_len()?;
        if header.len() < expected {
            return Err(Error::Setting {
                what: "header of a plan".to_owned(),
                expected: format!("{expected} bytes"),
                found: format!("{} bytes", header.len()),
            });
        }
        self.0.device.bind()?;
        let (mut diagnostics, len) = (0_u64, header.len() as i64);
        let validity = self.0.calls.run("checking a plan's header", || {
            // SAFETY: the runtime is alive, and what is pointed to until the call returns.
            unsafe {
                let diagnostics = &raw mut diagnostics;
                self.0
                    .object
                    .get_engine_validity(header.as_ptr().cast(), len, diagnostics)
            }
        })?;
        Ok(match validity {
            EngineValidity::VALID => Validity::Valid,
            EngineValidity::SUBOPTIMAL => Validity::Suboptimal,
            _ => Validity::Invalid {
                reasons: reasons(diagnostics),
            },
        })
    }

    fn deserialize<E: Into<Error>>(
        &self,
        call: impl FnOnce() -> std::result::Result<Option<ICudaEngine>, E>,
    ) -> Result<Engine> {
        self.0.device.bind()?;
        let object = self.0.calls.object("loading a plan", call)?;
        // SAFETY: the caller owns an engine; `Engine` keeps the runtime until after it.
        Engine::new(self, unsafe { Owned::new(object) })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What is destroyed after this belongs to the device's context.
        if let Err(error) = self.device.bind() {
            tracing::warn!("{error}");
        }
    }
}

/// What the bits mean.
fn reasons(diagnostics: u64) -> Vec<&'static str> {
    type Bits = EngineInvalidityDiagnostics;
    let all = [
        (
            Bits::VERSION_MISMATCH,
            "it is of another version of the library",
        ),
        (Bits::UNSUPPORTED_CC, "it is for another GPU architecture"),
        (Bits::OLD_CUDA_DRIVER, "the CUDA driver is too old"),
        (Bits::OLD_CUDA_RUNTIME, "the CUDA runtime is too old"),
        (
            Bits::INSUFFICIENT_GPU_MEMORY,
            "the GPU's memory does not suffice",
        ),
        (Bits::MALFORMED_ENGINE, "it is damaged"),
        (Bits::CUDA_ERROR, "the GPU reports an error"),
    ];
    let set = all.into_iter().filter(|(bit, _)| diagnostics & bit.0 != 0);
    set.map(|(_, reason)| reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_reasons() {
        assert_eq!(reasons(0), [""; 0]);
        let both = reasons(2 | 32);
        assert_eq!(
            both,
            ["it is for another GPU architecture", "it is damaged"]
        );
    }

    #[test]
    fn handles_go_to_any_thread() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<Tensorrt>();
        shared::<Runtime>();
        shared::<Engine>();
        shared::<super::super::RuntimeCache>();
        sent::<super::super::Context>();
        sent::<super::super::Refitter>();
        sent::<super::super::Inspector>();
    }
}
