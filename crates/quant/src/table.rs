//! The file that keeps scales: plain JSON with the model it is for, and a checksum.
//!
//! ```text
//! {
//!   "format": "tintype-scales", "version": 1,
//!   "model": {"weights": "91c0…", "graph": "5e2b…"},
//!   "recipe": {…},
//!   "calibration": {"method": "max", "examples": 32, "steps": 20},
//!   "scales": {"transformer_blocks.0.attn.to_q.input": {"amax": 11.5, "scale": 0.02567}},
//!   "checksum": "0f34…"
//! }
//! ```
//!
//! The checksum is blake3 over the rest as JSON without spaces, in this order of fields.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tintype_ir::Graph;
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use crate::scales::check_scale;
use crate::{Calibrated, Calibration, Error, Method, Recipe, Result, Scales};

/// Scales of one model, as a file keeps them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleTable {
    format: String,
    version: u32,
    /// What the scales are for.
    pub model: ModelIdentity,
    /// Which layers they are for.
    pub recipe: Recipe,
    /// How they were measured.
    pub calibration: Source,
    /// What was measured, by name.
    pub scales: BTreeMap<String, Calibrated>,
}

/// How scales were measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// How a scale follows from what was seen.
    pub method: Method,
    /// How many examples were seen.
    pub examples: usize,
    /// The most steps that an example had.
    pub steps: usize,
}

/// Which model: what it computes, and with which weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// A hash of values of each parameter, the same for every layout of the files and for
    /// weights that are stored in f32 or rounded to bf16.
    pub weights: String,
    /// The hash of the graph, made for sizes that its maker fixes.
    pub graph: String,
}

impl ModelIdentity {
    /// The identity of a model with this graph and these parameters, some values of each of
    /// which are read.
    pub fn of(graph: &Graph, parameters: &Parameters) -> Result<Self> {
        let mut names: Vec<&str> = graph.parameters().iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        for name in names {
            let tensor = parameters.get(name)?;
            hasher.update(format!("{name} {};", tensor.shape()).as_bytes());
            for value in samples(&tensor)? {
                hasher.update(&DType::BF16.round(value).to_bits().to_le_bytes());
            }
        }
        Ok(Self {
            weights: hasher.finalize().to_hex().to_string(),
            graph: graph.hash().to_string(),
        })
    }
}

/// Some values, evenly spread.
fn samples(tensor: &Tensor) -> Result<Vec<f32>> {
    let count = tensor.element_count();
    let wanted = count.min(SAMPLES);
    let mut values = vec![0.0; wanted];
    for (index, value) in values.iter_mut().enumerate() {
        let place = index * count / wanted;
        tensor.read_f32(place, std::slice::from_mut(value))?;
    }
    Ok(values)
}

impl ScaleTable {
    /// The version of the form that this crate writes.
    pub const VERSION: u32 = 1;

    /// The table of a calibration.
    pub fn new(
        model: ModelIdentity,
        recipe: Recipe,
        method: Method,
        calibration: Calibration,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: Self::VERSION,
            model,
            recipe,
            calibration: Source {
                method,
                examples: calibration.examples,
                steps: calibration.steps,
            },
            scales: calibration.values,
        }
    }

    /// The scales, checked when they were read.
    pub fn scales(&self) -> Result<Scales> {
        Scales::of(&self.scales)
    }

    /// Writes the table, whole or not at all.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let mut builder = tempfile::Builder::new();
        // Readable as other new files are.
        #[cfg(unix)]
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        #[cfg(unix)]
        builder.permissions(permissions);
        let mut file = builder.tempfile_in(folder).map_err(failed)?;
        file.write_all(self.to_json().as_bytes()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// The table as JSON, with its checksum.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a table is plain data");
        let fields = text.strip_suffix("\n}").expect("an object with fields");
        format!("{fields},\n  \"checksum\": \"{}\"\n}}\n", self.checksum())
    }

    fn checksum(&self) -> String {
        let canonical = serde_json::to_string(self).expect("a table is plain data");
        blake3::hash(canonical.as_bytes()).to_hex().to_string()
    }

    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Table`] for what is no table, damaged, or holds a scale that
    /// cannot be.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        let file = File::open(path).map_err(failed)?;
        file.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
        Self::from_json(&path.display().to_string(), &text)
    }

    /// Parses a table; `origin` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Table`] as [`ScaleTable::read`].
    pub fn from_json(origin: &str, text: &str) -> Result<Self> {
        let wrong = |entry: &str, expected: &str, found: String| Error::Table {
            origin: origin.to_owned(),
            entry: entry.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let not_a_table = |error: serde_json::Error| {
            wrong("the text", "a table of scales in JSON", error.to_string())
        };
        let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(not_a_table)?;
        let checksum = match fields.remove("checksum") {
            Some(Value::String(checksum)) => checksum,
            other => return Err(wrong("checksum", "a text", shown(other.as_ref()))),
        };
        let entries = match fields.insert("scales".to_owned(), Map::new().into()) {
            Some(Value::Object(entries)) => entries,
            other => return Err(wrong("scales", "an object", shown(other.as_ref()))),
        };
        let mut table: Self = serde_json::from_value(fields.into()).map_err(not_a_table)?;
        for (name, entry) in entries {
            let parsed = serde_json::from_value(entry)
                .map_err(|error| wrong(&name, "numbers `amax` and `scale`", error.to_string()))?;
            table.scales.insert(name, parsed);
        }
        if table.format != FORMAT {
            return Err(wrong("format", FORMAT, table.format));
        }
        if table.version != Self::VERSION {
            let expected = Self::VERSION.to_string();
            return Err(wrong("version", &expected, table.version.to_string()));
        }
        // What is wrong with a value says more than that the sum is.
        table.check_values(origin)?;
        let expected = table.checksum();
        if expected != checksum {
            return Err(wrong("checksum", &expected, checksum));
        }
        Ok(table)
    }

    fn check_values(&self, origin: &str) -> Result<()> {
        for (name, value) in &self.scales {
            check_scale(origin, name, value.scale)?;
            let maxima = [value.amax].into_iter().chain(value.steps.iter().copied());
            for amax in maxima {
                if !(amax.is_finite() && amax >= 0.0) {
                    return Err(Error::Table {
                        origin: origin.to_owned(),
                        entry: name.clone(),
                        expected: "a finite amax of at least 0".to_owned(),
                        found: amax.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// An error unless the table is for this model and has every scale that its recipe needs
    /// for `graph`; `origin` is what messages call the table.
    pub fn check(&self, origin: &str, model: &ModelIdentity, graph: &Graph) -> Result<()> {
        let wrong = |entry: &str, expected: &str, found: &str| Error::Table {
            origin: origin.to_owned(),
            entry: entry.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        if self.model.graph != model.graph {
            let expected = format!("a table for the model at hand, {}", model.graph);
            return Err(wrong("model.graph", &expected, &self.model.graph));
        }
        if self.model.weights != model.weights {
            let expected = format!("a table for the weights at hand, {}", model.weights);
            return Err(wrong("model.weights", &expected, &self.model.weights));
        }
        let needed = self.recipe.scale_names(graph)?;
        match needed.iter().find(|name| !self.scales.contains_key(*name)) {
            Some(name) => Err(wrong(name, "a scale", "none")),
            None => Ok(()),
        }
    }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or("nothing".to_owned(), ToString::to_string)
}

const FORMAT: &str = "tintype-scales";

/// The most that is read of a table, in bytes.
const LIMIT: u64 = 64 << 20;

/// The values of a parameter that enter the identity.
const SAMPLES: usize = 64;
