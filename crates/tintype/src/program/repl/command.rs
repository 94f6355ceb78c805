//! What a line of a session means. Does nothing.
//!
//! ```text
//! a red fox in the snow          draws it
//! /scale style 0.5 double=0.2    a command
//! ```

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tintype::AdapterScale;

use crate::program::arguments::{Lora, lora};

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// Draw this.
    Prompt(String),
    /// Draw the prompt before again.
    Again,
    /// Load a LoRA.
    Load(Lora),
    /// Give a LoRA another scale; the others keep theirs.
    Scale {
        name: String,
        scale: AdapterScale,
    },
    /// Take a LoRA off.
    Unload(String),
    /// Take the transformer's weights from another file.
    Transformer(PathBuf),
    /// Nothing given is the model's default, here and below.
    Steps(Option<usize>),
    /// Random if nothing is given.
    Seed(Option<u64>),
    /// Width, height.
    Size(Option<(usize, usize)>),
    Guidance(Option<f32>),
    Tokens(Option<usize>),
    Show,
    Help,
    Quit,
}

impl Command {
    /// Reads a line. What does not begin with a slash is a prompt, but for `help`, `show`,
    /// `quit` and `exit` alone, which nobody wants drawn.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return Ok(match line {
                "" => Self::Again,
                "help" | "?" => Self::Help,
                "show" => Self::Show,
                "quit" | "exit" => Self::Quit,
                prompt => Self::Prompt(prompt.to_owned()),
            });
        };
        let (name, rest) = command
            .split_once(char::is_whitespace)
            .unwrap_or((command, ""));
        let command = Self::named(name, rest.trim());
        command.with_context(|| format!("/{name}"))
    }

    fn named(name: &str, rest: &str) -> Result<Self> {
        let nothing = || ensure_empty(rest);
        Ok(match name {
            "prompt" => Self::Prompt(required(rest, "a prompt")?.to_owned()),
            "lora" => {
                let rest = required(rest, "FILE|NAME[=SCALE]")?;
                Self::Load(lora(rest).map_err(|error| anyhow!(error))?)
            }
            "scale" => scale(rest)?,
            "unload" => Self::Unload(required(rest, "the name of a LoRA")?.to_owned()),
            "transformer" => Self::Transformer(required(rest, "FILE")?.into()),
            "steps" => Self::Steps(number(rest)?),
            "seed" => Self::Seed(if rest == "random" {
                None
            } else {
                number(rest)?
            }),
            "size" => Self::Size(size(rest)?),
            "guidance" => Self::Guidance(number(rest)?),
            "tokens" => Self::Tokens(number(rest)?),
            "show" => nothing().map(|()| Self::Show)?,
            "help" => nothing().map(|()| Self::Help)?,
            "quit" | "exit" => nothing().map(|()| Self::Quit)?,
            _ => bail!("expected a command, as /help lists them; /prompt draws any text"),
        })
    }
}

fn scale(rest: &str) -> Result<Command> {
    let expected = "NAME SCALE [PLACE=FACTOR …]";
    let (name, scale) = rest
        .split_once(char::is_whitespace)
        .with_context(|| format!("expected {expected}, found `{rest}`"))?;
    let scale: Result<AdapterScale, String> = scale.parse();
    Ok(Command::Scale {
        name: name.to_owned(),
        scale: scale.map_err(|error| anyhow!(error))?,
    })
}

/// `WIDTHxHEIGHT`, or one side of a square.
fn size(rest: &str) -> Result<Option<(usize, usize)>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (width, height) = rest.split_once(['x', '×']).unwrap_or((rest, rest));
    match (width.trim().parse(), height.trim().parse()) {
        (Ok(width), Ok(height)) => Ok(Some((width, height))),
        _ => bail!("expected WIDTHxHEIGHT in pixels, found `{rest}`"),
    }
}

fn number<N: std::str::FromStr>(rest: &str) -> Result<Option<N>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let number = rest.parse().ok();
    let found = || format!("expected a number, or nothing for the default, found `{rest}`");
    number.with_context(found).map(Some)
}

fn required<'a>(rest: &'a str, expected: &str) -> Result<&'a str> {
    ensure!(!rest.is_empty(), "expected {expected}, found nothing");
    Ok(rest)
}

fn ensure_empty(rest: &str) -> Result<()> {
    ensure!(rest.is_empty(), "expected nothing more, found `{rest}`");
    Ok(())
}

/// What `/help` says.
pub(super) const HELP: &str = "\
TEXT                       draw it
(an empty line)            draw the prompt before again
/prompt TEXT               draw it, also where it looks like a command
/lora FILE|NAME[=SCALE]    load a LoRA, on top of those there are
/scale NAME SCALE [PLACE=FACTOR …]
                           another scale; a place is transformer, text_encoder, text_encoder_2,
                           double, single, double.3 or single.0-9
/unload NAME               take a LoRA off
/transformer FILE          other weights of the same shapes
/steps [N]                 nothing after it is the model's default, here and below
/size [WIDTHxHEIGHT]
/guidance [SCALE]
/tokens [N]                that T5 sees
/seed [N|random]
/show                      what is set
/quit
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Command {
        Command::parse(line).unwrap()
    }

    #[test]
    fn lines_are_prompts_unless_they_begin_with_a_slash() {
        let prompt = |text: &str| Command::Prompt(text.to_owned());
        assert_eq!(parsed(" size matters \n"), prompt("size matters"));
        assert_eq!(parsed("help me"), prompt("help me"));
        assert_eq!(parsed("/prompt /a/b"), prompt("/a/b"));
        assert_eq!(parsed("\r\n"), Command::Again);
        assert_eq!(parsed("quit\n"), Command::Quit);
        assert_eq!(parsed("/help"), Command::Help);
    }

    #[test]
    fn commands_take_what_they_need() {
        assert_eq!(parsed("/steps 4"), Command::Steps(Some(4)));
        assert_eq!(parsed("/steps"), Command::Steps(None));
        assert_eq!(parsed("/seed random"), Command::Seed(None));
        assert_eq!(
            parsed("/seed 18446744073709551615"),
            Command::Seed(Some(u64::MAX))
        );
        assert_eq!(parsed("/size 96x64"), Command::Size(Some((96, 64))));
        assert_eq!(parsed("/size 64"), Command::Size(Some((64, 64))));
        assert_eq!(parsed("/guidance -1.5"), Command::Guidance(Some(-1.5)));
        let Command::Load(lora) = parsed("/lora my style.safetensors=0.5") else {
            panic!("no LoRA")
        };
        assert_eq!(
            (lora.file, lora.scale),
            ("my style.safetensors".into(), 0.5)
        );
        let scale = AdapterScale::new(2.0).block(tintype::Blocks::Single, 3, 0.0);
        let name = "a".to_owned();
        assert_eq!(
            parsed("/scale a 2 single.3=0"),
            Command::Scale { name, scale }
        );
    }

    #[test]
    fn what_means_nothing_is_told() {
        for (line, expected) in [
            ("/draw fox", "/draw: expected a command"),
            ("/steps four", "/steps: expected a number"),
            ("/size 64y64", "/size: expected WIDTHxHEIGHT"),
            ("/lora", "/lora: expected FILE|NAME[=SCALE]"),
            ("/lora a=inf", "/lora: expected a finite scale"),
            ("/scale a", "/scale: expected NAME SCALE"),
            ("/scale a loud", "/scale: expected a finite number"),
            ("/quit now", "/quit: expected nothing more"),
        ] {
            let error = format!("{:#}", Command::parse(line).unwrap_err());
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
