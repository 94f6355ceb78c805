//! The configuration of a flow-matching Euler scheduler, as repositories write it.
//!
//! Reads `scheduler_config.json`; computes nothing.
//!
//! ```
//! use std::path::Path;
//! use tintype_flux::scheduler::FlowMatchEulerConfig;
//!
//! let text = br#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#;
//! let config = FlowMatchEulerConfig::parse(text, Path::new("scheduler_config.json"))?;
//! assert_eq!(config.shift, 3.0);
//! assert_eq!(config.num_train_timesteps, 1000);
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};
use tintype_weights::ModelFiles;

use crate::files::{self, CONFIG_LIMIT};
use crate::{Error, Result};

/// Every field of `scheduler_config.json` that changes a schedule, with diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the fields are those of the file"
)]
pub struct FlowMatchEulerConfig {
    /// The number of noise levels that the model was trained on; a timestep is
    /// a sigma times this.
    pub num_train_timesteps: u32,
    /// The shift of a static schedule; 1 changes nothing.
    pub shift: f64,
    /// Whether the shift follows the number of image tokens.
    pub use_dynamic_shifting: bool,
    /// The dynamic shift at `base_image_seq_len` tokens.
    #[serde(deserialize_with = "or_base_shift")]
    pub base_shift: f64,
    /// The dynamic shift at `max_image_seq_len` tokens.
    #[serde(deserialize_with = "or_max_shift")]
    pub max_shift: f64,
    /// The number of image tokens that `base_shift` belongs to.
    pub base_image_seq_len: u32,
    /// The number of image tokens that `max_shift` belongs to.
    pub max_image_seq_len: u32,
    /// Whether sigmas rise from 0 to 1 rather than fall.
    pub invert_sigmas: bool,
    /// The last sigma before the final zero, if the schedule is to be stretched.
    pub shift_terminal: Option<f64>,
    /// Whether sigmas are spaced as Karras et al. do.
    pub use_karras_sigmas: bool,
    /// Whether sigmas are spaced evenly in their logarithm.
    pub use_exponential_sigmas: bool,
    /// Whether sigmas are spaced by the quantiles of Beta(0.6, 0.6).
    pub use_beta_sigmas: bool,
    /// The formula of the dynamic shift.
    pub time_shift_type: TimeShift,
    /// Whether a step adds fresh noise to the predicted picture.
    pub stochastic_sampling: bool,
    /// Whether the scheduler's own spacing replaces the pipeline's. Not an
    /// argument of diffusers' scheduler, but honoured by its pipelines.
    pub use_flow_sigmas: bool,
    /// The smallest sigma of the Karras, exponential and beta spacings, if it
    /// is not to be the schedule's own.
    pub sigma_min: Option<f64>,
    /// The largest sigma of these spacings, if it is not to be the schedule's own.
    pub sigma_max: Option<f64>,
}

/// The formula by which a schedule is shifted with the number of image tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeShift {
    /// `e^mu / (e^mu + (1/sigma − 1))`.
    #[default]
    Exponential,
    /// `mu / (mu + (1/sigma − 1))`.
    Linear,
}

impl Default for FlowMatchEulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: BASE_SHIFT,
            max_shift: MAX_SHIFT,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            invert_sigmas: false,
            shift_terminal: None,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            time_shift_type: TimeShift::Exponential,
            stochastic_sampling: false,
            use_flow_sigmas: false,
            sigma_min: None,
            sigma_max: None,
        }
    }
}

impl FlowMatchEulerConfig {
    /// Reads `scheduler_config.json` in `folder`.
    ///
    /// # Errors
    /// Those of [`Self::parse`], and [`Error::Missing`] or [`Error::Read`].
    pub fn from_files(folder: &ModelFiles) -> Result<Self> {
        let bytes = files::read(folder, FILE, CONFIG_LIMIT)?;
        Self::parse(&bytes, &folder.path(FILE))
    }

    /// Reads the bytes of a `scheduler_config.json`; `path` is for messages only.
    ///
    /// A field that is not known is ignored with a warning.
    ///
    /// # Errors
    /// [`Error::Json`] for text of another kind, [`Error::UnknownClass`] for
    /// another scheduler, [`Error::Invalid`] for a value that no schedule can have.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let fields = files::json_object(bytes, path)?;
        check_class(&fields, path)?;
        for name in fields.keys().filter(|name| !is_known(name)) {
            tracing::warn!(file = %path.display(), field = name.as_str(), "unknown scheduler field ignored");
        }
        let config: Self = serde_json::from_value(fields.into()).map_err(|source| Error::Json {
            path: path.to_owned(),
            source,
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let spacings = [
            self.use_karras_sigmas,
            self.use_exponential_sigmas,
            self.use_beta_sigmas,
        ];
        if spacings.into_iter().filter(|&chosen| chosen).count() > 1 {
            return Err(Error::invalid(
                path,
                "use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas",
                "at most one to be true",
                "several",
            ));
        }
        if self.num_train_timesteps == 0 {
            return Err(Error::invalid(path, "num_train_timesteps", "at least 1", 0));
        }
        if self.shift <= 0.0 {
            return Err(Error::invalid(path, "shift", "more than 0", self.shift));
        }
        if let Some(terminal) = self
            .shift_terminal
            .filter(|terminal| !(0.0..1.0).contains(terminal))
        {
            return Err(Error::invalid(
                path,
                "shift_terminal",
                "0 to below 1",
                terminal,
            ));
        }
        if self.use_dynamic_shifting && self.base_image_seq_len == self.max_image_seq_len {
            return Err(Error::invalid(
                path,
                "max_image_seq_len",
                "another value than base_image_seq_len",
                self.max_image_seq_len,
            ));
        }
        Ok(())
    }
}

fn check_class(fields: &serde_json::Map<String, serde_json::Value>, path: &Path) -> Result<()> {
    // A configuration that names no class was written by hand; diffusers takes it too.
    let Some(class) = fields.get("_class_name") else {
        return Ok(());
    };
    if class.as_str() == Some(CLASS) {
        return Ok(());
    }
    Err(Error::UnknownClass {
        path: path.to_owned(),
        component: "_class_name".into(),
        expected: CLASS.into(),
        found: class
            .as_str()
            .map_or_else(|| class.to_string(), str::to_owned),
    })
}

fn is_known(name: &str) -> bool {
    name.starts_with('_') || KNOWN_FIELDS.contains(&name)
}

/// diffusers lets `base_shift` be null and then uses its default.
fn or_base_shift<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(BASE_SHIFT))
}

fn or_max_shift<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(MAX_SHIFT))
}

/// The class that this module reads.
const FILE: &str = "scheduler_config.json";
const CLASS: &str = "FlowMatchEulerDiscreteScheduler";
const BASE_SHIFT: f64 = 0.5;
const MAX_SHIFT: f64 = 1.15;
const KNOWN_FIELDS: [&str; 17] = [
    "num_train_timesteps",
    "shift",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "invert_sigmas",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "time_shift_type",
    "stochastic_sampling",
    "use_flow_sigmas",
    "sigma_min",
    "sigma_max",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<FlowMatchEulerConfig> {
        FlowMatchEulerConfig::parse(text.as_bytes(), Path::new("scheduler_config.json"))
    }

    #[test]
    fn every_known_field_is_a_field() {
        let value = serde_json::to_value(FlowMatchEulerConfig::default()).unwrap();
        let mut fields: Vec<_> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut known = KNOWN_FIELDS.to_vec();
        fields.sort_unstable();
        known.sort_unstable();
        assert_eq!(fields, known);
    }

    #[test]
    fn another_class_is_refused_by_name() {
        let message = parse(r#"{"_class_name": "DDIMScheduler"}"#)
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "scheduler_config.json: _class_name: expected class \
             FlowMatchEulerDiscreteScheduler, found DDIMScheduler"
        );
        assert!(parse(r#"{"_class_name": 3}"#).is_err());
    }

    #[test]
    fn null_and_unknown_fields_are_taken() {
        let config = parse(r#"{"base_shift": null, "shift_terminal": null, "new": [1]}"#).unwrap();
        assert_eq!(config, FlowMatchEulerConfig::default());
    }

    #[test]
    fn impossible_values_are_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"shift": "3"}"#,
            r#"{"shift": 0}"#,
            r#"{"num_train_timesteps": 0}"#,
            r#"{"num_train_timesteps": -1}"#,
            r#"{"shift_terminal": 1.0}"#,
            r#"{"time_shift_type": "cubic"}"#,
            r#"{"use_karras_sigmas": true, "use_beta_sigmas": true}"#,
            r#"{"use_dynamic_shifting": true, "base_image_seq_len": 4096}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
