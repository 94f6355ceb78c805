//! The flow-matching Euler scheduler: noise levels of a run, and the step between two.
//!
//! All of it is pure: a [`Schedule`] follows from a configuration and a request,
//! and a step is a function on slices. Values equal those of diffusers'
//! `FlowMatchEulerDiscreteScheduler` in the order and the precision of their
//! operations.
//!
//! ```
//! use tintype_flux::scheduler::{FlowMatchEulerConfig, Schedule, ScheduleRequest};
//!
//! let config = FlowMatchEulerConfig { shift: 3.0, use_dynamic_shifting: true, ..Default::default() };
//! let request = ScheduleRequest::with_steps(4, 4096);
//! let schedule = Schedule::new(&config, &request)?;
//! let rounded: Vec<_> = schedule.sigmas.iter().map(|sigma| format!("{sigma:.4}")).collect();
//! assert_eq!(rounded, ["1.0000", "0.9045", "0.7595", "0.5128", "0.0000"]);
//! # Ok::<(), tintype_flux::Error>(())
//! ```

mod beta;
mod config;
mod schedule;
mod step;

pub use config::{FlowMatchEulerConfig, TimeShift};
pub(crate) use schedule::MAX_STEPS;
pub use schedule::{Schedule, ScheduleRequest};
pub use step::{euler_step, scale_noise, stochastic_step};
