//! Changes that fail, as far as any backend can be made to.

use tintype_ir::{Overlay, parse};
use tintype_refit::{Change, DefineError, Given, MutableModule};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use super::super::Result;
use super::subject::{Subject, expect_other, expect_same, outputs};

/// A change that must be refused, and what its error must name.
type Failure = (
    &'static str,
    fn(&MutableModule) -> tintype_refit::Result<()>,
);

const FAILURES: [Failure; 20] = [
    ("`out.bias`", |module| {
        module.change(|change| edited(change, "out.bias", f32::NAN))
    }),
    ("`gain`", |module| {
        module.change(|change| edited(change, "gain", f32::INFINITY))
    }),
    ("`qkv.weight`", |module| {
        module.change(|change| edited(change, "qkv.weight", f32::NEG_INFINITY))
    }),
    ("`out.weight`", |module| {
        let mut edit = module.edit();
        edit.edit("out.weight", |values| values[1] = f32::NAN)?;
        edit.finish()
    }),
    ("`modulation.bias`", |module| {
        module
            .edit()
            .edit("modulation.bias", |values| values[1] = f32::NAN)?;
        module.apply().map(drop)
    }),
    ("[63]", |module| {
        module.change(|change| set(change, "out.bias", ones(&[63])))
    }),
    ("[65, 64]", |module| {
        module.change(|change| set(change, "out.weight", ones(&[65, 64])))
    }),
    ("[1, 64]", |module| {
        replaced(module, "out.bias", ones(&[1, 64]))
    }),
    ("`gain`", |module| without(module, "gain")),
    ("`qkv.weight`", |module| without(module, "qkv.weight")),
    ("`biases`", |module| {
        module.change(|change| set(change, "biases", ones(&[64])))
    }),
    ("i64", |module| {
        let integers = Tensor::new([64], vec![1i64; 64])?;
        replaced(module, "out.bias", integers)
    }),
    ("`nothing`", |module| {
        overlaid(module, "nothing", WIDE, ones(&[64]))
    }),
    ("[32]", |module| {
        let narrow = WIDE.replace("64", "32");
        overlaid(module, "out.bias", &narrow, ones(&[32]))
    }),
    ("`more`", |module| {
        overlaid(module, "out.bias", WIDE, ones(&[32]))
    }),
    ("`more`", |module| {
        let broken = Tensor::from_f32([64], vec![f32::NAN; 64])?;
        overlaid(module, "out.bias", WIDE, broken)
    }),
    ("`more`", |module| {
        let unknown = WIDE.replace("@more", "@other");
        let unknown = unknown.replace(
            "@base: DTYPE[64]",
            "@base: DTYPE[64] param @more: DTYPE[64]",
        );
        let unknown = unknown.replace("add @base", "add @more");
        overlaid_with(module, "out.bias", &unknown, "other", ones(&[64]))
    }),
    ("no graph today", |module| {
        let define = |_: &Given| Err::<_, DefineError>("no graph today".into());
        module.change(|change| {
            change.define(define);
            Ok(())
        })
    }),
    ("`w`", |module| {
        let graph = "graph other { param @w: f32[4] input step %x: f32[4]
                     %0: f32[4] = mul %x, @w output y = %0 }";
        let graph = parse(graph)?;
        module.change(|change| {
            change.set_overlays([], Parameters::default());
            change.define(graph);
            Ok(())
        })
    }),
    ("`nowhere`", |module| {
        module.change(|change| {
            set(change, "out.bias", ones(&[64]))?;
            set(change, "nowhere", ones(&[64]))
        })
    }),
];

/// All of them one after another; the bits stay, and the next good change works.
pub(super) fn refused(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 24)?);
    subject.adapter("worn", 0.2)?.set(&module)?;
    let before = outputs(&module, &inputs)?;
    for (index, (names, fails)) in FAILURES.iter().enumerate() {
        let error = match fails(&module) {
            Ok(()) => return Err(format!("failure {index} ({names}) was taken").into()),
            Err(error) => error.to_string(),
        };
        if !error.contains(names) {
            return Err(format!("expected {names} in: {error}").into());
        }
        expect_same(&outputs(&module, &inputs)?, &before)
            .map_err(|error| format!("after `{names}`: {error}"))?;
    }
    let bias = subject.random(&[64], 0.5)?;
    module.edit().set("out.bias", bias)?;
    expect_other(&outputs(&module, &inputs)?, &before)?;
    subject.expect_fresh(&module, &inputs)?;
    Ok(format!("{} failures", FAILURES.len()))
}

/// An overlay on a bias.
const WIDE: &str = "graph wide { param @base: DTYPE[64] param @more: DTYPE[64]
                    %0: DTYPE[64] = add @base, @more output weight = %0 }";

fn ones(shape: &[usize]) -> Tensor {
    let values = vec![1.0; shape.iter().product()];
    Tensor::from_f32(shape.to_vec(), values).expect("as many as the shape says")
}

fn set(change: &mut Change, name: &str, tensor: Tensor) -> tintype_refit::Result<()> {
    change.parameters_mut().set(name, tensor)?;
    Ok(())
}

fn edited(change: &mut Change, name: &str, value: f32) -> tintype_refit::Result<()> {
    change
        .parameters_mut()
        .edit(name, |values| values[2] = value)?;
    Ok(())
}

/// A parameter replaced without asking whether it fits.
fn replaced(module: &MutableModule, name: &str, tensor: Tensor) -> tintype_refit::Result<()> {
    let builder = Parameters::builder().parameters(&module.weights().parameters);
    let parameters = builder.tensor(name, tensor).build()?;
    module.change(|change| {
        *change.parameters_mut() = parameters;
        Ok(())
    })
}

fn without(module: &MutableModule, name: &str) -> tintype_refit::Result<()> {
    let keep = |other: &str| (other != name).then(|| other.to_owned());
    let parameters = module.weights().parameters.renamed(keep)?;
    module.change(|change| {
        *change.parameters_mut() = parameters;
        Ok(())
    })
}

fn overlaid(
    module: &MutableModule,
    parameter: &str,
    text: &str,
    more: Tensor,
) -> tintype_refit::Result<()> {
    overlaid_with(module, parameter, text, "more", more)
}

/// An overlay beside the one that is there, which it would replace.
fn overlaid_with(
    module: &MutableModule,
    parameter: &str,
    text: &str,
    name: &str,
    more: Tensor,
) -> tintype_refit::Result<()> {
    let dtype = module.weights().parameters.info("out.bias")?.dtype;
    let fragment = parse(&text.replace("DTYPE", dtype.name()))?;
    let overlay = Overlay::new(parameter, fragment)?;
    let own = Parameters::builder().tensor(name, more).build()?;
    module.change(|change| {
        change.set_overlays([overlay], own);
        Ok(())
    })
}
