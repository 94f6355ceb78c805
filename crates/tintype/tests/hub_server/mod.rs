//! A hub on loopback: the three addresses that a download uses, and the troubles it may meet.
//!
//! It is no general HTTP server: one request a connection, no bodies in requests.

#![allow(clippy::unwrap_used)] // A test helper outside of any test function.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The only commit there is.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong.
#[derive(Clone, Default)]
pub(crate) struct Trouble {
    /// The list of files has names alone.
    pub(crate) is_terse: bool,
    /// So many transfers of large files end early.
    pub(crate) broken_transfers: usize,
    /// Where broken transfers end; a little after their start if absent.
    pub(crate) stops_at: Option<usize>,
    /// `Range` is not understood.
    pub(crate) ignores_ranges: bool,
    /// This file arrives with one byte changed.
    pub(crate) damages: Option<&'static str>,
    /// This file is shorter than stated.
    pub(crate) shortens: Option<&'static str>,
    /// Requests without this token are refused.
    pub(crate) needs_token: Option<&'static str>,
    /// So many answers are `503`.
    pub(crate) busy_answers: usize,
}

/// The running server; its thread ends with the test process.
pub(crate) struct HubServer {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    files: BTreeMap<&'static str, Vec<u8>>,
    etags: BTreeMap<&'static str, String>,
    trouble: Mutex<Trouble>,
    requests: Mutex<Vec<Request>>,
}

#[derive(Clone)]
struct Request {
    method: String,
    path: String,
    range: Option<usize>,
    token: Option<String>,
}

impl HubServer {
    /// Starts a server on a free port.
    pub(crate) fn start(trouble: Trouble) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = pipeline();
        let etags = files
            .iter()
            .map(|(name, content)| (*name, etag(content)))
            .collect();
        let shared = Arc::new(Shared {
            files,
            etags,
            trouble: Mutex::new(trouble),
            requests: Mutex::default(),
        });
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                std::thread::spawn(move || server.serve(stream));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn files(&self) -> &BTreeMap<&'static str, Vec<u8>> {
        &self.shared.files
    }

    pub(crate) fn file(&self, name: &str) -> &Vec<u8> {
        &self.shared.files[name]
    }

    pub(crate) fn etag(&self, name: &str) -> &str {
        &self.shared.etags[name]
    }

    /// Every request as `METHOD /path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let requests = self.shared.requests.lock().unwrap();
        requests
            .iter()
            .map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }

    /// The starts of the ranges asked of one file.
    pub(crate) fn ranges_of(&self, name: &str) -> Vec<Option<usize>> {
        let path = format!("/cdn/{name}");
        let requests = self.shared.requests.lock().unwrap();
        let of_file = requests.iter().filter(|request| request.path == path);
        of_file.map(|request| request.range).collect()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let Some(request) = read_request(&stream) else {
            return;
        };
        self.requests.lock().unwrap().push(request.clone());
        let answer = self.answer(&request);
        let _ = stream.write_all(&answer);
    }

    fn answer(&self, request: &Request) -> Vec<u8> {
        let mut trouble = self.trouble.lock().unwrap();
        if trouble.busy_answers > 0 {
            trouble.busy_answers -= 1;
            return response("503 Service Unavailable", "", b"");
        }
        let path = request.path.as_str();
        if let Some(name) = path.strip_prefix("/cdn/") {
            return self.transfer(request, name, &mut trouble);
        }
        match (trouble.needs_token, &request.token) {
            (Some(_), None) => return response("401 Unauthorized", "", b"log in"),
            (Some(needed), Some(token)) if needed != token => {
                return response("403 Forbidden", "", b"gated");
            }
            _ => {}
        }
        match path.strip_prefix("/org/flux/resolve/") {
            Some(file) => self.resolve(request, file, &mut trouble),
            None => self.list(path, trouble.is_terse),
        }
    }

    fn list(&self, path: &str, is_terse: bool) -> Vec<u8> {
        let (sha, names): (_, Vec<&str>) = match path {
            "/api/models/org/flux/revision/main?blobs=true" => {
                (COMMIT, self.files.keys().copied().collect())
            }
            "/api/models/org/other/revision/main?blobs=true" => (COMMIT, vec!["pytorch_model.bin"]),
            "/api/models/org/hostile/revision/main?blobs=true" => {
                ("../../../evil", vec!["model_index.json"])
            }
            _ => return response("404 Not Found", "", b"{\"error\": \"not found\"}"),
        };
        let siblings = names.iter().map(|name| match self.files.get(name) {
            Some(content) if !is_terse => self.sibling(name, content),
            _ => serde_json::json!({"rfilename": name}),
        });
        let body = serde_json::json!({"sha": sha, "siblings": siblings.collect::<Vec<_>>()});
        response("200 OK", "", body.to_string().as_bytes())
    }

    fn sibling(&self, name: &str, content: &[u8]) -> serde_json::Value {
        let mut sibling = serde_json::json!({
            "rfilename": name, "size": content.len(), "blobId": git_hash(content),
        });
        if is_large(content) {
            let sha256 = &self.etags[name];
            sibling["lfs"] = serde_json::json!({"sha256": sha256, "size": content.len()});
        }
        sibling
    }

    /// Large files are redirected to another address, as the hub does.
    fn resolve(&self, request: &Request, path: &str, trouble: &mut Trouble) -> Vec<u8> {
        let file = path
            .strip_prefix(COMMIT)
            .and_then(|rest| rest.strip_prefix('/'));
        let Some((name, content)) = file.and_then(|name| self.files.get_key_value(name)) else {
            return response("404 Not Found", "", b"");
        };
        if !is_large(content) {
            return self.transfer(request, name, trouble);
        }
        let headers = format!(
            "X-Repo-Commit: {COMMIT}\r\nX-Linked-Size: {}\r\nX-Linked-Etag: \"{}\"\r\n\
             ETag: \"ignored\"\r\nLocation: /cdn/{name}\r\n",
            content.len(),
            self.etags[name]
        );
        if request.method == "HEAD" {
            // The hub names the other host in full; only then is the redirect not followed.
            let headers = headers.replace("Location: ", "Location: http://cdn.invalid");
            return response("302 Found", &headers, b"");
        }
        response("302 Found", &headers, b"")
    }

    fn transfer(&self, request: &Request, name: &str, trouble: &mut Trouble) -> Vec<u8> {
        let mut content = self.files[name].clone();
        if trouble.damages == Some(name) {
            content[0] ^= 1;
        }
        if trouble.shortens == Some(name) {
            content.truncate(content.len() / 2);
        }
        let total = content.len();
        let start = request
            .range
            .filter(|_| !trouble.ignores_ranges)
            .unwrap_or(0);
        let mut headers = format!(
            "ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n",
            self.etags[name]
        );
        if start > 0 {
            let _ = write!(
                headers,
                "Content-Range: bytes {start}-{}/{total}\r\n",
                total - 1
            );
        }
        let status = if start > 0 {
            "206 Partial Content"
        } else {
            "200 OK"
        };
        let mut answer = response(status, &headers, &content[start..]);
        let head = answer.len() - (total - start);
        if request.method == "HEAD" {
            answer.truncate(head);
        } else if is_large(&content) && trouble.broken_transfers > 0 {
            trouble.broken_transfers -= 1;
            let end = trouble
                .stops_at
                .map_or(total / 3, |end| end.saturating_sub(start));
            answer.truncate(head + end);
        }
        answer
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let mut request = Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        range: None,
        token: None,
    };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let start = value.strip_prefix("bytes=")?.strip_suffix('-')?;
                request.range = Some(start.parse().ok()?);
            }
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Some(request)
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn pipeline() -> BTreeMap<&'static str, Vec<u8>> {
    let index = r#"{"_class_name": "FluxPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": [null, null], "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"]}"#;
    let large: Vec<u8> = (0..40_000_u32).map(|index| (index % 251) as u8).collect();
    let other: Vec<u8> = (0..20_000_u32).map(|index| (index % 241) as u8).collect();
    BTreeMap::from([
        ("README.md", b"# A model".to_vec()),
        ("flux1-dev.safetensors", vec![1; 30_000]),
        ("model_index.json", index.as_bytes().to_vec()),
        ("scheduler/scheduler_config.json", b"{}".to_vec()),
        ("tokenizer/merges.txt", Vec::new()),
        ("transformer/config.json", b"{\"num_layers\": 1}".to_vec()),
        ("transformer/diffusion_pytorch_model.safetensors", large),
        ("vae/config.json", b"{\"latent_channels\": 16}".to_vec()),
        ("vae/diffusion_pytorch_model.safetensors", other),
    ])
}

/// Files of this size are stored outside git.
fn is_large(content: &[u8]) -> bool {
    content.len() > 10_000
}

fn etag(content: &[u8]) -> String {
    if is_large(content) {
        hexadecimal(&Sha256::digest(content))
    } else {
        git_hash(content)
    }
}

fn git_hash(content: &[u8]) -> String {
    let mut hasher = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
    hasher.update(content);
    hexadecimal(&hasher.finalize())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
