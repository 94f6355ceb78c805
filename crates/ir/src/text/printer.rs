//! Graph to text.

use std::fmt;

use super::attributes::{Attribute, attributes};
use super::lexer::is_plain_name;
use crate::{Graph, Node, Value};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {} {{", Quoted(&self.name))?;
        for (symbol, range) in &self.symbols {
            writeln!(f, "  dim {symbol} = {}..={}", range.start(), range.end())?;
        }
        for parameter in &self.parameters {
            writeln!(f, "  param @{}: {}", Name(&parameter.name), parameter.ty)?;
        }
        for input in &self.inputs {
            writeln!(
                f,
                "  input {} %{}: {}",
                input.stage,
                InputName(&input.name),
                input.ty
            )?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            self.write_node(f, index, node)?;
        }
        for output in &self.outputs {
            writeln!(
                f,
                "  output {} = {}",
                Name(&output.name),
                Operand(self, output.value)
            )?;
        }
        f.write_str("}\n")
    }
}

impl Graph {
    fn write_node(&self, f: &mut fmt::Formatter<'_>, index: usize, node: &Node) -> fmt::Result {
        write!(f, "  %{index}: {} = {}", node.ty, node.op.name())?;
        for (position, &operand) in node.operands.iter().enumerate() {
            f.write_str(if position == 0 { " " } else { ", " })?;
            write!(f, "{}", Operand(self, operand))?;
        }
        let attributes = attributes(&node.op);
        for (position, (name, attribute)) in attributes.iter().enumerate() {
            f.write_str(if position == 0 { " {" } else { ", " })?;
            write!(f, "{name} = {}", Shown(attribute))?;
        }
        f.write_str(if attributes.is_empty() { "" } else { "}" })?;
        if let Some(label) = &node.label {
            write!(f, "  # {}", Name(label))?;
        }
        writeln!(f)
    }
}

struct Operand<'a>(&'a Graph, Value);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Value::Input(index) => write!(f, "%{}", InputName(&self.0.inputs[index].name)),
            Value::Parameter(index) => write!(f, "@{}", Name(&self.0.parameters[index].name)),
            Value::Node(index) => write!(f, "%{index}"),
        }
    }
}

/// A name, in quotes where it is not plain.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_plain_name(self.0) {
            f.write_str(self.0)
        } else {
            write!(f, "{}", Quoted(self.0))
        }
    }
}

/// The name of an input: in quotes also where it begins with a digit, since
/// plain numbers are results.
struct InputName<'a>(&'a str);

impl fmt::Display for InputName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.starts_with(|c: char| c.is_ascii_digit()) {
            write!(f, "{}", Quoted(self.0))
        } else {
            write!(f, "{}", Name(self.0))
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                other => write!(f, "{other}")?,
            }
        }
        f.write_str("\"")
    }
}

struct Shown<'a>(&'a Attribute);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Attribute::Integer(value) => write!(f, "{value}"),
            Attribute::Float(value) => write_float(f, *value),
            Attribute::Bool(value) => write!(f, "{value}"),
            Attribute::Dim(dim) => write!(f, "{dim}"),
            Attribute::Integers(values) => write_list(f, values, |f, value| write!(f, "{value}")),
            Attribute::Floats(values) => write_list(f, values, |f, value| write_float(f, *value)),
        }
    }
}

fn write_list<T>(
    f: &mut fmt::Formatter<'_>,
    values: &[T],
    mut write_value: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("[")?;
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write_value(f, value)?;
    }
    f.write_str("]")
}

/// The shortest text that reads back as the same value, always with a point or exponent.
fn write_float(f: &mut fmt::Formatter<'_>, value: f32) -> fmt::Result {
    if value.is_nan() {
        // The bits tell NaNs apart; the sign and payload are kept.
        return write!(f, "nan:{:08x}", value.to_bits());
    }
    if value.is_infinite() {
        return f.write_str(if value > 0.0 { "inf" } else { "-inf" });
    }
    write!(f, "{value:?}")
}
