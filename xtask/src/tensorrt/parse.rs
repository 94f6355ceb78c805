//! Reads class declarations: their bases, virtual functions and data members, in order.
//!
//! It is not a C++ parser. It knows the forms that TensorRT's headers use, and fails, naming the
//! class, where the order of virtual functions could depend on something that it does not know:
//! a preprocessor line inside of a class, two virtual functions of one name.
//!
//! ```text
//! class VHostMemory : public VRoot { public: virtual void* data() const noexcept = 0; };
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::tokens::{Token, tokens_of};

/// What one set of headers declares.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    pub(super) classes: BTreeMap<String, Class>,
    /// `using Name = Type;`, wherever it stands.
    pub(super) aliases: BTreeMap<String, Type>,
    /// Names of `enum class`es; a nested one is `Outer_Name`.
    pub(super) enums: Vec<String>,
}

/// A class or struct with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) bases: Vec<String>,
    /// Virtual functions, and those that override one, in order of declaration.
    pub(super) functions: Vec<Function>,
    /// Types of the data members.
    pub(super) members: Vec<Type>,
}

/// A virtual function; a destructor's name starts with `~`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) result: Type,
    pub(super) parameters: Vec<Parameter>,
    /// What `return` gives if the body is `{ return … }`: texts and numbers alone.
    pub(super) returns: Vec<String>,
}

/// A parameter; its name may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: Option<String>,
    pub(super) ty: Type,
}

/// `const base *const* &` without namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) base: String,
    pub(super) is_const: bool,
    /// For each `*`, whether the pointer itself is const.
    pub(super) pointers: Vec<bool>,
    pub(super) is_reference: bool,
}

impl Declarations {
    /// Adds the declarations of one header.
    pub(super) fn read(&mut self, source: &str) -> Result<()> {
        let tokens = tokens_of(source);
        let mut at = 0;
        while at < tokens.len() {
            at = self.read_item(&tokens, at)?;
        }
        Ok(())
    }

    /// Reads what starts at `at` and returns where to go on.
    fn read_item(&mut self, tokens: &[Token], at: usize) -> Result<usize> {
        let is_type = tokens[at].is("class") || tokens[at].is("struct");
        if tokens[at].is("template") {
            return Ok(skip_statement(tokens, at));
        }
        if tokens[at].is("enum") {
            self.read_enum(&tokens[at..], "");
            return Ok(skip_statement(tokens, at));
        }
        if tokens[at].is("using") {
            let end = skip_statement(tokens, at);
            self.read_alias(&tokens[at..end]);
            return Ok(end);
        }
        if !is_type {
            return Ok(at + 1);
        }
        let head_end = at
            + tokens[at..]
                .iter()
                .position(|token| token.is("{") || token.is(";"))
                .unwrap_or(tokens.len() - at - 1);
        if !tokens[head_end].is("{") {
            return Ok(head_end + 1);
        }
        let end = matching(tokens, head_end);
        let head = without_attributes(&tokens[at + 1..head_end]);
        if let Some(name) = head.first().and_then(Token::word) {
            let class = self.read_class(name, &head[1..], inside(tokens, head_end, end))?;
            // A later namespace (`v_2_0`) may declare an interface again; the first one is in use.
            self.classes.entry(name.to_owned()).or_insert(class);
        }
        Ok(end + 1)
    }

    fn read_class(&mut self, name: &str, head: &[Token], body: &[Token]) -> Result<Class> {
        let mut class = Class {
            name: name.to_owned(),
            bases: bases(head),
            functions: Vec::new(),
            members: Vec::new(),
        };
        for member in members(body).with_context(|| format!("class {name}"))? {
            let first = &member.declaration[0];
            if first.is("enum") {
                self.read_enum(&member.declaration, name);
            } else if first.is("using") {
                self.read_alias(&member.declaration);
            } else if let Some(function) =
                function(&member).with_context(|| format!("class {name}"))?
            {
                if class.functions.iter().any(|f| f.name == function.name) {
                    bail!("class {name}: {} is declared twice", function.name);
                }
                class.functions.push(function);
            } else if let Some(ty) = data_member(&member.declaration) {
                class.members.push(ty);
            }
        }
        Ok(class)
    }

    /// `enum class Name : int32_t`.
    fn read_enum(&mut self, tokens: &[Token], outer: &str) {
        let words = tokens.iter().skip(1).map_while(Token::word);
        let Some(name) = words.filter(|word| *word != "class").last() else {
            return;
        };
        let name = if outer.is_empty() {
            name.to_owned()
        } else {
            format!("{outer}_{name}")
        };
        if !self.enums.contains(&name) {
            self.enums.push(name);
        }
    }

    /// `using Name = Type;`; a name brought in from a namespace by the same name is not noted.
    fn read_alias(&mut self, tokens: &[Token]) {
        let [_, Token::Word(name), equals, target @ ..] = tokens else {
            return;
        };
        if !equals.is("=") {
            return;
        }
        if let Ok((ty, _)) = Type::parse(target)
            && ty.base != *name
        {
            self.aliases.insert(name.clone(), ty);
        }
    }
}

impl Type {
    /// Reads a type and returns what follows it.
    pub(super) fn parse(tokens: &[Token]) -> Result<(Self, &[Token])> {
        let mut ty = Self {
            base: String::new(),
            is_const: false,
            pointers: Vec::new(),
            is_reference: false,
        };
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                token if token.is("const") => match ty.pointers.last_mut() {
                    Some(pointer) => *pointer = true,
                    None => ty.is_const = true,
                },
                Token::Word(word) if ty.base.is_empty() => ty.base.clone_from(word),
                // Namespaces say nothing here: their last name is the type.
                token if token.is("::") && ty.pointers.is_empty() => ty.base.clear(),
                token if token.is("*") => ty.pointers.push(false),
                token if token.is("&") => ty.is_reference = true,
                _ => break,
            }
            at += 1;
        }
        if ty.base.is_empty() {
            bail!("expected a type, found {:?}", tokens.first());
        }
        Ok((ty, &tokens[at..]))
    }
}

/// One member of a class: its tokens up to the body or the semicolon, and the body's.
struct Member {
    declaration: Vec<Token>,
    body: Vec<Token>,
}

/// Splits a class body; access specifiers are left out.
fn members(body: &[Token]) -> Result<Vec<Member>> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < body.len() {
        if let Token::Directive(line) = &body[at] {
            bail!("`#{line}` inside of a class: which functions it has cannot be told");
        }
        let is_access = body[at]
            .word()
            .is_some_and(|word| ["public", "protected", "private"].contains(&word));
        if is_access && body.get(at + 1).is_some_and(|token| token.is(":")) {
            at += 2;
            start = at;
        } else if body[at].is(";") {
            push_member(&mut found, &body[start..at], &[]);
            at += 1;
            start = at;
        } else if body[at].is("{") {
            let end = matching(body, at);
            let is_function = body[start..at].iter().any(|token| token.is("("));
            if is_function {
                push_member(&mut found, &body[start..at], inside(body, at, end));
                start = end + 1;
            }
            at = end + 1;
        } else {
            at += 1;
        }
    }
    Ok(found)
}

fn push_member(found: &mut Vec<Member>, declaration: &[Token], body: &[Token]) {
    let declaration = without_attributes(declaration);
    if !declaration.is_empty() {
        found.push(Member {
            declaration,
            body: body.to_vec(),
        });
    }
}

/// The virtual function that a member declares.
fn function(member: &Member) -> Result<Option<Function>> {
    let tokens = &member.declaration;
    let is_virtual = tokens
        .iter()
        .any(|token| token.is("virtual") || token.is("override"));
    let Some(open) = tokens.iter().position(|token| token.is("(")) else {
        return Ok(None);
    };
    if !is_virtual || open == 0 {
        return Ok(None);
    }
    let Some(word) = tokens[open - 1].word() else {
        bail!("a virtual function without a name: {:?}", &tokens[..open]);
    };
    let is_destructor = open >= 2 && tokens[open - 2].is("~");
    let name = if is_destructor {
        format!("~{word}")
    } else {
        word.to_owned()
    };
    let head = tokens[..open - 1]
        .iter()
        .filter(|token| !token.is("virtual") && !token.is("~"))
        .cloned()
        .collect::<Vec<_>>();
    let result = if is_destructor {
        Type::parse(&[Token::Word("void".to_owned())])?.0
    } else {
        Type::parse(&head).with_context(|| name.clone())?.0
    };
    let close = matching(tokens, open);
    Ok(Some(Function {
        parameters: parameters(inside(tokens, open, close)).with_context(|| name.clone())?,
        name,
        result,
        returns: literals(&member.body),
    }))
}

fn parameters(tokens: &[Token]) -> Result<Vec<Parameter>> {
    let mut found = Vec::new();
    for tokens in tokens.split(|token| token.is(",")) {
        if tokens.is_empty() {
            continue;
        }
        let (ty, rest) = Type::parse(tokens)?;
        if rest.iter().any(|token| token.is("[") || token.is("(")) {
            bail!("a parameter of a form that is not known: {tokens:?}");
        }
        let name = rest.first().and_then(Token::word).map(str::to_owned);
        found.push(Parameter { name, ty });
    }
    Ok(found)
}

/// The type of a data member of a form that counts for the layout: a pointer or a named value.
fn data_member(tokens: &[Token]) -> Option<Type> {
    let is_other = |token: &Token| {
        ["static", "friend", "typedef", "operator", "class", "struct"]
            .iter()
            .any(|word| token.is(word))
            || token.is("(")
    };
    if tokens.iter().any(is_other) {
        return None;
    }
    Some(Type::parse(tokens).ok()?.0)
}

fn bases(head: &[Token]) -> Vec<String> {
    let Some(colon) = head.iter().position(|token| token.is(":")) else {
        return Vec::new();
    };
    head[colon + 1..]
        .split(|token| token.is(","))
        .filter_map(|base| base.iter().rev().find_map(Token::word))
        .map(str::to_owned)
        .collect()
}

/// Texts and numbers of a body that only returns.
fn literals(body: &[Token]) -> Vec<String> {
    if !body.first().is_some_and(|token| token.is("return")) {
        return Vec::new();
    }
    let literal = |token: &Token| match token {
        Token::Text(text) | Token::Number(text) => Some(text.clone()),
        _ => None,
    };
    body.iter().filter_map(literal).collect()
}

/// Without `[[…]]` and macros such as `TRT_DEPRECATED_BECAUSE(…)`.
fn without_attributes(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_macro = tokens[at]
            .word()
            .is_some_and(|word| word.starts_with("TRT") || word == "TENSORRTAPI");
        if is_macro && tokens.get(at + 1).is_some_and(|token| token.is("(")) {
            at = matching(tokens, at + 1);
        } else if tokens[at].is("[") && tokens.get(at + 1).is_some_and(|token| token.is("[")) {
            at = matching(tokens, at);
        } else if !is_macro {
            kept.push(tokens[at].clone());
        }
        at += 1;
    }
    kept
}

/// Past the semicolon or the body that ends what starts at `at`.
fn skip_statement(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        if tokens[at].is(";") {
            return at + 1;
        }
        if tokens[at].is("{") {
            return matching(tokens, at) + 1;
        }
        at += 1;
    }
    at
}

/// What stands between two brackets; nothing if the second is missing.
fn inside(tokens: &[Token], open: usize, close: usize) -> &[Token] {
    tokens.get(open + 1..close).unwrap_or_default()
}

/// Where the bracket at `open` closes; the last token if it does not.
fn matching(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (position, token) in tokens.iter().enumerate().skip(open) {
        if ["{", "(", "["].iter().any(|mark| token.is(mark)) {
            depth += 1;
        } else if ["}", ")", "]"].iter().any(|mark| token.is(mark)) {
            depth -= 1;
        }
        if depth == 0 {
            return position;
        }
    }
    tokens.len() - 1
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
