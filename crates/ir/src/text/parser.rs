//! Text to graph. Types of results are read, not inferred: [`crate::verify`]
//! holds them against inference afterwards.

use std::collections::HashMap;
use std::sync::Arc;

use super::attributes::{Attribute, build, dtype};
use super::lexer::{Spanned, Token, tokens};
use crate::{
    Dim, Error, Graph, Input, Node, Output, Parameter, Result, Stage, Symbol, TensorType, Value,
};

/// Reads the text form of one graph.
///
/// Names must be declared before their use. Numbers of results may be any, as
/// long as they differ; the graph numbers them from 0 in order.
pub fn parse(text: &str) -> Result<Graph> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        position: 0,
        graph: Graph::default(),
        inputs: HashMap::new(),
        parameters: HashMap::new(),
        results: HashMap::new(),
    };
    parser.graph()?;
    Ok(parser.graph)
}

struct Parser {
    tokens: Vec<Spanned>,
    position: usize,
    graph: Graph,
    inputs: HashMap<String, usize>,
    parameters: HashMap<String, usize>,
    results: HashMap<String, usize>,
}

impl Parser {
    fn graph(&mut self) -> Result<()> {
        self.keyword("graph")?;
        self.graph.name = self.name("the graph's name")?;
        self.mark("{")?;
        while !self.accept("}") {
            self.item()?;
        }
        match self.peek() {
            Token::End => Ok(()),
            _ => self.unexpected("the end of the text"),
        }
    }

    fn item(&mut self) -> Result<()> {
        if self.accept("%") {
            return self.node();
        }
        match self
            .name("dim, param, input, output, a result or `}`")?
            .as_str()
        {
            "dim" => self.dim_declaration(),
            "param" => self.parameter(),
            "input" => self.input(),
            "output" => self.output(),
            other => self.error(format!(
                "expected dim, param, input, output or a result, found `{other}`"
            )),
        }
    }

    fn dim_declaration(&mut self) -> Result<()> {
        let name = self.name("a symbol")?;
        if !Dim::is_symbol_name(&name) {
            return self.error(format!("`{name}` cannot name a dimension"));
        }
        self.mark("=")?;
        let start = self.size()?;
        self.mark("..=")?;
        let end = self.size()?;
        if self
            .graph
            .symbols
            .insert(Symbol::from(name.as_str()), start..=end)
            .is_some()
        {
            return self.error(format!("dim {name} is declared twice"));
        }
        Ok(())
    }

    fn parameter(&mut self) -> Result<()> {
        self.mark("@")?;
        let name = self.name("a parameter's name")?;
        self.mark(":")?;
        let ty = self.ty()?;
        if self
            .parameters
            .insert(name.clone(), self.graph.parameters.len())
            .is_some()
        {
            return self.error(format!("parameter `{name}` is declared twice"));
        }
        self.graph.parameters.push(Parameter { name, ty });
        Ok(())
    }

    fn input(&mut self) -> Result<()> {
        let stage: Stage = match self.name("a stage")?.parse() {
            Ok(stage) => stage,
            Err(error) => return self.error(format!("{error}")),
        };
        self.mark("%")?;
        let name = self.name("an input's name")?;
        self.mark(":")?;
        let ty = self.ty()?;
        if self
            .inputs
            .insert(name.clone(), self.graph.inputs.len())
            .is_some()
        {
            return self.error(format!("input `{name}` is declared twice"));
        }
        self.graph.inputs.push(Input { name, stage, ty });
        Ok(())
    }

    fn output(&mut self) -> Result<()> {
        let name = self.name("an output's name")?;
        self.mark("=")?;
        let value = self.value()?;
        self.graph.outputs.push(Output { name, value });
        Ok(())
    }

    fn node(&mut self) -> Result<()> {
        let Token::Number(number) = self.next() else {
            self.position -= 1;
            return self.unexpected("the number of a result");
        };
        self.mark(":")?;
        let ty = self.ty()?;
        self.mark("=")?;
        let op_name = self.name("an operation")?;
        let place = self.position - 1;
        let operands = self.operands()?;
        let attributes = self.attributes()?;
        let op = match build(&op_name, attributes, &ty) {
            Ok(op) => op,
            Err(message) => return self.error_at(place, message),
        };
        let label = if self.accept("#") {
            Some(Arc::from(self.name("a label")?))
        } else {
            None
        };
        if self
            .results
            .insert(number.clone(), self.graph.nodes.len())
            .is_some()
        {
            return self.error(format!("%{number} is defined twice"));
        }
        self.graph.nodes.push(Node {
            op,
            operands,
            ty,
            label,
        });
        Ok(())
    }

    fn operands(&mut self) -> Result<Vec<Value>> {
        let mut operands = Vec::new();
        if !matches!(self.peek(), Token::Mark("%" | "@")) || self.at_definition() {
            return Ok(operands);
        }
        operands.push(self.value()?);
        while self.accept(",") {
            operands.push(self.value()?);
        }
        Ok(operands)
    }

    /// Whether a new line's `%n:` stands here, so that an operation without
    /// operands does not take it for one.
    fn at_definition(&self) -> bool {
        matches!(self.peek_at(2), Token::Mark(":"))
    }

    fn attributes(&mut self) -> Result<Vec<(String, Attribute)>> {
        let mut attributes = Vec::new();
        if !self.accept("{") {
            return Ok(attributes);
        }
        loop {
            let name = self.name("an attribute")?;
            self.mark("=")?;
            let attribute = self.attribute()?;
            attributes.push((name, attribute));
            if self.accept("}") {
                return Ok(attributes);
            }
            self.mark(",")?;
        }
    }

    fn attribute(&mut self) -> Result<Attribute> {
        if self.accept("[") {
            return self.list();
        }
        if let Token::Name(name, false) = self.peek() {
            let flag = match name.as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            };
            if let Some(flag) = flag {
                self.position += 1;
                return Ok(Attribute::Bool(flag));
            }
        }
        if self.at_float() {
            return Ok(Attribute::Float(self.float()?));
        }
        let dim = self.dim()?;
        Ok(dim
            .as_constant()
            .map_or(Attribute::Dim(dim), Attribute::Integer))
    }

    fn list(&mut self) -> Result<Attribute> {
        let (mut floats, mut integers) = (Vec::new(), Vec::new());
        let mut whole = true;
        while !self.accept("]") {
            if !floats.is_empty() {
                self.mark(",")?;
            }
            if self.at_float() {
                whole = false;
                floats.push(self.float()?);
            } else {
                let integer = self.integer()?;
                integers.push(integer);
                floats.push(integer as f32);
            }
        }
        Ok(if whole {
            Attribute::Integers(integers)
        } else {
            Attribute::Floats(floats)
        })
    }

    fn at_float(&self) -> bool {
        let token = if matches!(self.peek(), Token::Mark("-")) {
            self.peek_at(1)
        } else {
            self.peek()
        };
        match token {
            Token::Number(text) => text.parse::<i64>().is_err(),
            Token::Name(name, false) => matches!(name.as_str(), "inf" | "nan"),
            _ => false,
        }
    }

    fn float(&mut self) -> Result<f32> {
        let negative = self.accept("-");
        let value = match self.next() {
            Token::Number(text) => text.parse::<f32>().ok(),
            Token::Name(name, _) if name == "inf" => Some(f32::INFINITY),
            Token::Name(name, _) if name == "nan" => Some(self.nan()?),
            _ => None,
        };
        match value {
            Some(value) => Ok(if negative { -value } else { value }),
            None => self.error("expected a number".to_owned()),
        }
    }

    /// `nan:7fc00000`; the bits may read as a name or a number.
    fn nan(&mut self) -> Result<f32> {
        self.mark(":")?;
        let text = match self.next() {
            Token::Name(text, _) | Token::Number(text) => text,
            _ => String::new(),
        };
        match u32::from_str_radix(&text, 16).map(f32::from_bits) {
            Ok(value) if value.is_nan() => Ok(value),
            _ => self.error("expected the bits of a NaN".to_owned()),
        }
    }

    fn value(&mut self) -> Result<Value> {
        if self.accept("@") {
            let name = self.name("a parameter's name")?;
            return match self.parameters.get(&name) {
                Some(&index) => Ok(Value::Parameter(index)),
                None => self.error(format!("parameter `{name}` is not declared")),
            };
        }
        self.mark("%")?;
        let (text, found) = match self.next() {
            Token::Number(number) => (
                number.clone(),
                self.results.get(&number).map(|&i| Value::Node(i)),
            ),
            Token::Name(name, _) => (
                name.clone(),
                self.inputs.get(&name).map(|&i| Value::Input(i)),
            ),
            _ => {
                self.position -= 1;
                return self.unexpected("a value");
            }
        };
        match found {
            Some(value) => Ok(value),
            None => self.error(format!("%{text} is not defined before")),
        }
    }

    fn ty(&mut self) -> Result<TensorType> {
        let name = self.name("a dtype")?;
        let dtype = match dtype(&name) {
            Ok(dtype) => dtype,
            Err(message) => return self.error(message),
        };
        self.mark("[")?;
        let mut dims = Vec::new();
        while !self.accept("]") {
            if !dims.is_empty() {
                self.mark(",")?;
            }
            dims.push(self.dim()?);
        }
        Ok(TensorType { dtype, dims })
    }

    /// A sum of products, as the normal form prints it.
    fn dim(&mut self) -> Result<Dim> {
        let negative = self.accept("-");
        let mut sum = self.term(negative)?;
        loop {
            let negative = match self.peek() {
                Token::Mark("+") => false,
                Token::Mark("-") => true,
                _ => return Ok(sum),
            };
            self.position += 1;
            let term = self.term(negative)?;
            sum = self.checked(sum.checked_add(&term))?;
        }
    }

    fn term(&mut self, negative: bool) -> Result<Dim> {
        let mut product = Dim::from(if negative { -1i64 } else { 1 });
        loop {
            let factor = match self.next() {
                Token::Number(text) => match text.parse::<i64>() {
                    Ok(value) => Dim::from(value),
                    Err(_) => return self.error(format!("expected a whole number, found {text}")),
                },
                Token::Name(name, false) if Dim::is_symbol_name(&name) => Dim::symbol(&name),
                _ => {
                    self.position -= 1;
                    return self.unexpected("a dimension");
                }
            };
            product = self.checked(product.checked_mul(&factor))?;
            if !self.accept("*") {
                return Ok(product);
            }
        }
    }

    fn checked(&self, dim: Option<Dim>) -> Result<Dim> {
        match dim {
            Some(dim) => Ok(dim),
            None => self.error("the dimension overflows".to_owned()),
        }
    }

    fn size(&mut self) -> Result<usize> {
        let value = self.integer()?;
        match usize::try_from(value) {
            Ok(size) => Ok(size),
            Err(_) => self.error(format!("expected a size, found {value}")),
        }
    }

    fn integer(&mut self) -> Result<i64> {
        let sign = if self.accept("-") { "-" } else { "" };
        let Token::Number(text) = self.next() else {
            self.position -= 1;
            return self.unexpected("a whole number");
        };
        match format!("{sign}{text}").parse() {
            Ok(value) => Ok(value),
            Err(_) => self.error(format!("expected a whole number, found {sign}{text}")),
        }
    }

    fn keyword(&mut self, expected: &str) -> Result<()> {
        let found = self.name(expected)?;
        if found == expected {
            return Ok(());
        }
        self.error(format!("expected `{expected}`, found `{found}`"))
    }

    fn name(&mut self, what: &str) -> Result<String> {
        match self.next() {
            Token::Name(name, _) | Token::Number(name) => Ok(name),
            _ => {
                self.position -= 1;
                self.unexpected(what)
            }
        }
    }

    fn mark(&mut self, expected: &'static str) -> Result<()> {
        if self.accept(expected) {
            Ok(())
        } else {
            self.unexpected(&format!("`{expected}`"))
        }
    }

    fn accept(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Token::Mark(found) if *found == mark);
        if found {
            self.position += 1;
        }
        found
    }

    fn peek(&self) -> &Token {
        self.peek_at(0)
    }

    fn peek_at(&self, offset: usize) -> &Token {
        let index = (self.position + offset).min(self.tokens.len() - 1);
        &self.tokens[index].token
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.position += 1;
        token
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match self.peek() {
            Token::Name(name, _) => format!("`{name}`"),
            Token::Number(number) => number.clone(),
            Token::Mark(mark) => format!("`{mark}`"),
            Token::End => "the end of the text".to_owned(),
        };
        self.error_at(self.position, format!("expected {expected}, found {found}"))
    }

    fn error<T>(&self, message: String) -> Result<T> {
        // The place is that of the last token taken.
        self.error_at(self.position.saturating_sub(1), message)
    }

    fn error_at<T>(&self, position: usize, message: String) -> Result<T> {
        let place = &self.tokens[position.min(self.tokens.len() - 1)];
        Err(Error::Parse {
            line: place.line,
            column: place.column,
            message,
        })
    }
}
