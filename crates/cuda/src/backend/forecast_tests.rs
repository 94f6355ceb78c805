//! What is said of a graph before it is loaded.

use tintype_backend::KeepWeights;
use tintype_ir::{Binding, Stage};

use super::super::forecast::{forecast, forecast_on};
use super::*;

#[test]
fn programs_and_memory_are_those_of_the_plans() {
    let staged = StagedGraph::split(&parse(LAYERS).unwrap()).unwrap();
    let mut sizes = Binding::new();
    assert!(
        forecast(&staged, &sizes).is_err(),
        "a symbol without a size"
    );
    sizes.set("tokens", 5);
    let found = forecast(&staged, &sizes).unwrap();
    let stages: Vec<Stage> = found.programs.iter().map(|program| program.stage).collect();
    assert_eq!(stages, [Stage::Weight, Stage::Request, Stage::Step]);
    // `matmul` of small f32 matrices has a kernel, `exp` has none.
    let told = &found.programs[0].fallbacks;
    assert_eq!(told, &["1 × exp has no kernel: on the CPU, then uploaded"]);
    assert!(found.programs[1].fallbacks.is_empty());
    assert_eq!(found.memory.weights, 3 * 64);
    assert!(found.memory.workspace > Some(0));
    assert_eq!(found.memory.kept, 0);
    // What the executable then allocates is no more than that, up to alignment.
    let (host, executable) = on_host(Host::new(LARGE));
    let weights = parameters(1, 2);
    executable.refit(&Changes::all(&weights)).unwrap();
    assert_eq!(host.used(), found.memory.weights);
    for (policy, total, kept) in [
        (KeepWeights::Device, usize::MAX, 2 * 64),
        (KeepWeights::Auto, usize::MAX, 2 * 64),
        (KeepWeights::Auto, 6 << 30, 0),
        (KeepWeights::Disk, usize::MAX, 0),
    ] {
        let host = Host::new(total);
        let found = forecast_on(&host, &staged, policy, &sizes).unwrap();
        assert_eq!(found.memory.kept, kept, "{policy} in {total}");
        assert_eq!(host.used(), 0);
    }
}
