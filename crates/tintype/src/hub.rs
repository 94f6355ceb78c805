//! Models from the hub: turns `org/name` or `org/name@revision` into a folder on disk.
//!
//! Only the files of a pipeline in diffusers' layout are fetched, into the cache that other
//! tools of the hub use too (`blobs`, `snapshots`, `refs`), so a model that is there already is
//! found without any network. `hf-hub` says where the hub and the cache are and asks the hub
//! about a repository; the bytes are fetched here, because `hf-hub` neither checks what it
//! fetched nor survives a server that ignores `Range`. What is here and not there: a file is
//! resumed, also by a later run, is compared with the size and the checksum that the hub
//! states, and gets its final name only after that. Files stored with Xet come through the
//! hub's ordinary HTTP address.
//!
//! What it is not: a client for datasets, uploads or single-file checkpoints.
//!
//! A branch that is complete in the cache is not looked up again. To get a newer commit, name
//! it (`org/name@<commit>`) or remove the branch's file in the cache's `refs`.
//!
//! ```no_run
//! let folder = tintype::hub::resolve("black-forest-labs/FLUX.1-schnell", false)?;
//! assert!(folder.join("model_index.json").is_file());
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! The environment variables are those of the hub's own tools: `HF_ENDPOINT`, `HF_TOKEN`,
//! `HF_TOKEN_PATH`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`.

mod fetch;
mod model_id;
mod remote;
mod select;
mod settings;
mod store;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use self::model_id::ModelId;
use self::remote::{Remote, RemoteFile};
pub use self::settings::Settings;
use self::store::Store;

/// The folder or file that `model` names, downloaded if need be.
///
/// An existing path is returned as it is. Anything else must be `org/name` or
/// `org/name@revision`, where the revision is a branch, a tag or a commit (default `main`).
/// `quiet` hides the progress bar and the messages on standard error.
///
/// # Errors
/// When `model` is neither a path nor a name on the hub, when the hub refuses (not found,
/// private, gated), when the network fails for good, when what came differs in size or checksum
/// from what the hub stated, or when the disk cannot be written. What was fetched until then is
/// kept for the next attempt, but never under its final name.
pub fn resolve(model: &str, quiet: bool) -> Result<PathBuf> {
    resolve_with(model, &Settings::from_environment(quiet))
}

/// [`resolve`] with the environment given as a value.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(model: &str, settings: &Settings) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    let model: ModelId = model.parse()?;
    let store = Store::new(settings, &model);
    if let Some(folder) = store.complete_snapshot() {
        return Ok(folder);
    }
    if settings.offline {
        bail!(
            "{model} is not complete in {} and HF_HUB_OFFLINE forbids downloading it; unset \
             HF_HUB_OFFLINE, or give the folder of the model",
            settings.cache.display()
        );
    }
    download(&model, &store, settings)
}

fn download(model: &ModelId, store: &Store, settings: &Settings) -> Result<PathBuf> {
    let remote = Remote::new(settings, model)?;
    let listing = remote.list()?;
    let names = select::wanted(&listing.names());
    if !names.iter().any(|name| name == select::PIPELINE_INDEX) {
        bail!(
            "{model} is no pipeline in diffusers' layout: it has no {} (it has {})",
            select::PIPELINE_INDEX,
            some_of(&listing.names())
        );
    }
    let mut files = Vec::with_capacity(names.len());
    for name in &names {
        files.push(remote.describe(&listing, name)?);
    }
    let progress = announce(model, &files, store, settings);
    // The index of the pipeline comes last: a snapshot that has it has everything.
    files.sort_by_key(|file| file.name == select::PIPELINE_INDEX);
    for file in &files {
        progress.set_message(file.name.clone());
        let lock = store.lock(file)?;
        if store.has_blob(file) {
            progress.inc(file.size.unwrap_or(0));
        } else {
            fetch::fetch(&remote, &listing.commit, file, &store.blob(file), &progress)?;
        }
        store.link(&listing.commit, file)?;
        drop(lock);
    }
    store.write_reference(&listing.commit)?;
    progress.finish_and_clear();
    Ok(store.snapshot(&listing.commit))
}

/// Says what will be fetched and where to, and returns the bar that follows it.
fn announce(
    model: &ModelId,
    files: &[RemoteFile],
    store: &Store,
    settings: &Settings,
) -> ProgressBar {
    if settings.quiet {
        return ProgressBar::hidden();
    }
    let total: u64 = files.iter().filter_map(|file| file.size).sum();
    eprintln!(
        "downloading {model} ({} files, {}) to {}",
        files.len(),
        HumanBytes(total),
        store.root().display()
    );
    let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";
    ProgressBar::new(total)
        .with_style(ProgressStyle::with_template(template).expect("the template is a constant"))
}

fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    if names.is_empty() {
        return "no files".to_owned();
    }
    let shown = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}
