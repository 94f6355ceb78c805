//! Where a parameter lies: tensors of files, a scale, views. It can be written down and found
//! again in another process.
//!
//! Nothing is read here, and no path is remembered: which file is meant is the caller's business.
//!
//! ```
//! use tintype_tensor::Tensor;
//! use tintype_weights::Parameters;
//!
//! # fn f() -> Result<(), tintype_weights::Error> {
//! let file = Parameters::open("flux1-dev.safetensors")?;
//! let place = file.place("img_in.weight")?.expect("it is in a file");
//! let again = Parameters::builder().place("x_embedder.weight", place)?.build()?;
//! assert!(again.contains("x_embedder.weight"));
//! # Ok(())
//! # }
//! let memory = Parameters::builder().tensor("a", Tensor::from_f32([1], vec![1.0]).unwrap());
//! assert!(memory.build()?.place("a")?.is_none());
//! # Ok::<(), tintype_weights::Error>(())
//! ```

use crate::entry::Entry;
use crate::error::shown;
use crate::source::{Base, Source};
use crate::{Error, Parameters, ParametersBuilder, Result, SafetensorsFile, View};

/// A tensor of a file, seen through a scale and views.
#[derive(Debug, Clone)]
pub struct Place {
    /// The tensor that is read.
    pub tensor: FileTensor,
    /// What it is multiplied by, as f32: one value, or one for each row.
    pub scale: Option<FileTensor>,
    /// What is done with it then, in order.
    pub views: Vec<View>,
}

/// A tensor of an open file.
#[derive(Debug, Clone)]
pub struct FileTensor {
    /// The file.
    pub file: SafetensorsFile,
    /// The name there.
    pub name: String,
}

impl Parameters {
    /// Where a parameter lies; nothing for one that is in memory, be it a tensor that was set or
    /// a file that was never on disk.
    ///
    /// # Errors
    /// No parameter of this name.
    pub fn place(&self, name: &str) -> Result<Option<Place>> {
        let source = &self.entry(name)?.source;
        let Some(tensor) = FileTensor::of(source.base()) else {
            return Ok(None);
        };
        let scale = source.scale().map(FileTensor::of);
        if scale.as_ref().is_some_and(Option::is_none) {
            return Ok(None);
        }
        Ok(Some(Place {
            tensor,
            scale: scale.flatten(),
            views: source.views().to_vec(),
        }))
    }
}

impl ParametersBuilder {
    /// A layer of one parameter that lies there.
    ///
    /// # Errors
    /// A tensor that its file does not have; a scale or a view that does not fit it.
    pub fn place(self, name: impl Into<String>, place: Place) -> Result<Self> {
        let base = place.tensor.base()?;
        let wrong = |base: &Base, name: &str, error| base.value_error(name, error);
        let mut source = Source::new(base.clone());
        if let Some(scale) = place.scale {
            let scaled = source.scaled(scale.base()?);
            source = scaled.map_err(|error| wrong(&base, &scale.name, error))?;
        }
        for view in place.views {
            let viewed = source.viewed(view);
            source = viewed.map_err(|error| wrong(&base, &place.tensor.name, error))?;
        }
        Ok(self.entry(name.into(), Entry::new(source)))
    }
}

impl FileTensor {
    /// Nothing for what is in memory.
    fn of(base: &Base) -> Option<Self> {
        match base {
            Base::File { file, name } if !file.is_in_memory() => Some(Self {
                file: file.clone(),
                name: name.clone(),
            }),
            _ => None,
        }
    }

    fn base(&self) -> Result<Base> {
        if self.file.entry(&self.name).is_none() {
            return Err(Error::Missing {
                origin: self.file.path().display().to_string(),
                tensor: shown(&self.name),
                count: self.file.entries().len(),
            });
        }
        Ok(Base::File {
            file: self.file.clone(),
            name: self.name.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use safetensors::tensor::{Dtype, TensorView};
    use tintype_tensor::Tensor;

    use super::*;

    fn write(path: &Path) {
        let codes: Vec<u8> = (0..16).map(|code| 0x30 + code).collect();
        let scales: Vec<u8> = [0.5f32, 2.0, 3.0, 0.25]
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes);
        let tensors = HashMap::from([
            ("a.weight", view(Dtype::F8_E4M3, &[4, 4], &codes).unwrap()),
            ("a.scale_weight", view(Dtype::F32, &[4], &scales).unwrap()),
        ]);
        safetensors::serialize_to_file(tensors, None, path).unwrap();
    }

    #[test]
    fn what_is_found_again_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write(&path);
        let parameters = Parameters::builder()
            .file(&path)
            .unwrap()
            .view("rows", "a.weight", View::Rows { start: 1, end: 3 })
            .view("swapped", "rows", View::SwapHalves)
            .view("flat", "swapped", View::Reshape([8].into()))
            .build()
            .unwrap();
        let again = SafetensorsFile::open(&path).unwrap();
        for name in ["a.weight", "rows", "swapped", "flat"] {
            let mut place = parameters.place(name).unwrap().unwrap();
            assert_eq!(place.tensor.name, "a.weight");
            place.tensor.file = again.clone();
            let scale = place.scale.as_mut().unwrap();
            assert_eq!(scale.name, "a.scale_weight");
            scale.file = again.clone();
            let found = Parameters::builder().place("new", place).unwrap();
            let found = found.build().unwrap();
            assert_eq!(found.hash("new").unwrap(), parameters.hash(name).unwrap());
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write(&path);
        let parameters = Parameters::open(&path).unwrap();
        let place = parameters.place("a.weight").unwrap().unwrap();
        let mut other = place.clone();
        other.tensor.name = "b".to_owned();
        let error = Parameters::builder().place("a", other).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("a.safetensors: expected a tensor `b`")
        );
        let mut other = place;
        other.views.push(View::Rows { start: 3, end: 5 });
        let error = Parameters::builder().place("a", other).unwrap_err();
        assert!(error.to_string().contains("tensor `a.weight`"), "{error}");
    }

    #[test]
    fn what_is_in_memory_has_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        write(&path);
        let bytes = std::fs::read(&path).unwrap();
        let file = SafetensorsFile::from_bytes("inside", bytes).unwrap();
        let checkpoint = crate::Checkpoint::from_file(file);
        let mut parameters = Parameters::from_checkpoint(&checkpoint).unwrap();
        assert!(parameters.place("a.weight").unwrap().is_none());
        let tensor = Tensor::from_f32([1], vec![1.0]).unwrap();
        parameters.insert("b", tensor).unwrap();
        assert!(parameters.place("b").unwrap().is_none());
        assert!(parameters.place("c").is_err());
    }
}
