//! Rules on files: length, module headers, unsafe code, examples, licences, size, words.
//!
//! Text rules apply to sources and prose (Rust, Markdown, TOML, shell, Python), not to data.
//!
//! ```text
//! warning: crates/ir/src/verify.rs: 512 lines (500 is a reason to split by concept)
//! error: crates/ir/src/op.rs: expected a `//!` header that says what this is
//! ```

use std::path::Path;

use super::{Finding, packed};
use crate::workspace::{Package, Workspace};

/// A file of the repository.
pub(super) struct SourceFile {
    /// The path below the root, with `/`.
    path: String,
    size: usize,
    /// The content of files that the text rules apply to.
    text: Option<String>,
    /// The content of files of the model inside the program.
    model: Option<Vec<u8>>,
}

impl SourceFile {
    pub(super) fn new(path: &str, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            size: bytes.len(),
            model: packed::is_in_model(path).then(|| bytes.clone()),
            text: String::from_utf8(bytes).ok().filter(|_| is_prose(path)),
        }
    }

    fn is_rust(&self) -> bool {
        has_extension(&self.path, &["rs"])
    }

    /// Tests may be long: they are read one at a time.
    fn is_test(&self) -> bool {
        self.path
            .split('/')
            .any(|part| part == "tests" || part == "tests.rs")
    }
}

/// Crates that may have unsafe code all over.
const UNSAFE_CRATES: [&str; 4] = [
    "tintype-tensorrt-sys",
    "tintype-tensorrt",
    "tintype-device",
    "tintype-cuda",
];

/// Crates with one function of unsafe code, which they allow at that place.
const ONE_UNSAFE_FUNCTION: [&str; 2] = ["tintype-cpu", "tintype-weights"];

const LICENCE: &str = "MIT OR Apache-2.0";
const LICENCE_FILES: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];

const LONG: usize = 500;
const TOO_LONG: usize = 700;
const TOO_LARGE: usize = 2 << 20;

/// Words that no committed text has, and why. They are written in two parts, or this file would
/// be the first to break the rule.
const FORBIDDEN: [(&str, &str); 9] = [
    (concat!("TO", "DO"), UNFINISHED),
    (concat!("FIX", "ME"), UNFINISHED),
    (concat!("crates", ".io"), REGISTRY),
    (concat!("pypi", ".org"), REGISTRY),
    (concat!("pythonhosted", ".org"), REGISTRY),
    (concat!("npmjs", ".com"), REGISTRY),
    (concat!("/work", "/"), ABSOLUTE),
    (concat!("/opt", "/venv"), ABSOLUTE),
    (concat!("/root", "/"), ABSOLUTE),
];
const UNFINISHED: &str = "is not for committed code";
const REGISTRY: &str = "names a package registry's host";
const ABSOLUTE: &str = "is a path of one machine";

/// Checks each file by itself.
pub(super) fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        if file.size > TOO_LARGE && !packed::is_in_model(&file.path) {
            let message = format!("{} bytes, expected at most {TOO_LARGE}", file.size);
            findings.push(Finding::error(&file.path, message));
        }
        let Some(text) = &file.text else { continue };
        findings.extend(check_words(&file.path, text));
        if file.is_rust() {
            findings.extend(check_header(&file.path, text));
            findings.extend(check_length(file, text));
        }
    }
    let model = files
        .iter()
        .filter_map(|file| Some((file.path.as_str(), file.model.as_deref()?)));
    findings.extend(packed::check(model));
    for licence in LICENCE_FILES {
        if !files.iter().any(|file| file.path == licence) {
            findings.push(Finding::error(licence, "the licence's text is missing"));
        }
    }
    findings
}

fn check_words(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (word, reason) in FORBIDDEN {
            if contains_word(line, word) {
                let place = format!("{path}:{}", index + 1);
                findings.push(Finding::error(place, format!("`{word}` {reason}")));
            }
        }
    }
    findings
}

/// Whether `word` stands by itself: `framework/x` has no absolute path in it.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        let ends_open = word.ends_with('/') || !after.is_some_and(is_part);
        let is_relative = word.starts_with('/') && before == Some('.');
        !before.is_some_and(is_part) && ends_open && !is_relative
    })
}

fn check_header(path: &str, text: &str) -> Option<Finding> {
    let first = text.lines().find(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("#![") && !line.starts_with("#!/")
    });
    let has_header = first.is_some_and(|line| line.starts_with("//!"));
    (!has_header).then(|| Finding::error(path, "expected a `//!` header that says what this is"))
}

fn check_length(file: &SourceFile, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let is_generated = text
        .lines()
        .take(3)
        .any(|line| line.contains("Generated by"));
    if file.is_test() || is_generated || lines <= LONG {
        return None;
    }
    if lines > TOO_LONG {
        let message = format!("{lines} lines, expected at most {TOO_LONG}; split it by concept");
        return Some(Finding::error(&file.path, message));
    }
    let message = format!("{lines} lines ({LONG} is a reason to split by concept)");
    Some(Finding::warning(&file.path, message))
}

/// Checks what each package must have: licence, a ban on unsafe code, an example.
pub(super) fn check_packages(workspace: &Workspace, files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        let place = workspace.relative(&package.manifest_path).display();
        if package.license.as_deref() != Some(LICENCE) {
            let found = package.license.as_deref().unwrap_or("none");
            let message = format!("expected the licence `{LICENCE}`, found `{found}`");
            findings.push(Finding::error(&place, message));
        }
        if package.is_public() && package.targets_of("example").next().is_none() {
            let message = format!("{} has no examples/*.rs", package.name);
            findings.push(Finding::error(&place, message));
        }
        findings.extend(check_unsafe_code(workspace, package, files));
    }
    findings
}

fn check_unsafe_code(
    workspace: &Workspace,
    package: &Package,
    files: &[SourceFile],
) -> Vec<Finding> {
    let name = package.name.as_str();
    if UNSAFE_CRATES.contains(&name) {
        return Vec::new();
    }
    let expected = if ONE_UNSAFE_FUNCTION.contains(&name) {
        "#![deny(unsafe_code)]"
    } else {
        "#![forbid(unsafe_code)]"
    };
    let roots = package.targets_of("lib").chain(package.targets_of("bin"));
    let lacks_it = |path: &Path| {
        let path = path.to_string_lossy().replace('\\', "/");
        let text = files
            .iter()
            .find(|file| file.path == path)
            .and_then(|file| file.text.as_deref());
        !text
            .is_some_and(|text| text.contains(expected) || text.contains("#![forbid(unsafe_code)]"))
    };
    roots
        .map(|target| workspace.relative(&target.src_path))
        .filter(|path| lacks_it(path))
        .map(|path| Finding::error(path.display(), format!("expected `{expected}`")))
        .collect()
}

fn is_prose(path: &str) -> bool {
    let is_lock = path.ends_with("Cargo.lock");
    path == ".ci/run"
        || (!is_lock && has_extension(path, &["rs", "md", "toml", "sh", "py", "yml", "yaml"]))
}

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    let extension = Path::new(path).extension();
    extension.is_some_and(|found| extensions.iter().any(|extension| found == *extension))
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
