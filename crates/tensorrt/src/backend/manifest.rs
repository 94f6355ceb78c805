//! What stands beside a plan: how its engine's tensors and weights are called.
//!
//! It is written when a plan is built and kept with it, so that a plan that is found again needs
//! no lowering, and names that were counted cannot differ from those in the engine.

use serde::{Deserialize, Serialize};
use tintype_ir::Graph;
use tintype_tensor::{DType, Shape, Tensor};

use crate::lower::{InputKind, Lowered, PlacedWeight, WeightSource};

/// Inputs, outputs and named constants of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// The inputs.
    pub inputs: Vec<ManifestInput>,
    /// The outputs.
    pub outputs: Vec<ManifestOutput>,
    /// Every named constant that may have to be set.
    pub weights: Vec<ManifestWeight>,
}

/// An input of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestInput {
    /// The graph's name of it.
    pub name: String,
    /// The engine's name of it.
    pub tensor: String,
    /// The symbol whose value its size is, if it has no other use.
    pub symbol: Option<String>,
}

/// An output of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestOutput {
    /// The graph's name of it.
    pub name: String,
    /// The engine's name of it.
    pub tensor: String,
}

/// A named constant of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestWeight {
    /// Its name in the engine; also that of the weight, unless it is a literal.
    pub name: String,
    /// The dtype of its elements, as `bf16`.
    pub dtype: String,
    /// The number of elements.
    pub count: usize,
    /// The bytes of a constant that no weight gives, in hexadecimal digits.
    pub literal: Option<String>,
}

impl Manifest {
    /// That of a lowered program.
    pub(super) fn new(lowered: &Lowered) -> Self {
        let inputs = lowered.inputs.iter().map(|input| ManifestInput {
            name: input.name.clone(),
            tensor: input.tensor.clone(),
            symbol: match &input.kind {
                InputKind::Symbol(symbol) => Some(symbol.clone()),
                InputKind::Value => None,
            },
        });
        let outputs = lowered.outputs.iter().map(|output| ManifestOutput {
            name: output.name.clone(),
            tensor: output.tensor.clone(),
        });
        // Also what only sizes depend on: should the engine want it, it is a literal as others.
        let weights = lowered.weights.iter();
        Self {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            weights: weights.map(ManifestWeight::new).collect(),
        }
    }

    /// Its bytes beside a plan.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers can be written")
    }

    /// Read back and checked against the program that the plan is of.
    pub(super) fn read(bytes: &[u8], program: &Graph) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        for input in manifest
            .inputs
            .iter()
            .filter(|input| input.symbol.is_none())
        {
            if !program
                .inputs()
                .iter()
                .any(|other| other.name == input.name)
            {
                return Err(format!("`{}` is no input of the graph", input.name));
            }
        }
        for output in program.outputs() {
            if !manifest
                .outputs
                .iter()
                .any(|other| other.name == output.name)
            {
                return Err(format!("output `{}` is missing", output.name));
            }
        }
        for weight in &manifest.weights {
            weight.dtype()?;
            weight.literal()?;
        }
        Ok(manifest)
    }
}

impl ManifestWeight {
    fn new(weight: &PlacedWeight) -> Self {
        let literal = match &weight.source {
            WeightSource::Placeholder => None,
            WeightSource::Literal(tensor) => Some(to_hex(tensor.bytes())),
        };
        Self {
            name: weight.name.clone(),
            dtype: weight.dtype.to_string(),
            count: weight.count(),
            literal,
        }
    }

    /// The dtype of the elements.
    pub(super) fn dtype(&self) -> Result<DType, String> {
        let dtype = self.dtype.parse();
        dtype.map_err(|error| format!("weight `{}`: {error}", self.name))
    }

    /// The values of a constant that no weight gives.
    pub(super) fn literal(&self) -> Result<Option<Tensor>, String> {
        let Some(digits) = &self.literal else {
            return Ok(None);
        };
        let bytes = from_hex(digits).ok_or_else(|| format!("weight `{}` is no hex", self.name))?;
        let shape = Shape::from([self.count]);
        let tensor = Tensor::from_bytes(self.dtype()?, shape, bytes);
        let tensor = tensor.map_err(|error| format!("weight `{}`: {error}", self.name))?;
        Ok(Some(tensor))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes all");
        text
    })
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let pairs = (0..digits.len()).step_by(2);
    pairs
        .map(|start| u8::from_str_radix(&digits[start..start + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(count: usize, literal: &str) -> ManifestWeight {
        ManifestWeight {
            name: "epsilon".to_owned(),
            dtype: "f32".to_owned(),
            count,
            literal: Some(literal.to_owned()),
        }
    }

    #[test]
    fn literals_keep_their_bytes() {
        let bytes = [0, 1, 0x7f, 0xff];
        assert_eq!(from_hex(&to_hex(&bytes)).unwrap(), bytes);
        let tensor = weight(1, "0000803f").literal().unwrap().unwrap();
        assert_eq!(tensor.to_f32_vec().unwrap(), [1.0]);
    }

    #[test]
    fn a_manifest_that_does_not_fit_is_refused() {
        for (count, literal) in [
            (2, "0000803f"),
            (1, "0000803"),
            (1, "0000803g"),
            (1, "ö0803f"),
        ] {
            assert!(
                weight(count, literal).literal().is_err(),
                "{count} {literal}"
            );
        }
        let text = "graph g { input step %x: f32[2] %0: f32[2] = neg %x output y = %0 }";
        let program = tintype_ir::parse(text).unwrap();
        let mut manifest = Manifest {
            inputs: Vec::new(),
            outputs: Vec::new(),
            weights: Vec::new(),
        };
        let read = |manifest: &Manifest| Manifest::read(&manifest.to_bytes(), &program);
        assert_eq!(read(&manifest).unwrap_err(), "output `y` is missing");
        manifest.outputs.push(ManifestOutput {
            name: "y".to_owned(),
            tensor: "y".to_owned(),
        });
        assert_eq!(read(&manifest).unwrap(), manifest);
        manifest.inputs.push(ManifestInput {
            name: "z".to_owned(),
            tensor: "z".to_owned(),
            symbol: None,
        });
        assert_eq!(read(&manifest).unwrap_err(), "`z` is no input of the graph");
        assert!(Manifest::read(b"{", &program).is_err());
    }
}
