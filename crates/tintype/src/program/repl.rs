//! `tintype repl`: pictures one after the other from one set of loaded models, with LoRAs,
//! scales and settings changed in between.
//!
//! Reads lines, from a terminal or a pipe. What a line means is in `command`; a line that is no
//! command is a prompt. Results go to stdout, errors to stderr, and the session goes on after
//! them.

mod command;

use std::io::{BufRead, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tintype::{FluxPipeline, Output, Request, Seed};

use self::command::{Command, HELP};
use super::arguments::{Lora, Repl, Size};
use super::progress::Progress;
use super::{chain, model, save};

pub(crate) fn run(arguments: &Repl) -> Result<()> {
    save::check_writable(&arguments.output)?;
    let settings = Settings::new(arguments);
    let progress = Progress::new(arguments.quiet);
    let follow = Some(progress.follow());
    let request = settings.request("");
    let mut session = Session {
        pipeline: model::open(&arguments.model, &request, arguments.quiet, follow)?,
        settings,
        prompt: None,
        output: arguments.output.clone(),
        pictures: 0,
        progress,
    };
    let is_watched = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if is_watched {
        say!("a prompt draws; /help lists commands, /quit ends");
    }
    let failed = session.follow_lines(&mut std::io::stdin().lock(), is_watched)?;
    // A person has seen what failed; a script must be told.
    if failed > 0 && !is_watched {
        bail!("{failed} of the lines failed");
    }
    Ok(())
}

/// What pictures are drawn with.
struct Session {
    pipeline: FluxPipeline,
    settings: Settings,
    /// The prompt before.
    prompt: Option<String>,
    /// The path that numbers are put into.
    output: PathBuf,
    /// The number of the last picture.
    pictures: usize,
    progress: Progress,
}

/// What a person sets; the rest is the model's.
#[derive(Debug, Clone)]
struct Settings {
    size: Size,
    steps: Option<usize>,
    guidance: Option<f32>,
    seed: Option<u64>,
}

impl Settings {
    fn new(arguments: &Repl) -> Self {
        Self {
            size: arguments.size,
            steps: arguments.steps,
            guidance: arguments.guidance,
            seed: arguments.seed,
        }
    }

    fn request(&self, prompt: &str) -> Request {
        let mut request = self.size.of(Request::new(prompt));
        request.steps = self.steps;
        request.guidance_scale = self.guidance;
        request.seed = self.seed.map_or(Seed::Random, Seed::One);
        request
    }
}

impl Session {
    /// Does what lines say until they end; gives the number of those that failed.
    fn follow_lines(&mut self, lines: &mut dyn BufRead, is_watched: bool) -> Result<usize> {
        let mut failed = 0;
        loop {
            if is_watched {
                super::write(format_args!("tintype> "))?;
                std::io::stdout().flush()?;
            }
            let mut line = Vec::new();
            if lines.read_until(b'\n', &mut line).context("the input")? == 0 {
                return Ok(failed);
            }
            match self.follow_line(line) {
                Ok(true) => {}
                Ok(false) => return Ok(failed),
                Err(error) => {
                    self.progress.finish();
                    failed += 1;
                    // A closed pipe at the other end of stderr is nothing to end for.
                    let _ = writeln!(std::io::stderr(), "error: {}", chain(&error));
                }
            }
        }
    }

    /// Does what one line says; whether the session goes on.
    fn follow_line(&mut self, line: Vec<u8>) -> Result<bool> {
        let line = String::from_utf8(line).context("expected a line in UTF-8")?;
        match Command::parse(&line)? {
            Command::Prompt(prompt) => self.draw(prompt)?,
            Command::Again => {
                let prompt = self.prompt.clone();
                self.draw(prompt.context("expected a prompt, as there is none to draw again")?)?;
            }
            Command::Load(lora) => self.load(&lora)?,
            Command::Scale { name, scale } => self.scale(&name, &scale)?,
            Command::Unload(name) => {
                let change = self.pipeline.unload_lora(&name)?;
                say!("{name} off: {change}");
            }
            Command::Transformer(path) => {
                let change = self.pipeline.replace_transformer(&path)?;
                say!("{}: {change}", path.display());
            }
            Command::Steps(steps) => self.settings.steps = steps,
            Command::Seed(seed) => self.settings.seed = seed,
            Command::Guidance(guidance) => self.settings.guidance = guidance,
            Command::Tokens(tokens) => self.settings.size.max_sequence_length = tokens,
            Command::Size(size) => {
                (self.settings.size.width, self.settings.size.height) = size.unzip();
            }
            Command::Show => self.show()?,
            Command::Help => super::write(format_args!("{HELP}"))?,
            Command::Quit => return Ok(false),
        }
        Ok(true)
    }

    fn draw(&mut self, prompt: String) -> Result<()> {
        let start = Instant::now();
        let request = self.settings.request(&prompt);
        self.prompt = Some(prompt);
        let output = self.pipeline.generate_with(&request, &mut self.progress)?;
        self.progress.finish();
        let (number, path) = free_path(&self.output, self.pictures + 1);
        let paths = output.save(&path)?;
        self.pictures = number;
        for path in paths {
            say!("{} {}", path.display(), told(&output, start.elapsed()));
        }
        Ok(())
    }

    fn load(&mut self, lora: &Lora) -> Result<()> {
        let (name, report) = model::load_lora(&self.pipeline, lora)?;
        let updates: usize = report.applied.iter().map(|(_, count)| count).sum();
        say!(
            "{name} {}: {updates} updates, {}",
            lora.scale,
            report.change
        );
        Ok(())
    }

    fn scale(&mut self, name: &str, scale: &tintype::AdapterScale) -> Result<()> {
        let mut scales = self.pipeline.adapters();
        let known: Vec<&str> = scales.iter().map(|(name, _)| name.as_str()).collect();
        if !known.contains(&name) {
            let known = known.join(", ");
            bail!("/scale: expected a LoRA that is loaded ({known}), found {name}");
        }
        for (other, old) in &mut scales {
            if other == name {
                *old = scale.clone();
            }
        }
        let scales: Vec<_> = scales
            .iter()
            .map(|(name, scale)| (name.as_str(), scale))
            .collect();
        let change = self.pipeline.set_adapters(&scales)?;
        say!("{name} {scale}: {change}");
        Ok(())
    }

    fn show(&self) -> Result<()> {
        let (settings, defaults) = (&self.settings, self.pipeline.defaults());
        if let Some(prompt) = &self.prompt {
            say!("prompt    {prompt}");
        }
        say!(
            "size      {}x{}",
            settings.size.width.unwrap_or(defaults.width),
            settings.size.height.unwrap_or(defaults.height)
        );
        say!("steps     {}", settings.steps.unwrap_or(defaults.steps));
        let guidance = settings.guidance.unwrap_or(defaults.guidance_scale);
        say!("guidance  {guidance}");
        let tokens = settings.size.max_sequence_length;
        let tokens = tokens.unwrap_or(defaults.max_sequence_length);
        say!("tokens    {tokens}");
        match settings.seed {
            Some(seed) => say!("seed      {seed}"),
            None => say!("seed      random"),
        }
        for (name, scale) in self.pipeline.adapters() {
            say!("lora      {name} {scale}");
        }
        Ok(())
    }
}

/// What a picture took, as `1.23 s (load 0.50, 4 steps 0.60), seed 7`.
fn told(output: &Output, total: Duration) -> String {
    let timings = &output.timings;
    let steps: Duration = timings.steps.iter().sum();
    let count = timings.steps.len();
    let seconds = |duration: Duration| format!("{:.2}", duration.as_secs_f64());
    let seed = match &output.request.seed {
        Seed::One(seed) => seed.to_string(),
        _ => "unknown".to_owned(),
    };
    format!(
        "{} s (load {}, {count} steps {}), seed {seed}",
        seconds(total),
        seconds(timings.load),
        seconds(steps)
    )
}

/// `out-0001.png` of `out.png` and 1, or the next number that no file has.
fn free_path(output: &Path, first: usize) -> (usize, PathBuf) {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let extension = output.extension().map_or_else(
        || ".png".to_owned(),
        |extension| format!(".{}", extension.to_string_lossy()),
    );
    let path = |number: usize| output.with_file_name(format!("{stem}-{number:04}{extension}"));
    let mut number = first;
    while path(number).exists() {
        number += 1;
    }
    (number, path(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_picture_takes_the_place_of_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("fox.v2.png");
        let (number, path) = free_path(&output, 1);
        assert_eq!(
            (number, path.file_name()),
            (1, Some("fox.v2-0001.png".as_ref()))
        );
        std::fs::write(&path, b"").expect("a file");
        std::fs::write(path.with_file_name("fox.v2-0002.png"), b"").expect("a file");
        assert_eq!(free_path(&output, 1).0, 3);
        let bare = free_path(&folder.path().join("fox"), 10_000).1;
        assert_eq!(bare.file_name(), Some("fox-10000.png".as_ref()));
    }
}
