//! A file of prompts: one a line, checked before anything runs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use tintype::FluxPipeline;

/// Prompts with the lines that they stand in.
pub(crate) struct Prompts {
    pub(crate) lines: Vec<(usize, String)>,
}

impl Prompts {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let length = fs::metadata(path)
            .with_context(|| format!("{shown}: cannot be read"))?
            .len();
        ensure!(
            length <= LIMIT,
            "{shown}: expected at most {LIMIT} bytes, found {length}"
        );
        let text = fs::read_to_string(path).with_context(|| format!("{shown}: cannot be read"))?;
        let prompts = Self::parse(&text);
        if prompts.lines.is_empty() {
            bail!("{shown}: expected prompts, one a line, found none");
        }
        Ok(prompts)
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).enumerate();
        let prompts = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Self {
            lines: prompts
                .map(|(index, line)| (index + 1, line.to_owned()))
                .collect(),
        }
    }

    /// An error that names the line unless T5 reads all of each prompt.
    pub(crate) fn check(&self, path: &Path, pipeline: &FluxPipeline, tokens: usize) -> Result<()> {
        for (line, prompt) in &self.lines {
            pipeline
                .expect_whole(prompt, tokens)
                .with_context(|| format!("{}: line {line}", path.display()))?;
        }
        Ok(())
    }

    /// These without every fifth, and every fifth: at least the last.
    pub(crate) fn split(self) -> (Self, Self) {
        let count = self.lines.len();
        let is_held_out = |index: usize| index % 5 == 4 || (count < 5 && index + 1 == count);
        let (mut rest, mut held_out) = (Vec::new(), Vec::new());
        for (index, line) in self.lines.into_iter().enumerate() {
            if is_held_out(index) {
                held_out.push(line);
            } else {
                rest.push(line);
            }
        }
        (Self { lines: rest }, Self { lines: held_out })
    }
}

/// The most that is read of a file, in bytes.
const LIMIT: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_held_out() {
        let text = |count: usize| {
            let lines = (0..count).map(|index| format!("prompt {index}"));
            lines.collect::<Vec<_>>().join("\n")
        };
        let lengths = |count| {
            let (rest, held_out) = Prompts::parse(&text(count)).split();
            (rest.lines.len(), held_out.lines.len())
        };
        assert_eq!(lengths(1), (0, 1));
        assert_eq!(lengths(2), (1, 1));
        assert_eq!(lengths(5), (4, 1));
        assert_eq!(lengths(12), (10, 2));
        let parsed = Prompts::parse("# all\n\n a fox \n#b\nc\n").lines;
        assert_eq!(parsed, [(3, "a fox".to_owned()), (5, "c".to_owned())]);
    }
}
