//! Programs with branches give the same bits in whatever order branches run.

use proptest::prelude::*;
use tintype_ir::Graph;

use super::*;
use crate::plan::random;
use crate::run::host::branches::Order;

/// All outputs of a graph of [`random`], enqueued, captured and replayed.
fn outputs(graph: &Graph, order: Option<Order>) -> (Vec<Vec<u8>>, Vec<String>) {
    let mut host = Host::new(LARGE);
    if let Some(order) = order {
        host.has_branches = true;
        *host.order.lock().unwrap() = order;
    }
    let host = Arc::new(host);
    let staged = StagedGraph::split(graph).unwrap();
    let options = CompileOptions::default();
    let executable =
        CudaExecutable::new(Arc::clone(&host), staged, Arc::new(NoEvaluator), &options);
    let weights = (0..3).fold(Parameters::builder(), |builder, number| {
        builder.tensor(format!("w{number}"), tensor(&[8, 8], 40 + number))
    });
    let weights = weights.build().unwrap();
    executable.refit(&Changes::all(&weights)).unwrap();
    let mut session = executable.session().unwrap();
    let state = session.prepare(&Tensors::new()).unwrap();
    let mut found = Vec::new();
    for seed in 0..4 {
        let inputs = Tensors::new()
            .with("x", tensor(&[4, 8], seed))
            .with("y", tensor(&[6, 8], 10 + seed));
        let outputs = session.step(state.as_ref(), &inputs).unwrap();
        for name in ["last", "middle"] {
            found.push(outputs.host(name).unwrap().bytes().to_vec());
        }
    }
    (found, host.take_log())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_order_of_branches_gives_the_same_bits(
        choices in random::choices(),
        seed in any::<u64>(),
    ) {
        let graph = random::graph(&choices);
        let (serial, log) = outputs(&graph, None);
        prop_assert!(!log.contains(&"fork".to_owned()));
        for order in [Order::FirstBefore, Order::SecondBefore, Order::Random(seed)] {
            let (found, _) = outputs(&graph, Some(order));
            prop_assert_eq!(&found, &serial, "{:?}", order);
        }
    }
}

#[test]
fn a_forecast_counts_the_memory_of_branches() {
    // Two streams of which the second is done before the third value is needed.
    let text = "graph g { param @w: f32[8, 8] input step %x: f32[64, 8] input step %y: f32[64, 8] \
                %0: f32[64, 8] = linear %x, @w %1: f32[64, 8] = linear %0, @w \
                %2: f32[64, 8] = linear %1, @w %3: f32[64, 8] = linear %y, @w \
                %4: f32[64, 8] = linear %3, @w %5: f32[64, 8] = add %2, %4 output y = %5 }";
    let staged = StagedGraph::split(&parse(text).unwrap()).unwrap();
    let workspace = |has_branches| {
        let mut host = Host::new(LARGE);
        host.has_branches = has_branches;
        let policy = tintype_backend::KeepWeights::Disk;
        let sizes = tintype_ir::Binding::new();
        let found = super::super::forecast::forecast_on(&host, &staged, policy, &sizes);
        found.unwrap().memory.workspace.unwrap()
    };
    let tensor = 64 * 8 * 4;
    assert_eq!(
        (workspace(false), workspace(true)),
        (3 * tensor, 4 * tensor)
    );
}
