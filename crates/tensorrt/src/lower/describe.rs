//! A lowered graph as text, a layer a line, in the manner of the graph's own text form.
//!
//! ```text
//! network "mlp" {
//!   size tokens = 1..=64, fastest for 8
//!   input %x: bf16[tokens, 8]
//!   weight @up.weight: bf16[32, 8]
//!   %0: bf16[tokens, 32] = matrix_multiply %x, @up.weight {turned = [false, true]}  # up linear
//!   output y = %0
//! }
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;

use super::layers::{InputKind, Kind, Layer, Layers, PlacedWeight, Tensor, WeightSource};

impl Layers {
    /// The layers as text. Layers that compute sizes are not shown: sizes are polynomials here.
    pub fn describe(&self) -> String {
        let names = self.names();
        let mut text = format!("network {:?} {{\n", self.name);
        for (symbol, range) in self.symbols.dynamic() {
            let (min, max, opt) = (range.min, range.max, range.opt);
            line(
                &mut text,
                format_args!("size {symbol} = {min}..={max}, fastest for {opt}"),
            );
        }
        for input in &self.inputs {
            let only_size = match &input.kind {
                InputKind::Value => "",
                InputKind::Symbol(_) => "  # only its size",
            };
            line(
                &mut text,
                format_args!("input %{}: {}{only_size}", input.tensor, input.ty),
            );
        }
        for weight in &self.weights {
            line(&mut text, format_args!("{}", weight_line(weight)));
        }
        for layer in &self.all {
            if !matches!(layer.kind, Kind::Constant(_)) {
                let name = &layer.name;
                line(
                    &mut text,
                    format_args!("{}  # {name}", self.line_with(layer, &names)),
                );
            }
        }
        for (output, tensor) in self.outputs.iter().zip(&self.output_tensors) {
            line(
                &mut text,
                format_args!("output {} = {}", output.tensor, names[tensor]),
            );
        }
        text.push_str("}\n");
        text
    }

    /// One layer, for an error.
    pub(super) fn line(&self, layer: &Layer) -> String {
        self.line_with(layer, &self.names())
    }

    fn line_with(&self, layer: &Layer, names: &HashMap<Tensor, String>) -> String {
        let operands: Vec<_> = layer
            .inputs
            .iter()
            .map(|input| names[input].as_str())
            .collect();
        let space = if operands.is_empty() { "" } else { " " };
        format!(
            "{}: {} = {}{space}{}{}",
            names[&layer.output],
            self.ty(layer.output),
            layer.kind.name(),
            operands.join(", "),
            attributes(&layer.kind),
        )
    }

    /// What each tensor is called: an input or constant by its name, others by number.
    fn names(&self) -> HashMap<Tensor, String> {
        let mut names = HashMap::new();
        for (input, &tensor) in self.inputs.iter().zip(&self.input_tensors) {
            names.insert(tensor, format!("%{}", input.tensor));
        }
        let mut number = 0;
        for layer in &self.all {
            let name = if let Kind::Constant(weight) = layer.kind {
                format!("@{}", self.weights[weight].name)
            } else {
                number += 1;
                format!("%{}", number - 1)
            };
            names.insert(layer.output, name);
        }
        names
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "  {content}").expect("a text takes all");
}

fn weight_line(weight: &PlacedWeight) -> String {
    let sizes: Vec<_> = weight.sizes.iter().map(ToString::to_string).collect();
    let ty = format!("{}[{}]", weight.dtype, sizes.join(", "));
    match &weight.source {
        WeightSource::Placeholder => format!("weight @{}: {ty}", weight.name),
        WeightSource::Literal(values) => {
            let shown = match values.to_i64_vec() {
                Ok(whole) => shortened(&whole),
                Err(_) => shortened(&values.to_f32_vec().unwrap_or_default()),
            };
            format!("literal @{}: {ty} = {shown}", weight.name)
        }
    }
}

/// All values if they are few, one if they are equal, else the first.
fn shortened<T: PartialEq + std::fmt::Debug>(values: &[T]) -> String {
    let all_equal = values.windows(2).all(|pair| pair[0] == pair[1]);
    let shown = if all_equal { 1 } else { 3 }.min(values.len());
    let texts = values[..shown].iter().map(|value| format!("{value:?}"));
    let text = texts.collect::<Vec<_>>().join(", ");
    if all_equal || values.len() == shown {
        text
    } else {
        format!("{text}, …")
    }
}

/// What the type and the name do not tell.
fn attributes(kind: &Kind) -> String {
    match kind {
        Kind::Clip(min, max) => format!(" {{min = {min:?}, max = {max:?}}}"),
        Kind::Transpose(permutation) => format!(" {{permutation = {permutation:?}}}"),
        Kind::Slice(starts) => format!(" {{start = {starts:?}}}"),
        Kind::Gather { axis, elementwise } if *elementwise > 0 => {
            format!(" {{axis = {axis}, elementwise = {elementwise}}}")
        }
        Kind::Concatenate(axis) | Kind::Softmax(axis) | Kind::Gather { axis, .. } => {
            format!(" {{axis = {axis}}}")
        }
        Kind::Reduce(_, axes) => format!(" {{axes = {:?}}}", bits(*axes)),
        Kind::MatrixMultiply([false, false]) => String::new(),
        Kind::MatrixMultiply(turned) => format!(" {{turned = {turned:?}}}"),
        Kind::Normalization(options) => format!(
            " {{axes = {:?}, groups = {}, epsilon = {:?}}}",
            bits(options.axes),
            options.groups,
            options.epsilon
        ),
        Kind::Convolution(options) => format!(
            " {{stride = {:?}, padding = {:?}, groups = {}}}",
            options.stride, options.padding, options.groups
        ),
        Kind::Resize(scales) => format!(" {{scales = {scales:?}}}"),
        Kind::Attention(options) if options.quantized => " {quantized = true}".to_owned(),
        Kind::Attention(options) if options.causal => " {causal = true}".to_owned(),
        Kind::Quantize(Some(axis)) | Kind::Dequantize(Some(axis)) => format!(" {{axis = {axis}}}"),
        _ => String::new(),
    }
}

/// The numbers of the bits that are set.
fn bits(set: u32) -> Vec<u32> {
    (0..u32::BITS).filter(|bit| set >> bit & 1 == 1).collect()
}
