//! Writing files whole or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use safetensors::tensor::{Dtype, TensorView};
use tintype::{Output, Tensor};

/// An error now rather than after a long computation.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let names_a_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if path.is_dir() || names_a_folder || path.file_name().is_none() {
        bail!(
            "{}: expected a file to write, found a folder",
            path.display()
        );
    }
    let folder = folder_of(path);
    tempfile::tempfile_in(&folder)
        .with_context(|| format!("{}: cannot be written", path.display()))
        .map(drop)
}

/// `latents` (packed), `images` (NCHW in 0..=1), `prompt_embeds` and `pooled`, all f32.
pub(crate) fn tensors(path: &Path, output: &Output) -> Result<()> {
    let mut tensors = vec![
        ("latents", &output.latents),
        ("prompt_embeds", &output.prompt_embeds),
        ("pooled", &output.pooled_prompt_embeds),
    ];
    tensors.extend(output.pixels.as_ref().map(|pixels| ("images", pixels)));
    let views: Result<Vec<_>> = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, view(tensor)?)))
        .collect();
    bytes(path, &safetensors::serialize(views?, None)?)
}

/// These bytes, under the name when all of them are on disk.
pub(crate) fn bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || format!("{}: cannot be written", path.display());
    let mut file = temporary_in(&folder_of(path)).with_context(failed)?;
    std::io::Write::write_all(&mut file, bytes).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

/// A file that vanishes unless it is given its name; readable as other new files are.
fn temporary_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    builder.tempfile_in(folder)
}

fn view(tensor: &Tensor) -> Result<TensorView<'_>> {
    Ok(TensorView::new(
        Dtype::F32,
        tensor.shape().to_vec(),
        tensor.bytes(),
    )?)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// How names of files begin that are being written.
pub(crate) const TEMPORARY: &str = ".tintype-";
