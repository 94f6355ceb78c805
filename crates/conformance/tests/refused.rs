//! Every request that diffusers refuses is refused here too, by name of the argument,
//! before anything is computed.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::BTreeMap;
use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use serde_json::{Map, Value};
use tintype_conformance::{KindOfCase, RequestRecord, request_of};
use tintype_cpu::CpuBackend;
use tintype_flux::{Error, FluxPipeline, Observer, Part};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

/// The argument that each refusal names.
const ARGUMENTS: &[(&str, &str)] = &[
    ("sequence_over_512", "max_sequence_length"),
    ("prompt_and_embeds", "prompt"),
    ("prompt_2_and_embeds", "prompt_2"),
    ("neither_prompt_nor_embeds", "prompt"),
    ("embeds_without_pooled", "prompt_embeds"),
    ("negative_prompt_and_embeds", "negative_prompt"),
    ("negative_embeds_of_other_length", "negative_prompt_embeds"),
    ("too_few_seeds", "seed"),
    ("too_many_seeds", "seed"),
    ("seeds_of_other_count_than_batch", "seed"),
    ("latents_of_other_length", "latents"),
    ("latents_of_other_batch", "latents"),
    ("negative_prompts_of_other_count", "negative_prompt"),
    ("no_steps", "steps"),
];

/// A request and what diffusers said to it.
#[derive(Clone, Deserialize)]
struct Refused {
    name: String,
    pipeline: String,
    kind: KindOfCase,
    request: Map<String, Value>,
    error: String,
}

fn main() {
    let arguments = Arguments::from_args();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let text = std::fs::read_to_string(fixtures.join("cases/errors.json")).unwrap();
    let cases: Vec<Refused> = serde_json::from_str(&text).unwrap();
    let mut trials: Vec<Trial> = cases
        .iter()
        .cloned()
        .map(|case| {
            let fixtures = fixtures.clone();
            Trial::test(case.name.clone(), move || check(&fixtures, &case))
        })
        .collect();
    trials.push(Trial::test("every_argument_has_its_case", move || {
        let recorded = |name: &&str| cases.iter().any(|case| case.name == **name);
        match ARGUMENTS
            .iter()
            .map(|(name, _)| name)
            .find(|name| !recorded(name))
        {
            Some(name) => Err(format!("{name} is not in errors.json").into()),
            None => Ok(()),
        }
    }));
    libtest_mimic::run(&arguments, trials).exit();
}

fn check(fixtures: &Path, case: &Refused) -> Result<(), Failed> {
    let known = ARGUMENTS.iter().find(|(name, _)| *name == case.name);
    let (_, expected) = known.ok_or("the argument at fault is not in the table")?;
    let (record, tensors) = split(&case.request)?;
    let request = request_of(&record, case.kind, &tensors)?;
    let folder = fixtures.join(&case.pipeline);
    let pipeline = FluxPipeline::from_pretrained(folder)?.backend(CpuBackend::new());
    let mut begun = Begun(false);
    let result = pipeline.generate_with(&request, &mut begun);
    match result {
        Err(Error::Argument { argument, .. }) if argument == *expected && !begun.0 => Ok(()),
        Err(Error::Argument { argument, .. }) if argument == *expected => {
            Err("refused only after work began".into())
        }
        Err(error) => Err(format!("expected `{expected}` to be at fault, found: {error}").into()),
        Ok(_) => Err(format!("accepted; diffusers says: {}", case.error).into()),
    }
}

/// A record holds the shapes of its tensors; here they become names, and tensors of ones.
fn split(request: &Map<String, Value>) -> Result<(RequestRecord, Parameters), Failed> {
    let mut request = request.clone();
    let shapes: BTreeMap<String, Vec<usize>> = match request.remove("tensors") {
        Some(shapes) => serde_json::from_value(shapes)?,
        None => BTreeMap::new(),
    };
    let names: Map<String, Value> = shapes
        .keys()
        .map(|name| (name.clone(), name.clone().into()))
        .collect();
    request.insert("tensors".to_owned(), names.into());
    let mut parameters = Parameters::builder();
    for (name, shape) in shapes {
        let ones = vec![1.0; shape.iter().product()];
        parameters = parameters.tensor(name, Tensor::from_f32(shape, ones)?);
    }
    Ok((serde_json::from_value(request.into())?, parameters.build()?))
}

/// Whether any part of the work was begun.
struct Begun(bool);

impl Observer for Begun {
    fn begin(&mut self, _part: Part, _steps: usize) {
        self.0 = true;
    }
}
