//! The hub over HTTP: the list of a repository's files, one file's size and checksum, its bytes.
//!
//! Every refusal becomes a message that says what to do. What the server states (commits,
//! checksums, names) is checked before it becomes part of a path. Nothing is written here.
//!
//! ```text
//! GET  /api/models/org/name/revision/main?blobs=true
//! HEAD /org/name/resolve/<commit>/vae/config.json     only if the list states no size
//! GET  /org/name/resolve/<commit>/vae/config.json     with Range when it is resumed
//! ```

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::model_id::{ModelId, is_safe_part};
use super::settings::Settings;

/// A failed request: worth another attempt, or not.
pub(crate) enum Failure {
    Transient(anyhow::Error),
    Permanent(anyhow::Error),
}

/// One file of a repository as the hub describes it.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    /// The path within the repository.
    pub(crate) name: String,
    /// The size in bytes, where the hub states it.
    pub(crate) size: Option<u64>,
    /// The name of the blob; safe as a file name.
    pub(crate) etag: String,
    /// The checksum to compare with.
    pub(crate) checksum: Checksum,
}

/// What the hub states about a file's content, in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256 of the content: large files.
    Sha256(String),
    /// SHA-1 of `blob <size>\0` and the content: files that git itself stores.
    GitBlob(String),
    /// Only the size can be compared.
    Unknown,
}

/// The answer to "which files does this revision have".
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    /// The commit that the revision stands for.
    #[serde(rename = "sha")]
    pub(crate) commit: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// The paths of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.siblings
            .iter()
            .map(|file| file.rfilename.clone())
            .collect()
    }
}

/// The connection to one repository.
pub(crate) struct Remote {
    api: Api,
    /// Follows redirects, as the bytes lie on other hosts.
    agent: Agent,
    /// Follows none: a redirect's own headers describe the file.
    direct: Agent,
    model: ModelId,
    settings: Settings,
}

impl Remote {
    /// Prepares the connection; no request is made.
    pub(crate) fn new(settings: &Settings, model: &ModelId) -> Result<Self> {
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_user_agent("tintype", env!("CARGO_PKG_VERSION"))
            .build()
            .context("cannot set up the connection to the hub")?;
        Ok(Self {
            api,
            agent: agent(MAX_REDIRECTS),
            direct: agent(0),
            model: model.clone(),
            settings: settings.clone(),
        })
    }

    /// Asks for the files of the revision.
    pub(crate) fn list(&self) -> Result<Listing> {
        let listing = self.with_retries(|| {
            let request = self.repository(&self.model.revision).info_request();
            let request = request.query("blobs", "true");
            let request = request
                .config()
                .http_status_as_error(false)
                .timeout_global(Some(LIST_TIMEOUT))
                .build();
            let mut response = self.accept(request.call(), "the list of its files")?;
            let body = response
                .body_mut()
                .with_config()
                .limit(MAX_LIST_BYTES)
                .read_to_vec()
                .map_err(|error| self.unreachable(error))?;
            serde_json::from_slice::<Listing>(&body).map_err(|error| {
                Failure::Permanent(anyhow!(error).context(format!(
                    "{} answered with something else than a list of files",
                    self.settings.endpoint
                )))
            })
        })?;
        if !is_safe_part(&listing.commit) {
            bail!(
                "{}: expected a commit, the hub names `{}`",
                self.model,
                listing.commit
            );
        }
        Ok(listing)
    }

    /// The size and the checksum of one listed file.
    pub(crate) fn describe(&self, listing: &Listing, name: &str) -> Result<RemoteFile> {
        let sibling = listing
            .siblings
            .iter()
            .find(|file| file.rfilename == name)
            .with_context(|| format!("{}: {name} is not listed", self.model))?;
        match described(sibling) {
            Some(file) => Ok(file),
            None => self.with_retries(|| self.head(&listing.commit, name)),
        }
    }

    /// Asks for the bytes of `file` from `offset` on.
    pub(crate) fn open(
        &self,
        commit: &str,
        file: &RemoteFile,
        offset: u64,
    ) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(self.repository(commit).url(&file.name));
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if offset > 0 {
            request = request.header("Range", format!("bytes={offset}-"));
        }
        let response = request.call();
        // 416 is for the caller: what it has is not a beginning of what the hub has.
        if matches!(&response, Ok(response) if response.status() == 416) {
            return response.map_err(|error| self.unreachable(error));
        }
        self.accept(response, &file.name)
    }

    /// How long to wait before attempt number `failures + 1`.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        self.settings.retry_wait * 2_u32.saturating_pow(failures.saturating_sub(1).min(5))
    }

    fn head(&self, commit: &str, name: &str) -> Result<RemoteFile, Failure> {
        let mut url = self.repository(commit).url(name);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.direct.head(&url);
            if let Some(token) = &self.settings.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = self.accept(request.call(), name)?;
            // A redirect within the hub (a renamed repository) says nothing about the file yet.
            match header(&response, "location") {
                Some(path) if response.status().is_redirection() && path.starts_with('/') => {
                    url = format!("{}{path}", origin(&url));
                }
                _ => return self.described_by_headers(&response, name),
            }
        }
        Err(Failure::Permanent(anyhow!(
            "{}: too many redirects for {name}",
            self.model
        )))
    }

    fn described_by_headers(
        &self,
        response: &Response<Body>,
        name: &str,
    ) -> Result<RemoteFile, Failure> {
        let etag = header(response, "x-linked-etag").or_else(|| header(response, "etag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        let Some(etag) = etag.filter(|etag| is_safe_part(etag)) else {
            return Err(Failure::Permanent(anyhow!(
                "{}: the hub states no usable ETag for {name}",
                self.model
            )));
        };
        let length = header(response, "content-length").filter(|_| response.status() == 200);
        let size = header(response, "x-linked-size").or(length);
        Ok(RemoteFile {
            name: name.to_owned(),
            size: size.and_then(|size| size.parse().ok()),
            checksum: if is_hexadecimal(&etag, 64) {
                Checksum::Sha256(etag.clone())
            } else {
                Checksum::Unknown
            },
            etag,
        })
    }

    fn repository(&self, revision: &str) -> hf_hub::api::sync::ApiRepo {
        self.api.repo(Repo::with_revision(
            self.model.name.clone(),
            RepoType::Model,
            revision.to_owned(),
        ))
    }

    fn with_retries<T>(&self, mut request: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut failures = 0;
        loop {
            match request() {
                Ok(value) => return Ok(value),
                Err(Failure::Permanent(error)) => return Err(error),
                Err(Failure::Transient(error)) if failures == MAX_FAILURES => return Err(error),
                Err(Failure::Transient(_)) => failures += 1,
            }
            std::thread::sleep(self.pause(failures));
        }
    }

    /// Sorts an answer into success, worth a retry, and refused with advice.
    fn accept(
        &self,
        response: Result<Response<Body>, ureq::Error>,
        what: &str,
    ) -> Result<Response<Body>, Failure> {
        let response = response.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let model = &self.model;
        let page = format!("{}/{}", self.settings.endpoint, model.name);
        match status.as_u16() {
            200..=399 => Ok(response),
            401 | 403 => Err(Failure::Permanent(self.forbidden(status.as_u16(), &page))),
            404 => Err(Failure::Permanent(anyhow!(
                "not found (404): {what} of {model} at {page}; check the name and the revision, \
                 and set HF_TOKEN if the model is private"
            ))),
            408 | 425 | 429 | 500..=599 => Err(Failure::Transient(anyhow!(
                "{page} answered {status} for {what}; try again later"
            ))),
            _ => Err(Failure::Permanent(anyhow!(
                "{page} answered {status} for {what}"
            ))),
        }
    }

    fn forbidden(&self, status: u16, page: &str) -> anyhow::Error {
        let token = if self.settings.token.is_some() {
            "the token in use (HF_TOKEN) may not read it"
        } else {
            "no token is set"
        };
        anyhow!(
            "the hub refused access to {} ({status}): {token}; if the model is gated, accept its \
             licence at {page} and set HF_TOKEN to a token of that account; otherwise it is \
             private or does not exist",
            self.model
        )
    }

    fn unreachable(&self, error: ureq::Error) -> Failure {
        let is_permanent = matches!(
            error,
            ureq::Error::BadUri(_) | ureq::Error::Tls(_) | ureq::Error::TooManyRedirects
        );
        let error = anyhow!(error).context(format!(
            "cannot reach the hub at {} (set HF_ENDPOINT for a mirror, HF_HUB_OFFLINE=1 to use \
             the cache alone)",
            self.settings.endpoint
        ));
        if is_permanent {
            Failure::Permanent(error)
        } else {
            Failure::Transient(error)
        }
    }
}

fn agent(max_redirects: u32) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(max_redirects)
        .max_redirects_will_error(max_redirects > 0)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .user_agent(concat!("tintype/", env!("CARGO_PKG_VERSION")))
        // A compressed answer would have neither the size nor the ranges of the file.
        .accept_encoding("identity")
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_per_read(Some(ANSWER_TIMEOUT))
        .build()
        .into()
}

/// What the list itself says about a file; `None` if that is not enough.
fn described(sibling: &Sibling) -> Option<RemoteFile> {
    let (etag, size, checksum) = if let Some(lfs) = &sibling.lfs {
        let digest = lfs.sha256.clone()?.to_ascii_lowercase();
        let size = lfs.size.or(sibling.size)?;
        let checksum = is_hexadecimal(&digest, 64).then(|| Checksum::Sha256(digest.clone()))?;
        (digest, size, checksum)
    } else {
        let digest = sibling.blob_id.clone()?.to_ascii_lowercase();
        let checksum = is_hexadecimal(&digest, 40).then(|| Checksum::GitBlob(digest.clone()))?;
        (digest, sibling.size?, checksum)
    };
    Some(RemoteFile {
        name: sibling.rfilename.clone(),
        size: Some(size),
        etag,
        checksum,
    })
}

/// The value of a header, if it is text.
pub(crate) fn header(response: &Response<Body>, name: &str) -> Option<String> {
    Some(
        response
            .headers()
            .get(name)?
            .to_str()
            .ok()?
            .trim()
            .to_owned(),
    )
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `scheme://host:port` of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |position| position + 3);
    url[host..].find('/').map_or(url, |end| &url[..host + end])
}

/// Failures in a row after which a download gives up.
pub(crate) const MAX_FAILURES: u32 = 5;
const MAX_REDIRECTS: u32 = 10;
const MAX_LIST_BYTES: u64 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
const LIST_TIMEOUT: Duration = Duration::from_mins(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_describes_files_of_both_stores() {
        let listing: Listing = serde_json::from_value(serde_json::json!({
            "sha": "c0ffee",
            "siblings": [
                {"rfilename": "a", "size": 3, "blobId": "A".repeat(40)},
                {"rfilename": "b", "size": 9, "blobId": "b".repeat(40),
                 "lfs": {"sha256": "c".repeat(64), "size": 9, "pointerSize": 1}},
                {"rfilename": "c"},
                {"rfilename": "d", "size": 3, "blobId": "../../etc/passwd"},
            ],
        }))
        .unwrap();
        let files = listing.siblings.iter().map(described).collect::<Vec<_>>();
        let checksum = |index: usize| files[index].as_ref().map(|file| file.checksum.clone());
        assert_eq!(checksum(0), Some(Checksum::GitBlob("a".repeat(40))));
        assert_eq!(checksum(1), Some(Checksum::Sha256("c".repeat(64))));
        assert_eq!(checksum(2), None);
        assert_eq!(checksum(3), None);
    }

    #[test]
    fn an_origin_ends_before_the_path() {
        assert_eq!(origin("http://localhost:80/a/b"), "http://localhost:80");
        assert_eq!(origin("https://host"), "https://host");
    }
}
