//! The runtime.

use std::sync::Arc;

use tintype_tensorrt_sys::IRuntime;

use crate::calls::{Calls, Owned};
use crate::{Result, Tensorrt};

/// Makes engines of plans.
#[derive(Debug)]
pub struct Runtime {
    object: Owned<IRuntime>,
    calls: Arc<Calls>,
    tensorrt: Tensorrt,
}

impl Runtime {
    pub(crate) fn new(tensorrt: &Tensorrt) -> Result<Self> {
        let calls = Calls::new(tensorrt.abi());
        let object = tensorrt.create_runtime(&calls)?;
        Ok(Self {
            object,
            calls,
            tensorrt: tensorrt.clone(),
        })
    }
}
