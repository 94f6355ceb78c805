//! Files for tests: written by the safetensors crate, or byte by byte.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tempfile::TempDir;

/// A tensor for [`write`]: name, dtype, shape, bytes.
pub(crate) type Plain = (String, Dtype, Vec<usize>, Vec<u8>);

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// An f32 tensor.
pub(crate) fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Plain {
    let bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    (name.to_owned(), Dtype::F32, shape.to_vec(), bytes)
}

/// An f32 tensor that counts up from `start`.
pub(crate) fn counting(name: &str, shape: &[usize], start: f32) -> Plain {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|index| start + index as f32).collect();
    f32s(name, shape, &values)
}

pub(crate) fn write(folder: &Path, name: &str, tensors: &[Plain]) -> PathBuf {
    let path = folder.join(name);
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            name.clone(),
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    serialize_to_file(views, None, &path).unwrap();
    path
}

/// A file of this header and `data` bytes of zeros.
pub(crate) fn write_raw(folder: &Path, name: &str, header: &[u8], data: usize) -> PathBuf {
    let path = folder.join(name);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + data, 0);
    std::fs::write(&path, bytes).unwrap();
    path
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/fixtures")
}
