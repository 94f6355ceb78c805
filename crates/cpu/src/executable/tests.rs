//! Steps without the weights that the request program alone reads.

use std::collections::BTreeSet;

use tintype_ir::parse;
use tintype_tensor::TorchGenerator;

use super::*;

/// `a` is a weight of the request, `b` one of both programs, `c` one of the step.
const TEXT: &str = "graph g { param @a: f32[4, 4] param @b: f32[4, 4] param @c: f32[4, 4] \
    input request %r: f32[2, 4] input step %x: f32[2, 4] \
    %0: f32[4, 4] = exp @a %1: f32[2, 4] = linear %r, %0  # a\n \
    %2: f32[2, 4] = linear %1, @b %3: f32[2, 4] = linear %x, @b \
    %4: f32[2, 4] = linear %3, @c %5: f32[2, 4] = add %2, %4 output y = %5 }";

fn tensor(shape: &[usize], seed: u64) -> Tensor {
    TorchGenerator::new(seed).randn(shape).unwrap()
}

fn parameters(seeds: [u64; 3]) -> Parameters {
    let named = ["a", "b", "c"].into_iter().zip(seeds);
    let builder = named.fold(Parameters::builder(), |builder, (name, seed)| {
        builder.tensor(name, tensor(&[4, 4], seed))
    });
    builder.build().unwrap()
}

fn executable(frees: bool) -> CpuExecutable {
    let staged = StagedGraph::split(&parse(TEXT).unwrap()).unwrap();
    let options = CompileOptions::default().with_freed_request_weights(frees);
    CpuExecutable::new(staged, &options)
}

fn names(executable: &CpuExecutable) -> BTreeSet<String> {
    let weights = executable.shared.weights().unwrap();
    weights.keys().cloned().collect()
}

#[test]
fn weights_of_the_request_go_with_the_first_step_and_come_back() {
    let [whole, freeing] = [false, true].map(executable);
    // What is named differs from the round before; weights are away then.
    let rounds = [
        ([1, 2, 3], "abc"),
        ([4, 2, 3], "a"),
        ([4, 5, 3], "b"),
        ([4, 5, 6], "c"),
    ];
    for (seeds, names_changed) in rounds {
        let all = parameters(seeds);
        let changed = names_changed.chars().map(String::from);
        let changes = Changes::all(&all).only_names(changed);
        let request = Tensors::new().with("r", tensor(&[2, 4], 5));
        let found = [&whole, &freeing].map(|executable| {
            executable.refit(&changes).unwrap();
            let mut session = executable.session().unwrap();
            [6, 7].map(|seed| {
                let state = session.prepare(&request).unwrap();
                let step = Tensors::new().with("x", tensor(&[2, 4], seed));
                let outputs = session.step(state.as_ref(), &step).unwrap();
                outputs.host("y").unwrap().to_f32_vec().unwrap()
            })
        });
        assert_eq!(found[0], found[1]);
        let all_names = names(&whole);
        assert_eq!(all_names.len(), 3);
        let left = names(&freeing);
        let gone: Vec<_> = all_names.difference(&left).collect();
        assert_eq!(gone, ["a.weight"]);
    }
}
