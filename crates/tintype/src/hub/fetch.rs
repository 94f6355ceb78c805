//! One file from the hub to the cache: resumed, measured, compared, then named.
//!
//! The bytes go to `<blob>.incomplete`, which a later run takes up again. Only a file whose size
//! and checksum are those that the hub states is renamed to `<blob>`. It knows nothing of
//! repositories or links.
//!
//! ```text
//! blobs/5d3f….incomplete   GET with Range: bytes=1048576-
//! blobs/5d3f…              after size and checksum were compared
//! ```

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use indicatif::ProgressBar;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::remote::{Checksum, Failure, MAX_FAILURES, Remote, RemoteFile, header};
use super::store::create_parent;

/// Fetches `file` at `commit` to `target`, going on from what an earlier attempt left.
///
/// Failures of the network are tried again; as long as bytes arrive in between, without end.
pub(crate) fn fetch(
    remote: &Remote,
    commit: &str,
    file: &RemoteFile,
    target: &Path,
    progress: &ProgressBar,
) -> Result<()> {
    let mut partial = Partial::open(target, file, progress)?;
    let mut was_resumed = partial.length > 0;
    let mut failures = 0;
    loop {
        let length = partial.length;
        let failure = match transfer(remote, commit, file, &mut partial) {
            Ok(()) if partial.has_expected_content(file) => return partial.publish(target),
            // An earlier attempt may have left something else; start over once.
            Ok(()) if was_resumed => {
                was_resumed = false;
                partial.restart()?;
                continue;
            }
            Ok(()) => {
                let found = partial.digest();
                partial.discard();
                return Err(mismatch(file, &found));
            }
            Err(Failure::Permanent(error)) => return Err(error),
            Err(Failure::Transient(error)) => error,
        };
        failures = if partial.length > length {
            1
        } else {
            failures + 1
        };
        if failures > MAX_FAILURES {
            return Err(failure.context(format!(
                "the download of {} stopped at {} of {} bytes; what came is kept, run the \
                 command again to go on",
                file.name,
                partial.length,
                file.size
                    .map_or("an unknown number of".to_owned(), |size| size.to_string()),
            )));
        }
        std::thread::sleep(remote.pause(failures));
    }
}

/// One request; `Ok` when the stream ended where it should.
fn transfer(
    remote: &Remote,
    commit: &str,
    file: &RemoteFile,
    partial: &mut Partial,
) -> Result<(), Failure> {
    if file.size.is_some_and(|size| partial.length > size) {
        partial.restart().map_err(Failure::Permanent)?;
    }
    if partial.length > 0 && Some(partial.length) == file.size {
        return Ok(());
    }
    let response = remote.open(commit, file, partial.length)?;
    align(&response, file, partial)?;
    let expected = file.size.or_else(|| {
        Some(partial.length + header(&response, "content-length")?.parse::<u64>().ok()?)
    });
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = body.read(&mut buffer).map_err(|error| {
            Failure::Transient(
                anyhow!(error).context(format!("the connection broke in {}", file.name)),
            )
        })?;
        if count == 0 {
            break;
        }
        if expected.is_some_and(|expected| partial.length + count as u64 > expected) {
            partial.discard();
            return Err(Failure::Permanent(size_mismatch(file, "more")));
        }
        partial
            .append(&buffer[..count])
            .map_err(Failure::Permanent)?;
    }
    match expected {
        Some(expected) if partial.length < expected => Err(Failure::Transient(anyhow!(
            "{} is truncated: expected {expected} bytes, found {}",
            file.name,
            partial.length
        ))),
        _ => Ok(()),
    }
}

/// Brings the partial file to where the answer starts, which a server may choose.
fn align(
    response: &Response<Body>,
    file: &RemoteFile,
    partial: &mut Partial,
) -> Result<(), Failure> {
    let wrong_range = |partial: &mut Partial| {
        partial.restart().map_err(Failure::Permanent)?;
        Err(Failure::Transient(anyhow!(
            "{}: the hub does not go on where the download stopped",
            file.name
        )))
    };
    match response.status().as_u16() {
        200 => {
            if partial.length > 0 {
                partial.restart().map_err(Failure::Permanent)?;
            }
            let length =
                header(response, "content-length").and_then(|text| text.parse::<u64>().ok());
            match (length, file.size) {
                (Some(length), Some(size)) if length != size => {
                    Err(Failure::Permanent(size_mismatch(file, &length.to_string())))
                }
                _ => Ok(()),
            }
        }
        206 => {
            let range = header(response, "content-range").unwrap_or_default();
            let start = range
                .strip_prefix("bytes ")
                .and_then(|rest| rest.split('-').next());
            if start.and_then(|start| start.parse().ok()) == Some(partial.length) {
                Ok(())
            } else {
                wrong_range(partial)
            }
        }
        416 => wrong_range(partial),
        status => Err(Failure::Permanent(anyhow!(
            "{}: expected the file, the hub answered {status}",
            file.name
        ))),
    }
}

fn size_mismatch(file: &RemoteFile, found: &str) -> anyhow::Error {
    anyhow!(
        "{} has the wrong size: expected {} bytes, found {found}",
        file.name,
        file.size.unwrap_or(0)
    )
}

fn mismatch(file: &RemoteFile, found: &str) -> anyhow::Error {
    let expected = match &file.checksum {
        Checksum::Sha256(digest) | Checksum::GitBlob(digest) => digest,
        Checksum::Unknown => "another size",
    };
    anyhow!(
        "{} arrived damaged: expected checksum {expected}, found {found}; the copy was removed, \
         run the command again",
        file.name
    )
}

/// The bytes that came so far, and their checksum.
struct Partial<'a> {
    path: PathBuf,
    file: File,
    length: u64,
    hasher: Hasher,
    expected: &'a RemoteFile,
    progress: &'a ProgressBar,
}

impl<'a> Partial<'a> {
    fn open(target: &Path, expected: &'a RemoteFile, progress: &'a ProgressBar) -> Result<Self> {
        let mut path = target.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        create_parent(&path)?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut partial = Self {
            hasher: Hasher::new(expected),
            path,
            file,
            length: 0,
            expected,
            progress,
        };
        partial
            .take_up()
            .with_context(|| format!("cannot read {}", partial.path.display()))?;
        Ok(partial)
    }

    /// Reads what is there already, for the checksum.
    fn take_up(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.hasher.update(&buffer[..count]);
            self.length += count as u64;
        }
        self.progress.inc(self.length);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.progress.inc(bytes.len() as u64);
        Ok(())
    }

    /// Forgets every byte.
    fn restart(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        self.progress.dec(self.length);
        self.length = 0;
        self.hasher = Hasher::new(self.expected);
        Ok(())
    }

    fn has_expected_content(&self, file: &RemoteFile) -> bool {
        let has_size = file.size.is_none_or(|size| size == self.length);
        has_size
            && match &file.checksum {
                Checksum::Sha256(digest) | Checksum::GitBlob(digest) => *digest == self.digest(),
                Checksum::Unknown => true,
            }
    }

    fn digest(&self) -> String {
        self.hasher.clone().finish()
    }

    /// Gives the file its final name, once it is on the disk.
    fn publish(self, target: &Path) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, target))
            .with_context(|| format!("cannot write {}", target.display()))
    }

    /// Removes what came. Failing to do so does no harm: it is compared again when resumed.
    fn discard(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
    None,
}

impl Hasher {
    fn new(file: &RemoteFile) -> Self {
        match &file.checksum {
            Checksum::Sha256(_) => Self::Sha256(Sha256::new()),
            Checksum::GitBlob(_) => {
                let header = format!("blob {}\0", file.size.unwrap_or(0));
                Self::GitBlob(Sha1::new_with_prefix(header))
            }
            Checksum::Unknown => Self::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
            Self::None => {}
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hexadecimal(&hasher.finalize()),
            Self::GitBlob(hasher) => hexadecimal(&hasher.finalize()),
            Self::None => String::new(),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const BUFFER_BYTES: usize = 256 << 10;
