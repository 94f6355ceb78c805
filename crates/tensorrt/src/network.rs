//! A network under construction: inputs, named constants, layers, outputs.
//!
//! A [`Network`] belongs to the [`Builder`] that made it. It is strongly typed: the library takes
//! the dtypes of operands as they are and infers those of results. Constants are named, all of
//! them: *placeholders*, whose values come by refit, and *literals*, whose bytes are given here.
//! The network keeps what its constants point to, so that it lives until after the build.
//!
//! It knows nothing of graphs: [`lower`](crate::lower) does, and calls this.
//!
//! ```no_run
//! use tintype_tensor::{DType, Tensor};
//! use tintype_tensorrt::network::ElementWise;
//! use tintype_tensorrt::Tensorrt;
//!
//! let tensorrt = Tensorrt::load(&Default::default())?;
//! let builder = tensorrt.builder()?;
//! let network = builder.network()?;
//! let x = network.input("x", DType::F32, &[-1, 64])?;
//! let bias = network.placeholder("bias", DType::F32, &[1, 64])?;
//! let y = network.elementwise(ElementWise::Sum, x, bias)?;
//! network.mark_output("y", y)?;
//! # Ok::<(), tintype_tensorrt::Error>(())
//! ```

mod constants;
mod kinds;
mod layers;
mod movement;

use std::cell::RefCell;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::marker::PhantomData;

use tintype_tensor::DType;
use tintype_tensorrt_sys as sys;
use tintype_tensorrt_sys::{Dims, ILayer, INetworkDefinition, ITensor, Interface};

use crate::calls::{Calls, Owned, name};
use crate::dtype::{from_library, to_library};
use crate::{Builder, Error, Result};

use constants::Kept;
pub use kinds::{Activation, ElementWise, Reduction, Unary};
pub use layers::{AttentionOptions, ConvolutionOptions, NormalizationOptions};

/// A network under construction.
pub struct Network<'b> {
    builder: &'b Builder,
    // Before `kept`: fields are dropped in this order, and constants point to what is kept.
    object: Owned<INetworkDefinition>,
    kept: RefCell<Kept>,
}

/// A tensor of a network.
#[derive(Clone, Copy)]
pub struct Value<'n> {
    tensor: ITensor,
    /// The address of the network's object, by which a foreign tensor is known.
    owner: *mut c_void,
    network: PhantomData<&'n Network<'n>>,
}

impl<'b> Network<'b> {
    pub(crate) fn new(builder: &'b Builder, object: Owned<INetworkDefinition>) -> Self {
        Self {
            builder,
            object,
            kept: RefCell::default(),
        }
    }

    /// The library's object.
    pub(crate) fn raw(&self) -> INetworkDefinition {
        self.object.raw()
    }

    /// The builder that made it.
    pub(crate) fn builder(&self) -> &'b Builder {
        self.builder
    }

    fn calls(&self) -> &Calls {
        self.builder.calls()
    }

    /// An input; -1 stands for a size that is known at run time.
    ///
    /// # Errors
    /// A name that is taken, a dtype that the library does not have, more than eight dimensions.
    pub fn input(&self, input: &str, dtype: DType, sizes: &[i64]) -> Result<Value<'_>> {
        let (text, dtype, dims) = (name(input)?, to_library(dtype)?, Dims::new(sizes)?);
        let tensor = self
            .calls()
            .object(format_args!("adding input `{input}`"), || {
                // SAFETY: the network is alive, and the text outlives the call.
                unsafe { self.raw().add_input(text.as_ptr(), dtype, &dims) }
            })?;
        Ok(self.value(tensor))
    }

    /// Makes a tensor an output under a name. Name and tensor are used for nothing else.
    ///
    /// # Errors
    /// What the library says.
    pub fn mark_output(&self, output: &str, value: Value<'_>) -> Result<()> {
        let (text, tensor) = (name(output)?, self.tensor(value)?);
        self.calls()
            .checked(format_args!("marking output `{output}`"), || {
                // SAFETY: network and tensor are alive, and the text outlives the calls.
                unsafe {
                    tensor.set_name(text.as_ptr())?;
                    self.raw().mark_output(tensor)
                }
            })
    }

    /// The number of layers so far.
    ///
    /// # Errors
    /// What the library says.
    pub fn layer_count(&self) -> Result<usize> {
        // SAFETY: the network is alive.
        let count = self
            .calls()
            .run("counting layers", || unsafe { self.raw().get_nb_layers() })?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// Sizes of a tensor as far as the library knows them; -1 for others.
    ///
    /// # Errors
    /// What the library says, for instance of operands that do not fit.
    pub fn sizes(&self, value: Value<'_>) -> Result<Vec<i64>> {
        let tensor = self.tensor(value)?;
        let dims = self.calls().checked("asking for dimensions", || {
            // SAFETY: the tensor is alive.
            unsafe { tensor.get_dimensions() }
        })?;
        if dims.is_invalid() {
            return Err(Error::Mismatch {
                name: "a tensor's dimensions".to_owned(),
                expected: "operands that fit".to_owned(),
                found: "no dimensions".to_owned(),
            });
        }
        Ok(dims.as_slice().to_vec())
    }

    /// The dtype of a tensor.
    ///
    /// # Errors
    /// A dtype that only the library has.
    pub fn dtype(&self, value: Value<'_>) -> Result<DType> {
        let tensor = self.tensor(value)?;
        // SAFETY: the tensor is alive.
        let dtype = self
            .calls()
            .run("asking for a dtype", || unsafe { tensor.get_type() })?;
        from_library(dtype)
    }

    /// Names the layer that was added last, for logs and the inspector.
    ///
    /// # Errors
    /// What the library says.
    pub fn name_last_layer(&self, layer: &str) -> Result<()> {
        let text = name(layer)?;
        self.calls().run("naming a layer", || {
            // SAFETY: the network is alive, and the text outlives the call.
            unsafe {
                let last = self.raw().get_nb_layers()? - 1;
                match self.raw().get_layer(last)? {
                    Some(layer) => layer.set_name(text.as_ptr()),
                    None => Ok(()),
                }
            }
        })
    }

    fn value(&self, tensor: ITensor) -> Value<'_> {
        Value {
            tensor,
            owner: self.raw().as_ptr(),
            network: PhantomData,
        }
    }

    /// The tensor behind a value of this network.
    fn tensor(&self, value: Value<'_>) -> Result<ITensor> {
        if value.owner == self.raw().as_ptr() {
            return Ok(value.tensor);
        }
        Err(Error::Foreign {
            action: "building a network".to_owned(),
            what: "a tensor".to_owned(),
            owner: "network",
        })
    }

    /// Adds a layer and gives its only output.
    fn layer<L: Into<ILayer>>(
        &self,
        what: &str,
        add: impl FnOnce(INetworkDefinition) -> std::result::Result<Option<L>, sys::Error>,
    ) -> Result<Value<'_>> {
        let layer = self
            .calls()
            .object(format_args!("adding {what}"), || add(self.raw()))?;
        self.output(what, layer.into())
    }

    /// The first output of a layer.
    fn output(&self, what: &str, layer: ILayer) -> Result<Value<'_>> {
        let tensor =
            self.calls()
                .object(format_args!("asking for the output of {what}"), || {
                    // SAFETY: the layer belongs to this network, which is alive.
                    unsafe { layer.get_output(0) }
                })?;
        Ok(self.value(tensor))
    }
}

impl fmt::Debug for Network<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the value borrows its network, so both tensor and name are alive.
        let name = unsafe {
            self.tensor
                .get_name()
                .ok()
                .filter(|name| !name.is_null())
                .map(|name| CStr::from_ptr(name))
        };
        write!(f, "Value({name:?})")
    }
}
