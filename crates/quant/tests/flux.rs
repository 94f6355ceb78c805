//! A whole way on a small FLUX transformer: observe, keep, quantize, run, compare.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod support;

use support::{example, examples, flux, parameters, samples, staged, with};
use tintype_cpu::CpuBackend;
use tintype_ir::Stage;
use tintype_quant::{
    Calibration, Error, Granularity, Method, ModelIdentity, Recipe, Rule, ScaleTable, calibrate,
    compare, keep_worst, layer_names, quantize,
};
use tintype_tensor::{DType, relative_error};

#[test]
fn the_recipe_quantizes_the_linears_of_blocks_alone() {
    let graph = flux(DType::BF16);
    let (linears, attentions) = layer_names(&graph);
    assert_eq!(linears.len(), 14 + 6 + 8 + 2, "{linears:?}");
    assert_eq!(
        attentions,
        [
            "transformer_blocks.0.attn",
            "single_transformer_blocks.0.attn"
        ]
    );
    let backend = CpuBackend::new();
    let weights = parameters(&graph, 1);
    let mut feed = examples(&backend, &graph, &weights, 1);
    let calibration = calibrate(&mut feed, &Recipe::flux(), Method::Max).unwrap();
    let quantized = quantize(&graph, &Recipe::flux(), &calibration.scales().unwrap()).unwrap();
    assert_eq!(quantized.layers.len(), 20);
    let programs = staged(&quantized.graph, false);
    let mut narrow = 0;
    for program in [&programs.request, &programs.step] {
        for parameter in program.parameters() {
            let name = &parameter.name;
            let in_block = name.contains("transformer_blocks.") && name.ends_with(".weight");
            let is_matrix = parameter.ty.rank() == 2;
            let is_narrow = parameter.ty.dtype == DType::F8E4M3;
            assert_eq!(is_narrow, in_block && is_matrix, "{name}");
            narrow += usize::from(is_narrow);
        }
    }
    assert_eq!(narrow, 20);
}

#[test]
fn scales_are_the_maxima_of_what_layers_read() {
    let graph = flux(DType::F32);
    let backend = CpuBackend::new();
    let weights = parameters(&graph, 2);
    let recipe =
        Recipe::new([Rule::linears(["**"], Granularity::PerTensor)]).with_attentions(["**"]);
    let mut feed = examples(&backend, &graph, &weights, 2);
    let by_maximum = calibrate(&mut feed, &recipe, Method::Max).unwrap();
    assert_eq!((by_maximum.examples, by_maximum.steps), (2, support::STEPS));
    // What a linear reads first is an input, whose maximum is known.
    let mut greatest = 0.0f32;
    for (_, steps) in &feed.examples {
        for inputs in steps {
            let values = inputs.host("hidden_states").unwrap().to_f32_vec().unwrap();
            greatest = values.iter().fold(greatest, |a, b| a.max(b.abs()));
        }
    }
    let embedder = &by_maximum.values["x_embedder.input"];
    assert_eq!(
        (embedder.amax, embedder.scale),
        (greatest, greatest / 448.0)
    );
    assert!(embedder.steps.is_empty());
    let query = &by_maximum.values["transformer_blocks.0.attn.query"];
    assert_eq!(query.steps.len(), support::STEPS);
    assert!(query.steps.contains(&query.amax));
    // All values give the same maxima as reducing in the graph, and other methods cut off more.
    let percentile = calibrate(&mut feed, &recipe, Method::Percentile(99.0)).unwrap();
    let searched = calibrate(&mut feed, &recipe, Method::MeanSquaredError).unwrap();
    for (name, value) in &by_maximum.values {
        assert_eq!(percentile.values[name].amax, value.amax, "{name}");
        assert!(percentile.values[name].scale <= value.scale, "{name}");
        assert!(searched.values[name].scale <= value.scale, "{name}");
    }
}

#[test]
fn the_report_says_what_running_both_models_gives() {
    for dtype in [DType::F32, DType::BF16] {
        let graph = flux(dtype);
        let backend = CpuBackend::new();
        let weights = parameters(&graph, 3);
        for granularity in [
            Granularity::PerTensor,
            Granularity::PerChannel,
            Granularity::PerRow,
            Granularity::WeightOnly,
        ] {
            let blocks = ["transformer_blocks.**", "single_transformer_blocks.**"];
            let recipe = Recipe::new([Rule::linears(blocks, granularity)]);
            let mut feed = examples(&backend, &graph, &weights, 1);
            let scales = calibrate(&mut feed, &recipe, Method::Max)
                .unwrap()
                .scales()
                .unwrap();
            let report = compare(&mut feed, &recipe, &scales).unwrap();
            let quantized = quantize(&graph, &recipe, &scales).unwrap();
            let all = with(&weights, &quantized.parameters);
            let given = example(&graph, 100);
            let plain = samples(&staged(&graph, false), &weights, &[], &given);
            let narrow = samples(&staged(&quantized.graph, false), &all, &[], &given);
            for (step, (plain, narrow)) in plain.iter().zip(&narrow).enumerate() {
                let expected = relative_error(narrow, plain);
                let found = report.outputs[0].steps[step].relative();
                // In bf16 one rounding more or less moves codes, and with them the error.
                let tolerance = if dtype == DType::F32 { 1e-3 } else { 0.3 };
                let apart = (found / expected - 1.0).abs();
                assert!(
                    apart < tolerance,
                    "{dtype} {granularity:?} {found} {expected}"
                );
                assert!((0.001..0.15).contains(&found), "{granularity:?} {found}");
            }
            assert_eq!(report.layers.len(), 20);
            assert!(report.by_sensitivity()[0].sensitivity().relative() < 0.1);
            // q, k and v as one product have one scale, the greatest: nearly the same result.
            let fused = staged(&quantized.graph, true);
            let label = "transformer_blocks.0.attn.to_q_to_k_to_v.weight";
            let weight = fused
                .step
                .parameter(label)
                .expect("fused in spite of scales");
            assert_eq!(weight.ty.to_string(), "f8e4m3[192, 64]");
            let fused = samples(&fused, &all, &[], &given);
            for (fused, plain) in fused.iter().zip(&plain) {
                let error = relative_error(fused, plain);
                assert!(error < 0.15, "{granularity:?} {error}");
            }
        }
    }
}

#[test]
fn attention_is_quantized_with_numbers_in_the_graph() {
    let graph = flux(DType::F32);
    let backend = CpuBackend::new();
    let weights = parameters(&graph, 4);
    let recipe = Recipe::flux().with_attentions([
        "transformer_blocks.*.attn",
        "single_transformer_blocks.*.attn",
    ]);
    let mut feed = examples(&backend, &graph, &weights, 1);
    let calibration = calibrate(&mut feed, &recipe, Method::Max).unwrap();
    let scales = calibration.scales().unwrap();
    let quantized = quantize(&graph, &recipe, &scales).unwrap();
    assert_eq!((quantized.layers.len(), quantized.unscaled.len()), (22, 0));
    // Linears are fused behind the codes of query and key.
    let fused = staged(&quantized.graph, true);
    let label = "single_transformer_blocks.0.attn.to_q_to_k_to_v.weight";
    assert!(fused.step.parameter(label).is_some());
    let text = fused.step.to_string();
    let amax = calibration.values["transformer_blocks.0.attn.value"].amax;
    let power = tintype_quant::power_of_two_above(amax / 448.0);
    assert!(
        text.contains(&format!("constant {{values = {power:?}}}")),
        "{power}"
    );
    assert!(!text.contains("@transformer_blocks.0.attn.query"), "{text}");
    let report = compare(&mut feed, &recipe, &scales).unwrap();
    assert!(report.worst() < 0.15, "{report}");
    // Without scales it stays as it is, and that is told.
    let linears = calibrate(&mut feed, &Recipe::flux(), Method::Max).unwrap();
    let kept = quantize(&graph, &recipe, &linears.scales().unwrap()).unwrap();
    assert_eq!((kept.layers.len(), kept.unscaled.len()), (20, 2));
}

#[test]
fn the_worst_layers_are_kept_until_the_bound_holds() {
    let graph = flux(DType::F32);
    let backend = CpuBackend::new();
    let weights = parameters(&graph, 5);
    let mut feed = examples(&backend, &graph, &weights, 1);
    let recipe = Recipe::flux();
    let scales = calibrate(&mut feed, &recipe, Method::Max)
        .unwrap()
        .scales()
        .unwrap();
    let all = compare(&mut feed, &recipe, &scales).unwrap();
    let bound = all.worst() / 2.0;
    let kept = keep_worst(&mut feed, &recipe, &scales, bound).unwrap();
    assert!(kept.report.worst() <= bound);
    assert!((1..20).contains(&kept.layers.len()), "{:?}", kept.layers);
    assert_eq!(kept.layers[0], all.by_sensitivity()[0].name);
    assert_eq!(kept.report.layers.len(), 20 - kept.layers.len());
    // One fewer would not do.
    let fewer = &kept.layers[..kept.layers.len() - 1];
    let fewer = recipe.clone().keeping(fewer.iter().map(String::as_str));
    assert!(compare(&mut feed, &fewer, &scales).unwrap().worst() > bound);
    let none = keep_worst(&mut feed, &recipe, &scales, 1.0).unwrap();
    assert!(none.layers.is_empty() && none.recipe == recipe);
    assert!(keep_worst(&mut feed, &recipe, &scales, f64::NAN).is_err());
}

#[test]
fn a_table_is_for_its_model_alone() {
    let graph = flux(DType::BF16);
    let backend = CpuBackend::new();
    let weights = parameters(&graph, 6);
    let recipe = Recipe::flux();
    let mut feed = examples(&backend, &graph, &weights, 1);
    let calibration = calibrate(&mut feed, &recipe, Method::Max).unwrap();
    let model = ModelIdentity::of(&graph, &weights).unwrap();
    let table = ScaleTable::new(model.clone(), recipe.clone(), Method::Max, calibration);
    let read = ScaleTable::from_json("scales.json", &table.to_json()).unwrap();
    assert_eq!(read, table);
    read.check("scales.json", &model, &graph).unwrap();
    let message = |other: &ModelIdentity| {
        read.check("scales.json", other, &graph)
            .unwrap_err()
            .to_string()
    };
    let other = ModelIdentity::of(&graph, &parameters(&graph, 7)).unwrap();
    let expected = format!(
        "scales.json: model.weights: expected a table for the weights at hand, {}, found {}",
        other.weights, model.weights
    );
    assert_eq!(message(&other), expected);
    let other = ModelIdentity {
        graph: "f00d".into(),
        ..model.clone()
    };
    assert!(message(&other).starts_with(
        "scales.json: model.graph: expected a table for the model at hand, f00d, found "
    ));
    let mut short = read.clone();
    short.scales.remove("transformer_blocks.0.ff.net.2.input");
    let error = short
        .check("scales.json", &model, &graph)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "scales.json: transformer_blocks.0.ff.net.2.input: expected a scale, found none"
    );
    let error = quantize(&graph, &recipe, &short.scales().unwrap())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "scales: transformer_blocks.0.ff.net.2.input: expected one scale, found none"
    );
}

#[test]
fn the_identity_does_not_depend_on_the_dtype_of_files() {
    let (narrow, wide) = (flux(DType::BF16), flux(DType::F32));
    let rounded = parameters(&narrow, 8);
    let whole = parameters(&wide, 8);
    let of = |graph, parameters| ModelIdentity::of(graph, parameters).unwrap().weights;
    assert_eq!(of(&narrow, &rounded), of(&wide, &whole));
    let edited = {
        let mut edited = whole.clone();
        edited
            .edit("proj_out.bias", |values| values[0] += 1.0)
            .unwrap();
        edited
    };
    assert_ne!(of(&wide, &edited), of(&wide, &whole));
}

#[test]
fn what_cannot_be_calibrated_is_told() {
    let graph = flux(DType::F32);
    let backend = CpuBackend::new();
    let weights = parameters(&graph, 9);
    let recipe = Recipe::flux();
    let message = |result: Result<Calibration, Error>| result.unwrap_err().to_string();
    let mut feed = examples(&backend, &graph, &weights, 0);
    assert_eq!(
        message(calibrate(&mut feed, &recipe, Method::Max)),
        "calibration: the examples: expected at least one, found none"
    );
    let mut broken = weights.clone();
    broken
        .edit("x_embedder.bias", |values| values[0] = f32::NAN)
        .unwrap();
    let mut feed = examples(&backend, &graph, &broken, 1);
    let error = message(calibrate(&mut feed, &recipe, Method::Max));
    assert!(
        error.contains("expected finite values, found NaN at step 1 of example 1"),
        "{error}"
    );
    let mut feed = examples(&backend, &graph, &weights, 1);
    let lost = Recipe::new([Rule::linears(
        ["transformer_blocks.7.**", "proj_out"],
        Granularity::PerTensor,
    )]);
    assert_eq!(
        message(calibrate(&mut feed, &lost, Method::Max)),
        "recipe: `transformer_blocks.7.**`: expected names of linears of graph \
         `flux_transformer`, found none"
    );
    let error = message(calibrate(&mut feed, &recipe, Method::Percentile(0.0)));
    assert!(
        error.contains("the percentile: expected a number above 0"),
        "{error}"
    );
    assert_eq!(
        graph
            .inputs()
            .iter()
            .filter(|input| input.stage == Stage::Step)
            .count(),
        2
    );
}
