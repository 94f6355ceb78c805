//! Weight programs on the device.
//!
//! [`WeightPlan`] decides, without a device, in which order operations run and which of them
//! have a kernel; [`WeightRunner`] runs them. An output is computed and handed over before the
//! next is begun, so that a model streams from its file to the device: nothing on the host holds
//! more than a few pinned buffers, and temporary values live as long as their last reader.
//!
//! A program's parameters may wait on the device for its next run: [`KeptParameters`].
//!
//! What has no kernel is computed by an [`Evaluator`](tintype_ir::Evaluator) on the host and
//! uploaded. The results are those of the evaluator, up to the order of sums.

mod forecast;
mod kept;
mod launch;
mod pinned;
mod place;
mod plan;
mod plans;
mod reading;
mod registry;
mod runner;
mod values;

pub use self::forecast::{forecast_kept, forecast_weights};
pub use self::kept::{
    AUTO_RESERVE, DEVICE_RESERVE, Keeping, KeptKey, KeptParameters, KeptPlace, KeptTensor,
    KeptUsage, OVERLAY_BYTES, Sharing, Wish, WriteOver,
};
pub use self::pinned::PinnedTensor;
pub use self::plan::WeightPlan;
pub use self::registry::KeptRegistry;
pub use self::runner::{Delivered, InPlace, WeightProgram, WeightReport, WeightRunner};
