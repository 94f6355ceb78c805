//! Every parameter of a whole transformer reaches what it should.

use tintype_backend::Tensors;
use tintype_ir::Graph;
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_refit::{MutableModule, Weights};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use crate::backend::Spy;
use crate::network::{Inputs, fresh, outputs, random};

/// A FLUX transformer of one block of each kind.
fn transformer(dtype: DType) -> Graph {
    let config = FluxTransformerConfig {
        in_channels: 8,
        out_channels: 8,
        num_layers: 1,
        num_single_layers: 1,
        attention_head_dim: 16,
        num_attention_heads: 2,
        joint_attention_dim: 24,
        pooled_projection_dim: 12,
        axes_dims_rope: vec![4, 6, 6],
        ..FluxTransformerConfig::dev()
    };
    let options = FluxTransformerOptions {
        dtype,
        ..FluxTransformerOptions::default()
    };
    config.graph(&options).unwrap()
}

fn parameters_of(graph: &Graph) -> Parameters {
    let parameters = graph.parameters().iter().zip(1..);
    let builder = parameters.fold(Parameters::builder(), |builder, (parameter, seed)| {
        let shape = parameter.ty.static_shape().unwrap();
        let values = random(&shape, seed).to_f32_vec().unwrap();
        let values = values.into_iter().map(|value| value * 0.2).collect();
        let tensor = Tensor::from_f32_as(parameter.ty.dtype, shape, values).unwrap();
        builder.tensor(&parameter.name, tensor)
    });
    builder.build().unwrap()
}

/// Random inputs of every type that the graph asks for, with sizes for its symbols.
fn inputs_of(graph: &Graph) -> Inputs {
    let mut inputs = Inputs {
        request: Tensors::new(),
        step: Tensors::new(),
    };
    for (input, seed) in graph.inputs().iter().zip(500..) {
        let size = |dim: &tintype_ir::Dim| {
            dim.evaluate(|symbol| {
                Some(match symbol {
                    "steps" => 2,
                    "batch" => 1,
                    "text_tokens" => 3,
                    _ => 4,
                })
            })
        };
        let dims = input.ty.dims.iter().map(|dim| size(dim).unwrap() as usize);
        let shape: Vec<usize> = dims.collect();
        let values = random(&shape, seed);
        let tensor = if input.ty.dtype.is_float() {
            values.to_dtype(input.ty.dtype).unwrap()
        } else {
            Tensor::new(shape.clone(), vec![1i64; shape.iter().product()]).unwrap()
        };
        match input.stage {
            tintype_ir::Stage::Step => inputs.step.insert(&input.name, tensor),
            _ => inputs.request.insert(&input.name, tensor),
        }
    }
    inputs
}

/// One by one: the output is that of a fresh compilation, and no more is computed than the
/// parameter reaches.
fn every_parameter_is_mapped(dtype: DType) {
    let graph = transformer(dtype);
    let spy = Spy::new();
    let log = spy.log();
    let parameters = parameters_of(&graph);
    let module = MutableModule::builder(std::sync::Arc::new(spy), graph.clone(), parameters);
    let module = module.build();
    let inputs = inputs_of(&graph);
    let mut last = outputs(&module, &inputs);
    assert_eq!(last, fresh(graph.clone(), &module.weights(), &inputs));
    log.take();
    let names: Vec<String> = module
        .weights()
        .parameters
        .names()
        .map(str::to_owned)
        .collect();
    for name in &names {
        // Of the size it had, so that nothing saturates.
        let turned = |values: &mut [f32]| values.iter_mut().for_each(|value| *value = -*value);
        module.edit().edit(name, turned).unwrap();
        let found = outputs(&module, &inputs);
        assert_ne!(found, last, "`{name}` reaches nothing");
        assert_eq!(
            found,
            fresh(graph.clone(), &module.weights(), &inputs),
            "`{name}`"
        );
        // Each is one weight as it is: joined products are left to other backends.
        assert_eq!(log.take(), (0, 1, 1), "`{name}`");
        last = found;
    }
    // All of them back, and the bits with them.
    let original = parameters_of(&graph);
    module
        .change(|change| {
            change.set_weights(Weights::new(original.clone()));
            Ok(())
        })
        .unwrap();
    let expected = fresh(graph, &Weights::new(original), &inputs);
    assert_eq!(outputs(&module, &inputs), expected);
    assert_eq!(log.take(), (0, 1, names.len()));
}

#[test]
fn every_parameter_of_a_transformer_is_mapped() {
    every_parameter_is_mapped(DType::F32);
}

#[test]
fn every_parameter_of_a_transformer_in_bf16_is_mapped() {
    every_parameter_is_mapped(DType::BF16);
}
