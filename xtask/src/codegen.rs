//! `cargo xtask codegen`: the files that are generated and committed.
//!
//! [`GENERATORS`] is the registry: a name and the function that writes the texts. A generator is
//! pure but for the programs that it runs, so `--check` can compare without writing. Each text
//! opens with the command that made it. A generator that lacks what it needs (headers, libclang)
//! is reported as skipped, by name, when checking, and fails when it was asked for.
//!
//! ```text
//! cargo xtask codegen            writes docs/cli.md and the others
//! cargo xtask codegen --check    fails if one of them is not current
//! cargo xtask codegen tensorrt --headers /opt/tensorrt/include
//! ```

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, output_of};
use crate::tensorrt::{self, Outcome};
use crate::workspace::Workspace;

/// The generators that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// `docs/cli.md`, from the program's help
    CommandLine,
    /// The ABI of TensorRT, from its headers
    Tensorrt,
}

/// One or more files and what writes them.
struct Generator {
    what: What,
    name: &'static str,
    /// The second argument holds folders of headers.
    generate: fn(&Workspace, &[PathBuf]) -> Result<Outcome>,
}

/// Every generator of the repository.
const GENERATORS: &[Generator] = &[
    Generator {
        what: What::CommandLine,
        name: "docs/cli.md",
        generate: |workspace, _| {
            let text = command_line_page(workspace)?;
            Ok(Outcome::Files(vec![("docs/cli.md".to_owned(), text)]))
        },
    },
    Generator {
        what: What::Tensorrt,
        name: "the ABI of TensorRT",
        generate: tensorrt::generate,
    },
];

/// Writes the generated files (all, or those of `what`), or compares them if `check`.
pub(crate) fn run(
    workspace: &Workspace,
    what: Option<What>,
    headers: &[PathBuf],
    check: bool,
) -> Result<()> {
    let mut stale = Vec::new();
    for generator in GENERATORS {
        if what.is_some_and(|what| what != generator.what) {
            continue;
        }
        let outcome = (generator.generate)(workspace, headers)
            .with_context(|| format!("cannot generate {}", generator.name))?;
        let files = match outcome {
            Outcome::Files(files) => files,
            Outcome::Skipped(reason) if check || what.is_none() => {
                println!("skipped: codegen of {}: {reason}", generator.name);
                continue;
            }
            Outcome::Skipped(reason) => bail!("cannot generate {}: {reason}", generator.name),
        };
        stale.extend(settle(workspace, files, check)?);
    }
    if !stale.is_empty() {
        bail!(
            "not current: {}; run `cargo xtask codegen` and commit the result",
            stale.join(", ")
        );
    }
    Ok(())
}

/// Writes the files that differ, or returns their paths if `check`.
fn settle(workspace: &Workspace, files: Vec<tensorrt::File>, check: bool) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for (name, text) in files {
        let path = workspace.root.join(&name);
        if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        if check {
            stale.push(name);
        } else {
            write(&path, &text)?;
            println!("wrote {name}");
        }
    }
    Ok(stale)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The program's help of every subcommand as one page.
fn command_line_page(workspace: &Workspace) -> Result<String> {
    output_of(cargo().args([
        "build",
        "--quiet",
        "--package",
        "tintype",
        "--bin",
        "tintype",
    ]))?;
    let program = workspace
        .target
        .join("debug")
        .join(format!("tintype{}", std::env::consts::EXE_SUFFIX));
    let help = |subcommand: Option<&str>| {
        let mut command = Command::new(&program);
        // The page must not depend on who renders it: no colours, one width, no settings.
        command
            .env_clear()
            .env("NO_COLOR", "1")
            .env("COLUMNS", "100");
        output_of(command.args(subcommand).arg("--help"))
    };
    let overview = help(None)?;
    if overview.trim().is_empty() {
        bail!("`tintype --help` prints nothing");
    }
    let mut sections = vec![("tintype".to_owned(), overview.clone())];
    for name in subcommands(&overview) {
        sections.push((format!("tintype {name}"), help(Some(name))?));
    }
    Ok(page(&sections))
}

fn page(sections: &[(String, String)]) -> String {
    let mut text = "<!-- Generated by `cargo xtask codegen`; change the program instead. -->\n\
                    # The command line\n"
        .to_owned();
    for (title, help) in sections {
        let lines = help.trim_end().lines().map(str::trim_end);
        let help = lines.collect::<Vec<_>>().join("\n");
        // Writing to a string cannot fail.
        let _ = write!(text, "\n## `{title}`\n\n```text\n{help}\n```\n");
    }
    text
}

/// The names listed under `Commands:` but for `help` itself.
fn subcommands(help: &str) -> Vec<&str> {
    help.lines()
        .skip_while(|line| line.trim() != "Commands:")
        .skip(1)
        .take_while(|line| !line.trim().is_empty())
        // Continuation lines of a description are indented further than names.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Compiles diffusion models\n\nUsage: tintype <COMMAND>\n\nCommands:\n  \
        generate  Writes pictures\n              in a second line\n  doctor    Looks around\n  \
        help      Print this message\n\nOptions:\n  -h, --help  Print help\n";

    #[test]
    fn subcommands_are_those_under_the_heading() {
        assert_eq!(subcommands(HELP), ["generate", "doctor"]);
        assert!(subcommands("Usage: tintype\n").is_empty());
    }

    #[test]
    fn a_page_has_a_section_for_each_help() {
        let text = page(&[("tintype".into(), "a  \nb\n\n".into())]);
        assert!(text.ends_with("# The command line\n\n## `tintype`\n\n```text\na\nb\n```\n"));
        assert!(text.starts_with("<!-- Generated by"));
    }

    #[test]
    fn every_generator_has_its_own_name() {
        let mut names = GENERATORS.iter().map(|g| g.name).collect::<Vec<_>>();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), GENERATORS.len());
    }
}
