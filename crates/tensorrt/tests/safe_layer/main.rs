//! Builds real engines on the CPU through the safe layer, where the library has been fetched.
//!
//! `cargo xtask test` fetches it (`cargo xtask fetch tensorrt` by hand). Where it is not there,
//! each of these tests is reported as ignored, by its name, and the reason is printed.

#![allow(clippy::unnecessary_wraps, reason = "all tests have one type")]

mod building;
#[path = "../../../tensorrt-sys/tests/support/fetched.rs"]
mod fetched;
mod refusing;
mod settings;

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_tensor::DType;
use tintype_tensorrt::network::Network;
use tintype_tensorrt::{Builder, Config, Newer, Tensorrt};

type Test = (&'static str, fn(&Tensorrt) -> Result<(), Failed>);

const TESTS: [Test; 19] = [
    ("the library tells what it is", settings::identity),
    ("a probe tells what the library supports", settings::probe),
    ("settings come back as they were set", settings::settings),
    ("a setting out of range is refused", settings::ranges),
    (
        "profiles are checked before they are used",
        settings::profiles,
    ),
    (
        "a timing cache of tensorrt-rtx is no file",
        settings::timing_cache,
    ),
    (
        "a plan goes to a writer while progress is told",
        building::plan,
    ),
    (
        "one network is built for several targets",
        building::targets,
    ),
    (
        "a plan without weights holds none of them",
        building::weightless,
    ),
    ("an engine of any size needs a profile", building::dynamic),
    ("builders of several threads do not meet", building::threads),
    (
        "objects are dropped in any order that compiles",
        building::drops,
    ),
    ("a build can be stopped and begun again", building::stopped),
    (
        "a writer that fails fails the build",
        refusing::failing_writer,
    ),
    (
        "a writer that panics fails the build",
        refusing::panicking_writer,
    ),
    (
        "a follower that panics fails the build",
        refusing::panicking_follower,
    ),
    (
        "a target that is not built for is refused",
        refusing::bad_targets,
    ),
    (
        "mistakes are told in the library's words",
        refusing::mistakes,
    ),
    (
        "what belongs to another builder is refused",
        refusing::foreign,
    ),
];

fn main() {
    let arguments = Arguments::from_args();
    let library = fetched::find_for(TESTS.len());
    let trial = |(name, test): Test| {
        let path = library.clone();
        let run = move || {
            let path = path.ok_or("the library was not fetched")?;
            test(&Tensorrt::open(&path, Newer::Refuse)?)
        };
        Trial::test(name, run).with_ignored_flag(library.is_none())
    };
    let mut trials = Vec::from(TESTS.map(trial));
    trials.push(Trial::test(
        "version 1.4 is refused before it is called",
        refusing::old_version,
    ));
    libtest_mimic::run(&arguments, trials).exit();
}

const SIZE: usize = 256;

/// `y = x[rows, 256] · weightᵀ` in bf16.
fn product(network: &Network<'_>, rows: i64) -> Result<(), Failed> {
    let size = SIZE as i64;
    let x = network.input("x", DType::BF16, &[rows, size])?;
    let weight = network.placeholder("weight", DType::BF16, &[SIZE, SIZE])?;
    let y = network.matrix_multiply([x, weight], [false, true])?;
    Ok(network.mark_output("y", y)?)
}

/// A configuration for an engine without weights, for compute capability 8.9.
fn weightless(builder: &Builder) -> Result<Config<'_>, Failed> {
    use tintype_tensorrt::Flag;
    let mut config = builder.config()?;
    config.set_targets(&["sm89".parse()?])?;
    config.set_flag(Flag::StripPlan, true)?;
    config.set_flag(Flag::RefitIndividual, true)?;
    Ok(config)
}

/// The text of an error that must be.
fn error_of<T>(result: tintype_tensorrt::Result<T>) -> Result<String, Failed> {
    match result {
        Ok(_) => Err("expected an error".into()),
        Err(error) => Ok(error.to_string()),
    }
}
