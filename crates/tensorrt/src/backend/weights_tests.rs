//! What a weight program reads, and what of it stays in its files.

use tintype_backend::{KeepWeights, WeightPrograms};
use tintype_device::Sharing;
use tintype_ir::{StagedGraph, TensorType};
use tintype_tensor::{DType, Tensor};

use super::*;

const PROGRAM: &str = r#"graph "weights" {
  param @a: f32[4]
  param @b: f32[8]
  param @c: bf16[4]
  param @d: f32[4]
  %0: f32[4] = add @a, @d
  output sum = %0
  output b = @b
  output c = @c
}"#;

fn parameters() -> Parameters {
    Parameters::builder()
        .tensor("a", zeros(DType::F32, 4))
        .tensor("b", zeros(DType::F32, 8))
        .tensor("c", zeros(DType::F32, 4))
        .tensor("d", zeros(DType::F32, 4))
        .build()
        .unwrap()
}

fn zeros(dtype: DType, size: usize) -> Tensor {
    let bytes = vec![0; dtype.byte_len(size).unwrap()];
    Tensor::from_bytes(dtype, [size], bytes).unwrap()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Nothing is computed here.
struct NoEvaluator;

impl Evaluator for NoEvaluator {
    fn evaluate(
        &self,
        op: &tintype_ir::Op,
        _operands: &[Tensor],
        _ty: &TensorType,
    ) -> tintype_ir::Result<Tensor> {
        unreachable!("{} is not computed", op.name())
    }
}

fn with<T>(parameters: &Parameters, test: impl FnOnce(Inputs<'_>) -> T) -> T {
    let nothing = "graph g { input step %x: f32[1] %0: f32[1] = neg %x output y = %0 }";
    let nothing = tintype_ir::parse(nothing).unwrap();
    let mut staged = StagedGraph::split(&nothing).unwrap();
    staged.weight = tintype_ir::parse(PROGRAM).unwrap();
    test(Inputs {
        program: WeightPrograms::new(&staged).bare(),
        parameters,
        evaluator: &NoEvaluator,
        kept: &KeptParameters::new(KeepWeights::Auto, Sharing::Nothing, &staged.weight),
    })
}

#[test]
fn what_does_not_fit_stays_in_its_file_if_it_can() {
    let left_beside = |there: &[&'static str], budget| {
        let there = there.iter().copied().collect();
        let all = names(&["sum", "b", "c"]);
        let left = with(&parameters(), |inputs| {
            inputs.left_in_files(&all, &there, budget).unwrap()
        });
        let mut left: Vec<String> = left.into_keys().collect();
        left.sort();
        left
    };
    let left = |budget| left_beside(&[], budget);
    // 16 bytes of `sum`, 32 of `b`, 8 of `c`, which is stored as f32 and must be converted.
    assert_eq!(left(56), [""; 0]);
    assert_eq!(left(55), ["b"]);
    assert_eq!(left(0), ["b"]);
    // What waits on the device needs no room.
    assert_eq!(left_beside(&["b"], 24), [""; 0]);
    assert_eq!(left_beside(&["b"], 0), [""; 0]);
}
