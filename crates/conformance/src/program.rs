//! The program: arguments, and sections one after another.
//!
//! A section says what it found to a [`Report`] and knows nothing of the others. One that cannot
//! run says `skipped`, why, and how many cases that are.

mod engine;
mod flux;
mod full;
mod machine;
mod models;
mod mutable;
mod operations;
mod picture;
mod plans;
mod promises;
mod recordings;
mod refits;
mod report;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use tintype_backend::Backend;
use tintype_tensorrt::Target;

use machine::{Found, Machine};
use report::{Label, Report};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs all cases on the backends that are there, and prints how far results are apart.
///
/// Ends with 1 if a case fails, and with 2 if the program cannot run at all.
#[derive(Debug, Parser)]
#[command(version)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
pub(crate) struct Arguments {
    /// Only these sections, see --list
    #[arg(long, value_name = "SECTION", value_delimiter = ',')]
    only: Vec<String>,
    /// Only cases whose name contains this
    #[arg(
        long,
        default_value = "",
        value_name = "TEXT",
        hide_default_value = true
    )]
    filter: String,
    /// Only these backends: cpu, tensorrt, cuda
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    backend: Vec<String>,
    /// On the backend cuda, run steps side by side that do not depend on each other
    #[arg(long)]
    branches: bool,
    /// Build plans for another architecture than the GPU's own, which it must be able to run
    #[arg(long, value_name = "sm80")]
    target: Option<Target>,
    /// How weights of f8 come into engines of TensorRT: as codes, which TensorRT-RTX takes from 1.7
    /// on, or as bf16 numbers of which the network makes codes
    #[arg(long, value_name = "FORM", default_value = "auto",
        value_parser = ["auto", "codes", "widened"])]
    f8_weights: String,
    /// The folder of recorded cases
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Keep plans here for the next run
    #[arg(long, value_name = "DIR")]
    plans: Option<PathBuf>,
    /// Write what was found here, anew after each section
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run the whole of FLUX.1-dev with random weights, too; it needs a GPU with 80 GB
    #[arg(long)]
    flux: bool,
    /// Begin nothing new in the section flux after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 540)]
    flux_limit: u64,
    /// Build the plans of the section flux, and run nothing
    #[arg(long)]
    flux_plans: bool,
    /// Image tokens of FLUX.1-dev: 4096 are 1024×1024 pixels
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    flux_tokens: usize,
    /// Build the plans of the whole of FLUX.1-dev, too; it takes minutes
    #[arg(long)]
    include_slow: bool,
    #[command(flatten)]
    full: full::Options,
    /// Compare the CPU with itself where another backend would be compared with it, so that no
    /// time on a GPU is lost to a mistake in the program
    #[arg(long)]
    rehearse: bool,
    /// Fail if nothing can be run on a GPU
    #[arg(long)]
    require_gpu: bool,
    /// List the sections
    #[arg(long)]
    list: bool,
}

/// A section: its name, what it shows, and what runs it.
struct Section {
    name: &'static str,
    about: &'static str,
    /// Whether it runs without being named.
    is_usual: fn(&Arguments) -> bool,
    run: fn(&Machine, &Arguments, &mut Report) -> Result<()>,
}

const SECTIONS: [Section; 17] = [
    Section {
        name: "engine",
        about: "TensorRT's engines on a GPU: loading, runs, refits, what bad input gets",
        is_usual: |_| true,
        run: engine::run,
    },
    Section {
        name: "operations",
        about: "every operation in every dtype against the CPU",
        is_usual: |_| true,
        run: operations::run,
    },
    Section {
        name: "promises",
        about: "what the traits promise of refits, request states and sessions",
        is_usual: |_| true,
        run: promises::run,
    },
    Section {
        name: "mutable",
        about: "what the mutable module promises: changes noticed, refused, waited for",
        is_usual: |_| true,
        run: mutable::run,
    },
    Section {
        name: "models",
        about: "CLIP, T5, transformer and autoencoder, each fed what the CPU was fed",
        is_usual: |_| true,
        run: models::run,
    },
    Section {
        name: "picture",
        about: "the picture of the model inside the program in f32 against the CPU's",
        is_usual: |_| true,
        run: picture::run,
    },
    Section {
        name: "plans",
        about: "plans built without a GPU; those of FLUX.1-dev with --include-slow",
        is_usual: |_| true,
        run: plans::run,
    },
    Section {
        name: "refits",
        about: "times of refits from the host, one weight and 1 GiB",
        is_usual: |_| true,
        run: refits::run,
    },
    Section {
        name: "recordings",
        about: "recorded requests against what diffusers made of them",
        is_usual: |_| true,
        run: recordings::run,
    },
    Section {
        name: "smaller",
        about: "the same in bf16 and f16",
        is_usual: |_| true,
        run: recordings::run_smaller,
    },
    Section {
        name: "flux",
        about: "the whole of FLUX.1-dev with random weights (--flux)",
        is_usual: |arguments| arguments.flux,
        run: flux::run,
    },
    Section {
        name: "steps",
        about: "how long a step of the whole of FLUX.1-dev takes",
        is_usual: |_| false,
        run: full::steps,
    },
    Section {
        name: "profile",
        about: "where a step's time goes, beside what the GPU could do",
        is_usual: |_| false,
        run: full::profile,
    },
    Section {
        name: "bandwidth",
        about: "kernels of our own against a copy",
        is_usual: |_| false,
        run: full::bandwidth,
    },
    Section {
        name: "fidelity",
        about: "what the transformer computes, written for a comparison with f32",
        is_usual: |_| false,
        run: full::fidelity,
    },
    Section {
        name: "swap",
        about: "from one LoRA to another and back",
        is_usual: |_| false,
        run: full::swap,
    },
    Section {
        name: "pictures",
        about: "whole pictures of a pipeline (--model)",
        is_usual: |_| false,
        run: full::pictures,
    },
];

/// Runs what is asked for; whether all of it passed.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for section in &SECTIONS {
            println!("{:12} {}", section.name, section.about);
        }
        return Ok(true);
    }
    let sections = wanted(arguments)?;
    let mut report = Report::new(arguments.json.clone(), arguments.filter.clone());
    let machine = Machine::find(arguments, &mut report)?;
    if arguments.require_gpu && !machine.has_gpu() {
        for entry in &machine.backends {
            if let Err(reason) = &entry.found {
                eprintln!("{}: {reason}", entry.name);
            }
        }
        return Err("nothing can be run on a GPU".into());
    }
    for section in sections {
        report.begin(section.name);
        let result = (section.run)(&machine, arguments, &mut report);
        report.end(result)?;
    }
    report.finish()
}

fn wanted(arguments: &Arguments) -> Result<Vec<&'static Section>> {
    let is_known = |name: &&String| SECTIONS.iter().any(|section| section.name == *name);
    if let Some(unknown) = arguments.only.iter().find(|name| !is_known(name)) {
        return Err(format!("no section is called `{unknown}`: see --list").into());
    }
    let is_wanted = |section: &&Section| match arguments.only.as_slice() {
        [] => (section.is_usual)(arguments),
        only => only.iter().any(|name| name == section.name),
    };
    Ok(SECTIONS.iter().filter(is_wanted).collect())
}

/// Runs something on each backend that is there; where one is not, `count` cases are skipped.
fn on_each(
    machine: &Machine,
    report: &mut Report,
    count: usize,
    mut run: impl FnMut(&'static str, &Found, &mut Report) -> Result<()>,
) -> Result<()> {
    for entry in &machine.backends {
        match &entry.found {
            Ok(found) => run(entry.name, found, report)?,
            Err(reason) => report.skip(Label::new("all", entry.name), count, reason),
        }
    }
    Ok(())
}

/// The same for what is compared with the CPU, which is compared with itself in rehearsals only.
fn on_each_gpu(
    machine: &Machine,
    report: &mut Report,
    count: usize,
    mut run: impl FnMut(&'static str, &Arc<dyn Backend>, &mut Report) -> Result<()>,
) -> Result<()> {
    on_each(machine, report, count, |name, found, report| match name {
        "cpu" if !machine.is_rehearsal => Ok(()),
        _ => run(name, &found.backend, report),
    })
}
