//! Files of cases: each begins with a line `; test: …`, holds a graph, and after `; expect:` what
//! is expected of it, up to the next.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;

/// A case of a file.
pub(crate) struct Case {
    /// Comment lines before it, the line of the test and the graph, as they stand there.
    pub(crate) given: String,
    /// What stands after `; test:`.
    pub(crate) test: String,
    pub(crate) expected: String,
}

/// The files of a folder beside this one, in order of their names.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/lowering")
        .join(folder);
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "tt"));
    files.sort();
    files
}

/// The cases of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Case>, Failed> {
    let text = fs::read_to_string(path)?;
    let (mut cases, mut comments) = (Vec::<Case>::new(), String::new());
    let mut expects = true;
    for line in text.lines() {
        if let Some(test) = line.strip_prefix("; test:") {
            cases.push(Case {
                given: std::mem::take(&mut comments),
                test: test.trim().to_owned(),
                expected: String::new(),
            });
            expects = false;
        }
        if expects && line.starts_with(';') {
            // A comment after an expectation belongs to the case that follows.
            comments.push_str(line);
            comments.push('\n');
            continue;
        }
        let case = cases
            .last_mut()
            .ok_or("the file does not begin with `; test:`")?;
        if line.trim_end() == "; expect:" {
            expects = true;
            continue;
        }
        let part = if expects {
            &mut case.expected
        } else {
            &mut case.given
        };
        part.push_str(line);
        part.push('\n');
    }
    Ok(cases)
}
