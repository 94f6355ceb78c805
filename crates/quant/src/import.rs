//! FP8 checkpoints that others made: their codes and scales, taken over as they are.
//!
//! | checkpoint | weight | input |
//! |---|---|---|
//! | `ModelOpt` | `X.weight` in F8, `X.weight_scale` | `X.input_scale` |
//! | scaled FP8 | the same with `X.scale_weight` | `X.scale_input`, or none |
//! | a raw cast | `X.weight` in F8 | none |
//!
//! `tintype-weights` reads all of them, under the names of diffusers. What is here finds which
//! linears came so, and makes a recipe and scales of it: the weight program then gives the codes
//! of the file again. Where the file has no scale for the input, the input stays as it is, or
//! gets one for each row where the weight has.

use std::collections::BTreeMap;

use tintype_ir::{Graph, Value};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use crate::scales::check_scale;
use crate::sites::{SiteKind, Sites};
use crate::{Granularity, Pattern, Recipe, Result, Rule, Scales};

/// What an FP8 checkpoint brings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Imported {
    /// The linears that came in FP8.
    pub recipe: Recipe,
    /// Their scales.
    pub scales: Scales,
}

/// What came in FP8 of the linears of `graph`; `None` if nothing did.
///
/// # Errors
/// [`Error::Table`](crate::Error::Table) for a scale that cannot be, naming file and tensor; a
/// parameter that is missing.
pub fn import(graph: &Graph, parameters: &Parameters) -> Result<Option<Imported>> {
    let everything = Recipe::new([Rule::linears(["**"], Granularity::WeightOnly)]);
    let sites = Sites::of(graph, &everything)?;
    let mut groups: BTreeMap<Value, Vec<Linear>> = BTreeMap::new();
    for (index, site) in sites.iter() {
        let SiteKind::Linear { weight, .. } = site.kind else {
            continue;
        };
        let parameter = &graph.parameters()[weight].name;
        if let Some(linear) = Linear::read(&site.name, parameter, parameters)? {
            let group = groups.entry(graph.nodes()[index].operands[0]);
            group.or_default().push(linear);
        }
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let mut scales = Scales::new();
    let mut rules: BTreeMap<usize, Rule> = BTreeMap::new();
    for group in groups.values() {
        add(&mut scales, group)?;
        for linear in group {
            let granularity = linear.granularity();
            let rule = rules.entry(granularity as usize).or_insert_with(|| Rule {
                granularity,
                ..Rule::default()
            });
            rule.linears.push(Pattern::new(linear.name.as_str()));
        }
    }
    Ok(Some(Imported {
        recipe: Recipe::new(rules.into_values().collect::<Vec<_>>()),
        scales,
    }))
}

/// A linear whose weight came in FP8.
struct Linear {
    name: String,
    weight: Tensor,
    input: Option<f32>,
}

impl Linear {
    fn read(name: &str, weight: &str, parameters: &Parameters) -> Result<Option<Self>> {
        let Some(scale) = parameters.f8_scale(weight)? else {
            return Ok(None);
        };
        for &value in scale.to_f32()?.iter() {
            check_scale(
                &parameters.origin(),
                &format!("the scale of {weight}"),
                value,
            )?;
        }
        let mut input = None;
        for suffix in INPUT_SCALES {
            let given = format!("{name}.{suffix}");
            if parameters.contains(&given) {
                let values = parameters.get(&given)?.to_f32_vec()?;
                let one = if let [one] = values[..] {
                    one
                } else {
                    f32::NAN
                };
                check_scale(&parameters.origin(), &given, one)?;
                input = Some(one);
            }
        }
        Ok(Some(Self {
            name: name.to_owned(),
            weight: scale,
            input,
        }))
    }

    fn granularity(&self) -> Granularity {
        match (self.weight.element_count() > 1, self.input.is_some()) {
            (false, true) => Granularity::PerTensor,
            (true, true) => Granularity::PerChannel,
            (true, false) => Granularity::PerRow,
            (false, false) => Granularity::WeightOnly,
        }
    }
}

/// The scales of linears that read one value. Where all have the same, they share them.
fn add(scales: &mut Scales, group: &[Linear]) -> Result<()> {
    let first = &group[0];
    let same_inputs = group.iter().all(|linear| linear.input == first.input);
    let same_weights = group.iter().all(|linear| {
        linear.weight.element_count() == 1 && linear.weight.bytes() == first.weight.bytes()
    });
    for linear in group {
        let name = format!("{}.weight", linear.name);
        if same_weights && linear.name != first.name {
            scales.share(name, format!("{}.weight", first.name));
        } else {
            scales.insert_tensor(name, &linear.weight)?;
        }
        if let Some(input) = linear.input {
            scales.insert(format!("{}.input", linear.name), input)?;
        }
        if !same_inputs {
            scales.keep_separate(linear.name.as_str());
        }
    }
    Ok(())
}

const INPUT_SCALES: [&str; 2] = ["input_scale", "scale_input"];
