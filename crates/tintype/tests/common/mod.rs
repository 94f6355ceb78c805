//! Running the program on a copy of a small pipeline.
//!
//! Not a test by itself. A [`Bench`] is a temporary folder with a copy of a fixture
//! in `model`, an empty `out`, and whatever else a test puts there; the program runs
//! in it, so that paths in arguments and messages are short.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several tests, each of which uses a part; a failing test panics"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Map, Value};
use tempfile::TempDir;

/// A folder to work in.
pub struct Bench {
    folder: TempDir,
}

/// What a run of the program left.
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    /// A copy of the small pipeline `pipelines/NAME`.
    pub fn new(pipeline: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = fixtures().join("pipelines").join(pipeline);
        copy_folder(&source, &folder.path().join("model"));
        std::fs::create_dir(folder.path().join("out")).unwrap();
        Self { folder }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Runs `tintype generate` for a picture of one step at 64×64, seed 1, in
    /// `out/out.png`, save for what `arguments` say otherwise.
    pub fn generate(&self, arguments: &[&str]) -> Ran {
        let mut all = vec!["generate"];
        all.extend(arguments);
        let defaults = [
            ("--model", "model"),
            ("--height", "64"),
            ("--width", "64"),
            ("--steps", "1"),
            ("--seed", "1"),
            ("--max-sequence-length", "16"),
            ("--output", "out/out.png"),
        ];
        let is_given = |name: &str| {
            arguments
                .iter()
                .any(|one| one.split('=').next() == Some(name))
        };
        for (name, value) in defaults {
            let is_told_by_sigmas = name == "--steps" && is_given("--sigmas");
            if !is_given(name) && !is_told_by_sigmas {
                all.extend([name, value]);
            }
        }
        self.run(&all)
    }

    /// Runs the program with exactly these arguments.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(&[], arguments)
    }

    /// The same with variables of the environment.
    pub fn run_with(&self, variables: &[(&str, &Path)], arguments: &[&str]) -> Ran {
        Self::ran(self.command(variables, arguments).output().unwrap())
    }

    /// The same with lines of input.
    pub fn run_lines(&self, arguments: &[&str], lines: &[u8]) -> Ran {
        let mut command = self.command(&[], arguments);
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may end before it has read all; what it says tells.
        let _ = child.stdin.take().unwrap().write_all(lines);
        Self::ran(child.wait_with_output().unwrap())
    }

    fn command(&self, variables: &[(&str, &Path)], arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tintype"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("TINTYPE_LOG")
            .env_remove("TINTYPE_PLANS")
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.path("hub"))
            // Tests run beside each other.
            .env("RAYON_NUM_THREADS", "1")
            // Pictures are those of the CPU, whatever is installed here.
            .env("TINTYPE_TENSORRT", self.path("no library"))
            .envs(variables.iter().copied());
        command
    }

    fn ran(output: Output) -> Ran {
        Ran {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The names of the files in a folder, sorted; hidden ones too.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap()
    }

    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(path), bytes).unwrap();
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.path(path)).unwrap();
    }

    /// Keeps the first `length` bytes of a file.
    pub fn truncate(&self, path: &str, length: usize) {
        let bytes = self.read(path);
        assert!(length < bytes.len(), "{path} is short already");
        self.write(path, &bytes[..length]);
    }

    /// Copies a file of the fixtures.
    pub fn copy(&self, fixture: &str, path: &str) {
        self.write(path, std::fs::read(fixtures().join(fixture)).unwrap());
    }

    /// Changes a JSON file.
    pub fn edit_json(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.read(path)).unwrap();
        edit(&mut value);
        self.write(path, value.to_string());
    }

    /// Changes the header of a safetensors file, and the data behind it.
    pub fn edit_safetensors(
        &self,
        path: &str,
        edit: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>),
    ) {
        let bytes = self.read(path);
        let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
        let mut header: Map<String, Value> = serde_json::from_slice(header).unwrap();
        let mut data = data.to_vec();
        edit(&mut header, &mut data);
        let header = Value::from(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        self.write(path, [&length[..], header.as_bytes(), &data].concat());
    }
}

/// The recorded files that tests share.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/fixtures")
}

fn copy_folder(source: &Path, target: &Path) {
    std::fs::create_dir(target).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let target = target.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
