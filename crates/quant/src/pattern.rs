//! Patterns of full names: `*` stands for any text within one part, `**` for any text.
//!
//! Parts of a name are what stands between dots. A pattern is about the whole name, so that
//! `proj_out` is the last layer of a transformer and not one in each of its blocks.
//!
//! ```
//! use tintype_quant::Pattern;
//!
//! let blocks = Pattern::new("transformer_blocks.*.attn.to_*");
//! assert!(blocks.matches("transformer_blocks.12.attn.to_q"));
//! assert!(!blocks.matches("transformer_blocks.12.attn.to_out.0"));
//! assert!(!blocks.matches("single_transformer_blocks.12.attn.to_q"));
//! assert!(Pattern::new("**.proj_out").matches("single_transformer_blocks.3.proj_out"));
//! assert!(!Pattern::new("**.proj_out").matches("proj_out"));
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// A pattern of full names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern that a text says.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `name` is as the pattern says.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Walks pattern and name together. Only the last star of each kind needs to be taken again
/// with more text: what a star before it left open, a later one can take up as well. A double
/// star takes up whatever a single one can, so it replaces it.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut single: Option<(usize, usize)> = None;
    let mut double: Option<(usize, usize)> = None;
    loop {
        if pattern[p..].starts_with(b"**") {
            p += 2;
            (single, double) = (None, Some((p, n)));
        } else if pattern.get(p) == Some(&b'*') {
            p += 1;
            single = Some((p, n));
        } else if n < name.len() && pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if n == name.len() && p == pattern.len() {
            return true;
        } else if let Some((after, taken)) = single.filter(|&(_, taken)| {
            // A single star stops before a dot.
            name.get(taken).is_some_and(|&byte| byte != b'.')
        }) {
            (p, n) = (after, taken + 1);
            single = Some((after, n));
        } else if let Some((after, taken)) = double.filter(|&(_, taken)| taken < name.len()) {
            (p, n) = (after, taken + 1);
            (single, double) = (None, Some((after, n)));
        } else {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule itself, without a thought for time.
    fn by_definition(pattern: &[u8], name: &[u8]) -> bool {
        if let Some(rest) = pattern.strip_prefix(b"**") {
            return (0..=name.len()).any(|taken| by_definition(rest, &name[taken..]));
        }
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=name.len())
                .take_while(|&taken| !name[..taken].contains(&b'.'))
                .any(|taken| by_definition(rest, &name[taken..])),
            (Some((a, pattern)), Some((b, name))) => a == b && by_definition(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn as_defined(pattern in "[ab.*]{0,8}", name in "[ab.]{0,10}") {
            prop_assert_eq!(
                Pattern::new(pattern.as_str()).matches(&name),
                by_definition(pattern.as_bytes(), name.as_bytes()),
                "{} {}", pattern, name
            );
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(40);
        assert!(!Pattern::new(pattern).matches(&"a".repeat(39)));
        let pattern = "**a".repeat(40) + "b";
        assert!(!Pattern::new(pattern).matches(&"a".repeat(2000)));
    }
}
