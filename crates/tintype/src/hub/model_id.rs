//! A model's name on the hub: `org/name`, optionally `@revision`.
//!
//! The parser is the only gate between what a user typed and paths in the cache, so it admits
//! what the hub admits and nothing that could climb out of a folder.
//!
//! ```text
//! black-forest-labs/FLUX.1-dev           branch main
//! black-forest-labs/FLUX.1-dev@refs/pr/3
//! ```

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// A repository on the hub and one of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelId {
    /// `org/name`.
    pub(crate) name: String,
    /// A branch, a tag or a commit.
    pub(crate) revision: String,
}

impl FromStr for ModelId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts = name.split('/').collect::<Vec<_>>();
        if parts.len() != 2 || !parts.iter().all(|part| is_safe_part(part)) {
            bail!(
                "no such file or folder: {text} (a model on the hub is named org/name or \
                 org/name@revision)"
            );
        }
        if !revision.split('/').all(is_safe_part) {
            bail!("{text}: expected a branch, tag or commit after @, found `{revision}`");
        }
        Ok(Self {
            name: name.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)?;
        if self.revision != "main" {
            write!(formatter, "@{}", self.revision)?;
        }
        Ok(())
    }
}

/// One part of a path that is safe as a file name and in a URL without escaping.
pub(crate) fn is_safe_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 128
        && !part.starts_with(['.', '-'])
        && !part.contains("..")
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_revisions_are_split() {
        let model: ModelId = "org/FLUX.1-dev".parse().unwrap();
        assert_eq!((&*model.name, &*model.revision), ("org/FLUX.1-dev", "main"));
        let model: ModelId = "org/name@refs/pr/3".parse().unwrap();
        assert_eq!(model.revision, "refs/pr/3");
        assert_eq!(model.to_string(), "org/name@refs/pr/3");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "name",
            "a/b/c",
            "./a",
            "/a",
            "../a",
            "a/..",
            "a/b c",
            "a//b",
            "a/b?c",
            "a/b@",
            "a/b@../x",
            "a/b@x/../y",
            "a/b@/x",
            "-a/b",
            "a/b%2f",
        ] {
            assert!(text.parse::<ModelId>().is_err(), "`{text}` was accepted");
        }
    }
}
