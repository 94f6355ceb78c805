//! Lowering: what graphs are lowered to, and that the library builds engines of it.
//!
//! - `files/*.tt` hold graphs with the listing of their layers beside them; see [`listing`]. They
//!   need no library. `cargo test -p tintype-tensorrt --test lowering -- --bless` renews them.
//! - `engines/*.tt` hold graphs of every operation, of which engines are built for compute
//!   capability 8.9, in each dtype, with sizes known and unknown; see [`engines`].
//! - [`models`] builds those of whole models.
//!
//! The latter two need TensorRT-RTX (`cargo xtask fetch tensorrt`). Where it is not there, each
//! is reported as ignored, by its name.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cases;
mod engines;
#[path = "../../../tensorrt-sys/tests/support/fetched.rs"]
mod fetched;
mod library;
mod listing;
mod models;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let bless = std::env::args().any(|argument| argument == "--bless");
    let arguments = Arguments::from_iter(std::env::args().filter(|argument| argument != "--bless"));
    let mut trials = listing::trials(bless);
    trials.push(Trial::test(
        "every operation has its engines",
        engines::covered,
    ));
    let with_library: Vec<Trial> = engines::trials()
        .into_iter()
        .chain(models::trials())
        .collect();
    let is_missing = fetched::find_for(with_library.len()).is_none();
    let with_library = with_library.into_iter().map(|trial| {
        let is_ignored = is_missing || trial.has_ignored_flag();
        trial.with_ignored_flag(is_ignored)
    });
    trials.extend(with_library);
    libtest_mimic::run(&arguments, trials).exit();
}
