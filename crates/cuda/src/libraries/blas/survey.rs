//! Which products of a plan cuBLASLt can express.

use super::layout::ProductLayout;
use crate::{Plan, Step, Work};

/// The products of a plan, by whether they have a [`ProductLayout`].
pub(crate) struct Survey<'p> {
    /// Those that have one.
    pub(crate) expressed: Vec<(&'p Step, ProductLayout)>,
    /// Those that need another kernel.
    pub(crate) others: Vec<&'p Step>,
}

impl<'p> Survey<'p> {
    /// Looks at each product; pure.
    pub(crate) fn of(plan: &'p Plan) -> Self {
        let mut survey = Self {
            expressed: Vec::new(),
            others: Vec::new(),
        };
        for step in &plan.steps {
            let Work::Product(product) = &step.work else {
                continue;
            };
            match ProductLayout::new(product) {
                Some(layout) => survey.expressed.push((step, layout)),
                None => survey.others.push(step),
            }
        }
        survey
    }

    /// The different layouts, each with how often it is there.
    pub(crate) fn layouts(&self) -> Vec<(&ProductLayout, usize)> {
        let mut layouts: Vec<(&ProductLayout, usize)> = Vec::new();
        for (_, layout) in &self.expressed {
            match layouts.iter_mut().find(|(other, _)| *other == layout) {
                Some((_, count)) => *count += 1,
                None => layouts.push((layout, 1)),
            }
        }
        layouts
    }
}

#[cfg(test)]
mod tests {
    use tintype_ir::passes::{Options, optimize};
    use tintype_ir::{Binding, Graph, StagedGraph};
    use tintype_models::{
        AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions,
        FluxTransformerConfig, FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
    };
    use tintype_tensor::DType;

    use super::*;

    const DTYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

    /// The layouts of all programs of a graph, with their numbers, once all are expressed.
    fn layouts(graph: &Graph, sizes: &[(&str, usize)]) -> Vec<(String, usize)> {
        let graph = optimize(graph, &Options::default(), None).unwrap();
        let staged = StagedGraph::split(&graph).unwrap().canonical().unwrap();
        let mut binding = Binding::new();
        for (symbol, size) in sizes {
            binding.set(symbol, *size);
        }
        let mut all = Vec::new();
        let programs = [&staged.request, &staged.step];
        for program in programs
            .into_iter()
            .filter(|program| !program.nodes().is_empty())
        {
            let plan = Plan::new(program, &binding).unwrap();
            let survey = Survey::of(&plan);
            assert!(survey.others.is_empty(), "{:#?}", survey.others);
            let layouts = survey.layouts().into_iter();
            all.extend(layouts.map(|(layout, count)| (layout.to_string(), count)));
        }
        assert!(!all.is_empty());
        all
    }

    #[test]
    fn all_products_of_flux_are_expressed() {
        for dtype in DTYPES {
            for batch in [1, 2] {
                let options = FluxTransformerOptions {
                    dtype,
                    batch: batch..=batch,
                    ..FluxTransformerOptions::default()
                };
                let config = FluxTransformerConfig {
                    num_layers: 2,
                    num_single_layers: 2,
                    ..FluxTransformerConfig::dev()
                };
                let graph = config.graph(&options).unwrap();
                let tokens = [("image_tokens", 4096), ("text_tokens", 512)];
                let all = layouts(&graph, &[("steps", 20), tokens[0], tokens[1]]);
                let feed_forward = "tn 12288x4608x3072 a=bf16:3072@16 b=bf16:3072@256 \
                    d=bf16:15360@16 bias=bf16 gelu";
                let is_there = all.iter().any(|(text, _)| text == feed_forward);
                assert_eq!(is_there, dtype == DType::BF16 && batch == 1, "{all:#?}");
            }
        }
    }

    #[test]
    fn all_products_of_text_encoders_are_expressed() {
        for dtype in DTYPES {
            let options = T5EncoderOptions {
                dtype,
                ..T5EncoderOptions::default()
            };
            let graph = T5EncoderConfig::xxl().graph(&options).unwrap();
            layouts(&graph, &[("batch", 2), ("tokens", 512)]);
            let options = ClipTextOptions {
                dtype,
                ..ClipTextOptions::default()
            };
            let graph = ClipTextConfig::large().graph(&options).unwrap();
            layouts(&graph, &[("batch", 2), ("tokens", 77)]);
        }
    }

    #[test]
    fn all_products_of_the_decoder_are_expressed() {
        for dtype in DTYPES {
            let options = DecoderOptions {
                dtype,
                ..DecoderOptions::default()
            };
            let graph = AutoencoderKlConfig::flux().decoder(&options).unwrap();
            let sizes = [("batch", 1), ("latent_height", 128), ("latent_width", 96)];
            layouts(&graph, &sizes);
        }
    }
}
