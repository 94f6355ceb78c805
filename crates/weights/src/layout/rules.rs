//! Applies a table of renamings and views, and keeps account of every name.
//!
//! ```text
//! img_attn.proj.weight → attn.to_out.0.weight
//! img_attn.qkv.weight  → attn.to_q.weight (rows 0..D), attn.to_k.weight (D..2D), …
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Converted;
use crate::entry::Entries;
use crate::error::shown;
use crate::parameters::insert_new;
use crate::{Error, Parameters, Result, View};

/// A conversion under way.
pub(super) struct Conversion<'a> {
    from: &'a Parameters,
    entries: Entries,
    used: BTreeSet<String>,
}

impl<'a> Conversion<'a> {
    pub(super) fn new(from: &'a Parameters) -> Self {
        Self {
            from,
            entries: Entries::new(),
            used: BTreeSet::new(),
        }
    }

    /// `old` under the name `new`; an error if it is missing.
    pub(super) fn rename(&mut self, old: &str, new: &str) -> Result<()> {
        let entry = Arc::clone(self.from.entry(old)?);
        self.used.insert(old.to_owned());
        insert_new(&mut self.entries, new, entry)
    }

    /// `old` seen through `view` under the name `new`.
    pub(super) fn view(&mut self, old: &str, new: &str, view: View) -> Result<()> {
        let entry = self.from.entry(old)?.viewed(old, view)?;
        self.used.insert(old.to_owned());
        insert_new(&mut self.entries, new, entry)
    }

    /// `.weight` and `.bias` of a linear or convolution.
    pub(super) fn rename_module(&mut self, old: &str, new: &str) -> Result<()> {
        for part in ["weight", "bias"] {
            self.rename(&format!("{old}.{part}"), &format!("{new}.{part}"))?;
        }
        self.input_scale(old, &[new])
    }

    /// The scale of the input that a scaled FP8 file may give for `old`, for each of `new`.
    fn input_scale(&mut self, old: &str, new: &[&str]) -> Result<()> {
        for suffix in INPUT_SCALES {
            let name = format!("{old}.{suffix}");
            if !self.from.contains(&name) {
                continue;
            }
            self.used.insert(name.clone());
            for new in new {
                let entry = Arc::clone(self.from.entry(&name)?);
                insert_new(
                    &mut self.entries,
                    format!("{new}.{}", INPUT_SCALES[0]),
                    entry,
                )?;
            }
        }
        Ok(())
    }

    /// The rows of a fused linear, split into parts of the given heights, which
    /// must take up all rows.
    pub(super) fn split_module(&mut self, old: &str, parts: &[(&str, usize)]) -> Result<()> {
        let total: usize = parts.iter().map(|part| part.1).sum();
        for kind in ["weight", "bias"] {
            let old = format!("{old}.{kind}");
            let rows = self.rows(&old)?;
            if rows != total {
                let entry = self.from.entry(&old)?;
                return Err(Error::Parameter {
                    origin: entry.source.base().origin(),
                    tensor: shown(&old),
                    expected: format!("{total} rows"),
                    found: format!("{rows}"),
                });
            }
            let mut start = 0;
            for (new, height) in parts {
                let end = start + height;
                self.view(&old, &format!("{new}.{kind}"), View::Rows { start, end })?;
                start = end;
            }
        }
        let new: Vec<&str> = parts.iter().map(|part| part.0).collect();
        self.input_scale(old, &new)
    }

    /// The size of the outermost axis.
    pub(super) fn rows(&self, name: &str) -> Result<usize> {
        let shape = self.from.shape(name)?;
        shape.first().copied().ok_or_else(|| Error::Parameter {
            origin: self.from.origin(),
            tensor: shown(name),
            expected: "a tensor with rows".to_owned(),
            found: format!("shape {shape}"),
        })
    }

    /// How many numbered blocks there are under `prefix`: one past the highest.
    /// A gap shows as a missing tensor when that block is converted. A number
    /// beyond what the parameters could hold is an error here.
    pub(super) fn count(&self, prefix: &str) -> Result<usize> {
        let numbers = self.from.names().filter_map(|name| {
            let (number, _) = name.strip_prefix(prefix)?.split_once('.')?;
            number.parse::<usize>().ok()
        });
        let highest = numbers.max();
        match highest {
            Some(highest) if highest >= self.from.len() => Err(Error::Missing {
                origin: self.from.origin(),
                tensor: format!("{prefix}0…{}", highest - 1),
                count: self.from.len(),
            }),
            _ => Ok(highest.map_or(0, |highest| highest + 1)),
        }
    }

    pub(super) fn finish(self) -> Converted {
        let rest = self.from.names().filter(|name| !self.used.contains(*name));
        let (ignored, unknown) = rest.map(str::to_owned).partition(|name| is_needless(name));
        Converted {
            parameters: Parameters::from_entries(self.entries),
            ignored,
            unknown,
        }
    }
}

/// How files name the scale of what a linear reads; the first is diffusers' way.
const INPUT_SCALES: [&str; 2] = ["input_scale", "scale_input"];

/// Marks and scales of activations that scaled FP8 files carry.
fn is_needless(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(
        last,
        "scaled_fp8" | "scale_input" | "input_scale" | "comfy_quant"
    )
}
