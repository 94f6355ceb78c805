//! Layers in operations of the IR.

use std::collections::HashMap;
use std::fmt::Write as _;

use tintype_conformance::operations::Result;
use tintype_ir::{Graph, parse};

/// The graph that a listing says.
pub(crate) fn to_graph(listing: &str) -> Result<Graph> {
    let mut reader = Reader::default();
    for line in listing.lines() {
        let line = line.split("  #").next().unwrap_or_default().trim();
        reader.line(line)?;
    }
    let text = format!(
        "graph \"said\" {{\n{}{}{}}}\n",
        reader.head, reader.nodes, reader.outputs
    );
    parse(&text).map_err(|error| format!("{error}\n{text}").into())
}

#[derive(Default)]
struct Reader {
    head: String,
    nodes: String,
    outputs: String,
    count: usize,
    /// The name and the type here of each name there.
    known: HashMap<String, (String, Type)>,
}

/// A type as text.
#[derive(Clone, Debug, PartialEq)]
struct Type {
    dtype: String,
    dims: Vec<String>,
}

impl Type {
    fn read(text: &str) -> Self {
        let (dtype, dims) = text.trim().trim_end_matches(']').split_once('[').unwrap();
        let dims = dims.split(',').map(str::trim).filter(|dim| !dim.is_empty());
        Self {
            dtype: dtype.to_owned(),
            dims: dims.map(str::to_owned).collect(),
        }
    }

    fn text(&self) -> String {
        format!("{}[{}]", self.dtype, self.dims.join(", "))
    }

    fn of(&self, dtype: &str) -> Self {
        Self {
            dtype: dtype.to_owned(),
            dims: self.dims.clone(),
        }
    }

    fn with(&self, dims: &[&str]) -> Self {
        let dims = dims.iter().map(|dim| (*dim).to_owned()).collect();
        Self {
            dtype: self.dtype.clone(),
            dims,
        }
    }

    fn is_float(&self) -> bool {
        matches!(self.dtype.as_str(), "f32" | "f16" | "bf16" | "f8e4m3")
    }

    fn moved(&self, permutation: &[usize]) -> Self {
        let dims = permutation
            .iter()
            .map(|&axis| self.dims[axis].clone())
            .collect();
        Self {
            dtype: self.dtype.clone(),
            dims,
        }
    }
}

/// A value here.
type Value = (String, Type);

impl Reader {
    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(size) = line.strip_prefix("size ") {
            let range = size.split(", fastest").next().unwrap();
            writeln!(self.head, "dim {range}")?;
        } else if let Some(input) = line.strip_prefix("input ") {
            let (name, ty) = input.split_once(": ").unwrap();
            writeln!(self.head, "input step {name}: {ty}")?;
            self.known
                .insert(name.to_owned(), (name.to_owned(), Type::read(ty)));
        } else if let Some(weight) = line
            .strip_prefix("weight ")
            .or(line.strip_prefix("literal "))
        {
            let (name, ty) = weight.split_once(": ").unwrap();
            let ty = ty.split(" = ").next().unwrap();
            let quoted = format!("@{:?}", &name[1..]);
            writeln!(self.head, "param {quoted}: {ty}")?;
            self.known.insert(name.to_owned(), (quoted, Type::read(ty)));
        } else if let Some(output) = line.strip_prefix("output ") {
            let (name, value) = output.split_once(" = ").unwrap();
            writeln!(self.outputs, "output {name} = {}", self.known[value].0)?;
        } else if line.starts_with('%') {
            self.layer(line)?;
        }
        Ok(())
    }

    fn layer(&mut self, line: &str) -> Result<()> {
        let (name, rest) = line.split_once(": ").unwrap();
        let (ty, rest) = rest.split_once(" = ").unwrap();
        let (rest, attributes) = rest.split_once(" {").unwrap_or((rest, ""));
        let (kind, operands) = rest.split_once(' ').unwrap_or((rest, ""));
        // Names of literals have commas, but no blank after them.
        let operands = operands.split(", ").filter(|name| !name.is_empty());
        let operands: Vec<Value> = operands.map(|name| self.known[name].clone()).collect();
        let attributes = attributes.trim_end_matches('}');
        let result = self.said(kind, &operands, attributes, &Type::read(ty))?;
        if result.1 != Type::read(ty) {
            return Err(format!("{line}: said as {}", result.1.text()).into());
        }
        self.known.insert(name.to_owned(), result);
        Ok(())
    }

    fn said(&mut self, kind: &str, x: &[Value], with: &str, ty: &Type) -> Result<Value> {
        Ok(match kind {
            "abs" if !ty.is_float() => {
                let zero = self.constant(ty, "0");
                let negated = self.op("sub", &[&zero, &x[0]], "", ty);
                self.op("max", &[&negated, &x[0]], "", ty)
            }
            "exp" | "log" | "sqrt" | "reciprocal" | "abs" | "neg" | "sin" | "cos" | "erf"
            | "sigmoid" | "tanh" | "gelu_erf" | "gelu_tanh" | "max" | "min" | "equal" | "less"
            | "select" | "cast" | "reshape" | "softmax" => {
                let operands: Vec<&Value> = x.iter().collect();
                self.op(kind, &operands, "", ty)
            }
            "identity" => self.op("reshape", &[&x[0]], "", ty),
            "repeat" => self.op("broadcast", &[&x[0]], "", ty),
            "count" => self.op("iota", &[], "axis = 0", ty),
            "clip" => self.op("clamp", &[&x[0]], with, ty),
            "transpose" => self.op("transpose", &[&x[0]], with, ty),
            "concatenate" => {
                let operands: Vec<&Value> = x.iter().collect();
                self.op("concat", &operands, with, ty)
            }
            "sum" => self.op("add", &[&x[0], &x[1]], "", ty),
            "product" => self.op("mul", &[&x[0], &x[1]], "", ty),
            "difference" => self.op("sub", &[&x[0], &x[1]], "", ty),
            "quotient" => self.op("div", &[&x[0], &x[1]], "", ty),
            "power" => self.op("pow", &[&x[0], &x[1]], "", ty),
            "floor_quotient" => self.floor_quotient(x, ty),
            "round" => self.round(&x[0], ty),
            "not" => {
                let (no, yes) = (self.constant(ty, "0"), self.constant(ty, "1"));
                self.op("select", &[&x[0], &no, &yes], "", ty)
            }
            "gather" if with.contains("elementwise") => {
                self.op("gather_rows", &[&x[0], &x[1]], "", ty)
            }
            "gather" => self.op("gather", &[&x[0], &x[1]], with, ty),
            "slice" => self.slice(&x[0], with, ty),
            "reduce_sum" | "reduce_mean" | "reduce_max" | "reduce_min" => {
                self.reduce(kind, &x[0], with, ty)
            }
            "matrix_multiply" => self.product(x, with, ty),
            "normalization" => self.normalization(x, with, ty),
            "convolution" => {
                let operands: Vec<&Value> = x.iter().collect();
                self.op("conv2d", &operands, with, ty)
            }
            "resize" => {
                let factor = with.rsplit(", ").next().unwrap().trim_end_matches(".0]");
                self.op(
                    "upsample_nearest",
                    &[&x[0]],
                    &format!("factor = {factor}"),
                    ty,
                )
            }
            "rotary_embedding" => self.rotary(x, ty),
            "attention" => self.attention(x, with, ty),
            "quantize" | "dequantize" => self.scaled(kind, x, ty),
            other => return Err(format!("nothing is said of {other}").into()),
        })
    }

    fn op(&mut self, name: &str, operands: &[&Value], with: &str, ty: &Type) -> Value {
        let names: Vec<_> = operands.iter().map(|operand| operand.0.as_str()).collect();
        let attributes = if with.is_empty() {
            String::new()
        } else {
            format!(" {{{with}}}")
        };
        let result = format!("%{}", self.count);
        self.count += 1;
        let (ty_text, names) = (ty.text(), names.join(", "));
        writeln!(
            self.nodes,
            "{result}: {ty_text} = {name} {names}{attributes}"
        )
        .unwrap();
        (result, ty.clone())
    }

    /// One number of a type's dtype, without axes.
    fn constant(&mut self, ty: &Type, value: &str) -> Value {
        self.op("constant", &[], &format!("values = {value}"), &ty.with(&[]))
    }

    /// Towards negative infinity: a quotient of numbers made positive.
    fn floor_quotient(&mut self, x: &[Value], ty: &Type) -> Value {
        let shift = self.constant(ty, "65536");
        let raised = self.op("mul", &[&x[1], &shift], "", &x[1].1.clone());
        let positive = self.op("add", &[&x[0], &raised], "", ty);
        let quotient = self.op("div", &[&positive, &x[1]], "", ty);
        self.op("sub", &[&quotient, &shift], "", ty)
    }

    /// To even: a sum with a number whose last bit counts one.
    fn round(&mut self, x: &Value, ty: &Type) -> Value {
        let large = self.constant(ty, "12582912.0");
        let sum = self.op("add", &[x, &large], "", ty);
        self.op("sub", &[&sum, &large], "", ty)
    }

    fn slice(&mut self, x: &Value, with: &str, ty: &Type) -> Value {
        let starts = with.split_once('[').unwrap().1.trim_end_matches(']');
        let starts: Vec<&str> = starts.split(", ").collect();
        let mut result = x.clone();
        for (axis, start) in starts.iter().enumerate() {
            let size = &ty.dims[axis];
            if result.1.dims[axis] == *size {
                continue;
            }
            let mut part = result.1.clone();
            part.dims[axis].clone_from(size);
            let with = format!("axis = {axis}, start = {start}, end = {start} + {size}");
            result = self.op("slice", &[&result], &with, &part);
        }
        result
    }

    /// Whole numbers through f32, the least as the greatest of the negated.
    fn reduce(&mut self, kind: &str, x: &Value, with: &str, ty: &Type) -> Value {
        if x.1.is_float() && kind != "reduce_min" {
            return self.op(kind, &[x], with, ty);
        }
        let wide = self.op("cast", &[x], "", &x.1.of("f32"));
        let is_min = kind == "reduce_min";
        let turned = if is_min {
            self.op("neg", &[&wide], "", &wide.1)
        } else {
            wide
        };
        let greatest = self.op("reduce_max", &[&turned], with, &ty.of("f32"));
        let back = if is_min {
            self.op("neg", &[&greatest], "", &greatest.1)
        } else {
            greatest
        };
        self.op("cast", &[&back], "", ty)
    }

    fn product(&mut self, x: &[Value], with: &str, ty: &Type) -> Value {
        let turned: Vec<bool> = match with.split_once('[') {
            Some((_, list)) => list
                .trim_end_matches(']')
                .split(", ")
                .map(|word| word == "true")
                .collect(),
            None => vec![false, false],
        };
        let operands: Vec<Value> = x
            .iter()
            .zip(turned)
            .map(|(operand, turned)| {
                let rank = operand.1.dims.len();
                let mut permutation: Vec<usize> = (0..rank).collect();
                permutation.swap(rank - 2, rank - 1);
                if turned {
                    self.transpose(operand, &permutation)
                } else {
                    operand.clone()
                }
            })
            .collect();
        self.op("matmul", &[&operands[0], &operands[1]], "", ty)
    }

    fn transpose(&mut self, x: &Value, permutation: &[usize]) -> Value {
        let with = format!("permutation = {permutation:?}");
        self.op("transpose", &[x], &with, &x.1.moved(permutation))
    }

    fn normalization(&mut self, x: &[Value], with: &str, ty: &Type) -> Value {
        let (axes, rest) = with
            .strip_prefix("axes = [")
            .unwrap()
            .split_once("], ")
            .unwrap();
        let (groups, epsilon) = rest.split_once(", ").unwrap();
        let channel = if axes.contains(',') {
            1
        } else {
            ty.dims.len() - 1
        };
        let size = ty.dims[channel].clone();
        let [scale, bias] = [1, 2].map(|operand: usize| {
            self.op("reshape", &[&x[operand]], "", &x[operand].1.with(&[&size]))
        });
        let operands = [&x[0], &scale, &bias];
        if axes.contains(',') {
            return self.op("group_norm", &operands, &format!("{groups}, {epsilon}"), ty);
        }
        self.op("layer_norm", &operands, epsilon, ty)
    }

    /// Caches are the same for each batch; the greatest is any of them.
    fn rotary(&mut self, x: &[Value], ty: &Type) -> Value {
        let parts = [1, 2].map(|part: usize| {
            let dims = x[part].1.dims.clone();
            let one = x[part].1.with(&["1", &dims[1], &dims[2]]);
            let first = self.op("reduce_max", &[&x[part]], "axes = [0]", &one);
            self.op(
                "reshape",
                &[&first],
                "",
                &one.with(&[&dims[1], &dims[2], "1"]),
            )
        });
        let dims = parts[0].1.dims.clone();
        let table = parts[0].1.with(&[&dims[0], &dims[1], "2"]);
        let table = self.op("concat", &[&parts[0], &parts[1]], "axis = 2", &table);
        let rows = self.transpose(&x[0], &[0, 2, 1, 3]);
        let turned = self.op("rotary", &[&rows, &table], "", &rows.1);
        debug_assert_eq!(turned.1.moved(&[0, 2, 1, 3]), *ty);
        self.transpose(&turned, &[0, 2, 1, 3])
    }

    fn attention(&mut self, x: &[Value], with: &str, ty: &Type) -> Value {
        if with.contains("quantized = true") {
            return self.attention_of_codes(x, ty);
        }
        let mut operands: Vec<Value> = x[..3]
            .iter()
            .map(|operand| self.transpose(operand, &[0, 2, 1, 3]))
            .collect();
        operands.extend(x.get(3).cloned());
        let operands: Vec<&Value> = operands.iter().collect();
        let causal = with.contains("causal = true");
        let with = format!("scale = 1.0, causal = {causal}");
        let result = self.op("attention", &operands, &with, &ty.moved(&[0, 2, 1, 3]));
        self.transpose(&result, &[0, 2, 1, 3])
    }

    /// In f32, with probabilities that go through codes by the last operand, their scale.
    fn attention_of_codes(&mut self, x: &[Value], ty: &Type) -> Value {
        let [q, k, v] = [0, 1, 2].map(|index: usize| {
            let wide = x[index].1.of("f32");
            self.op("cast", &[&x[index]], "", &wide)
        });
        let keys = self.transpose(&k, &[0, 1, 3, 2]);
        let mut of_scores = q.1.clone();
        of_scores.dims[3].clone_from(&k.1.dims[2]);
        let scores = self.op("matmul", &[&q, &keys], "", &of_scores);
        let weights = self.op("softmax", &[&scores], "", &of_scores);
        let codes = self.scaled(
            "quantize",
            &[weights, x[3].clone()],
            &of_scores.of("f8e4m3"),
        );
        let weights = self.scaled("dequantize", &[codes, x[3].clone()], &of_scores);
        let result = self.op("matmul", &[&weights, &v], "", &v.1.clone());
        self.op("cast", &[&result], "", ty)
    }

    fn scaled(&mut self, kind: &str, x: &[Value], ty: &Type) -> Value {
        let operation = if kind == "quantize" { "div" } else { "mul" };
        let wide = self.op("cast", &[&x[0]], "", &x[0].1.of("f32"));
        let scaled = self.op(operation, &[&wide, &x[1]], "", &wide.1);
        if ty.dtype == "f32" {
            scaled
        } else {
            self.op("cast", &[&scaled], "", ty)
        }
    }
}
