//! Scales change in place: they are read where they lie when a product runs.

use super::*;

/// Two layers on codes of 8 bits; the first one's result becomes codes in its product.
const CODED: &str = r#"
graph "coded" {
  dim tokens = 1..=16
  param @w: f32[16, 16]
  param @s: f32[]
  param @next: f32[]
  input step %x: f32[tokens, 16]
  %0: f32[16, 16] = abs @w
  %1: f32[1, 1] = reduce_max %0 {axes = [0, 1]}
  %2: f32[16, 16] = div @w, %1
  %3: f8e4m3[16, 16] = cast %2
  %4: f32[16, 16] = cast %3
  %5: f32[16, 16] = mul %4, %1
  %6: f32[tokens, 16] = div %x, @s
  %7: f8e4m3[tokens, 16] = cast %6
  %8: f32[tokens, 16] = cast %7
  %9: f32[tokens, 16] = mul %8, @s
  %10: f32[tokens, 16] = linear %9, %5  # first
  %11: f32[tokens, 16] = gelu_tanh %10
  %12: f32[tokens, 16] = div %11, @next
  %13: f8e4m3[tokens, 16] = cast %12
  %14: f32[tokens, 16] = cast %13
  %15: f32[tokens, 16] = mul %14, @next
  %16: f32[tokens, 16] = linear %15, %5  # second
  output y = %16
}"#;

fn weights(seed: u64, s: f32, next: f32) -> Parameters {
    let builder = Parameters::builder().tensor("w", tensor(&[16, 16], seed));
    let builder = builder.tensor("s", Tensor::scalar(s));
    builder
        .tensor("next", Tensor::scalar(next))
        .build()
        .unwrap()
}

fn of_graph(parameters: &Parameters, x: &Tensor) -> Vec<f32> {
    let graph = parse(CODED).unwrap();
    let parameter = |name: &str| parameters.get(name).unwrap();
    let found = reference::run(&graph, &parameter, &|_| x.clone());
    found["y"].to_f32_vec().unwrap()
}

#[test]
fn scales_and_merged_weights_change_in_place_and_captured_graphs_go_on() {
    let host = Arc::new(Host::new(LARGE));
    let staged = StagedGraph::split(&parse(CODED).unwrap()).unwrap();
    let options = CompileOptions::default();
    let executable =
        CudaExecutable::new(Arc::clone(&host), staged, Arc::new(NoEvaluator), &options);
    let mut known = weights(1, 0.01, 0.02);
    executable.refit(&Changes::all(&known)).unwrap();
    let mut session = executable.session().unwrap();
    let mut before = Vec::new();
    for (round, (changed, next)) in [
        ("s", weights(1, 0.01, 0.02)),
        ("s", weights(1, 0.01, 0.02)),
        ("s", weights(1, 0.003, 0.02)),
        ("next", weights(1, 0.003, 0.5)),
        ("w", weights(7, 0.003, 0.5)),
        ("s", weights(7, 0.4, 0.5)),
    ]
    .into_iter()
    .enumerate()
    {
        known = next;
        executable
            .refit(&Changes::all(&known).only_names([changed]))
            .unwrap();
        let state = session.prepare(&Tensors::new()).unwrap();
        host.take_log();
        let x = tensor(&[5, 16], 3);
        let inputs = Tensors::new().with("x", x.clone());
        let found = numbers(&session.step(state.as_ref(), &inputs).unwrap());
        assert_close(&found, &of_graph(&known, &x));
        assert!(round < 2 || found != before, "{changed} changes nothing");
        before = found;
        let replayed = host.take_log() == ["write", "launch"];
        assert_eq!(replayed, round >= 2, "round {round}");
    }
}
