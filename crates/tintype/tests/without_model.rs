//! A build without the feature `shapes` says how to get a model.
#![cfg(not(feature = "shapes"))]
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;

use common::{Bench, Ran};

#[test]
fn without_it_the_program_says_how_to_get_a_model() {
    let bench = Bench::new("dev");
    for command in [
        &["generate", "fox"][..],
        &["generate", "fox", "--model", "shapes"],
        &["inspect"],
        &["bench"],
    ] {
        let Ran { status, stderr, .. } = bench.run(command);
        assert_eq!(status, Some(1), "{command:?}");
        for part in [
            "--model DIR",
            "--model org/name",
            "the feature `shapes`",
            "./shapes",
        ] {
            assert!(stderr.contains(part), "{command:?}: {stderr}");
        }
    }
    let doctor = bench.run(&["doctor"]);
    assert!(doctor.stdout.contains("none built in"), "{}", doctor.stdout);
    std::fs::rename(bench.path("model"), bench.path("shapes")).unwrap();
    let ran = bench.generate(&["fox", "--model", "./shapes"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
}
