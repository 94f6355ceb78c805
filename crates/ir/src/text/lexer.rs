//! Text to tokens.

use crate::{Error, Result};

/// A token of the text form.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A plain or quoted name; true if it was quoted.
    Name(String, bool),
    /// A number as written; floats keep their text so that f32 is parsed from it once.
    Number(String),
    /// Punctuation: one of `{ } [ ] ( ) , : = % @ * + -` or `..=`, `#`.
    Mark(&'static str),
    /// The end of the text.
    End,
}

/// A token with its place.
#[derive(Debug, Clone)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Whether a name needs no quotes.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(is_name_character)
        && !name.contains("..")
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '$')
}

/// Splits the text into tokens; the last is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Spanned>> {
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with(';') {
            continue;
        }
        let mut lexer = Lexer {
            rest: line,
            line: index + 1,
            column: 1,
        };
        while let Some(token) = lexer.next_token()? {
            tokens.push(token);
        }
    }
    let line = text.lines().count().max(1);
    tokens.push(Spanned {
        token: Token::End,
        line,
        column: 1,
    });
    Ok(tokens)
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    /// The column of the first character of the rest.
    column: usize,
}

impl Lexer<'_> {
    fn next_token(&mut self) -> Result<Option<Spanned>> {
        let blank = self.rest.len() - self.rest.trim_start().len();
        self.take(blank);
        let column = self.column;
        let Some(first) = self.rest.chars().next() else {
            return Ok(None);
        };
        let token = if first == '"' {
            self.quoted(column)?
        } else if first.is_ascii_digit() {
            self.number_or_name()
        } else if is_name_character(first) && first != '.' {
            Token::Name(self.take_while(is_name_character).to_owned(), false)
        } else {
            self.mark(column)?
        };
        Ok(Some(Spanned {
            token,
            line: self.line,
            column,
        }))
    }

    /// Digits begin a number; what follows decides whether it is a name such as `2d.weight`.
    fn number_or_name(&mut self) -> Token {
        let digits = self.rest.len()
            - self
                .rest
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .len();
        if self.rest[digits..].starts_with("..") {
            return Token::Number(self.take(digits).to_owned());
        }
        let mut length = self.rest.len() - self.rest.trim_start_matches(is_name_character).len();
        // `1e-6`: a sign belongs to the number right after its exponent mark.
        let exponent = self.rest[..length].ends_with(['e', 'E']);
        if exponent
            && self.rest[length..].starts_with(['-', '+'])
            && self.rest[..length - 1].parse::<f32>().is_ok()
        {
            let after = &self.rest[length + 1..];
            length +=
                1 + after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        }
        let text = self.take(length).to_owned();
        if text.parse::<f32>().is_ok() {
            Token::Number(text)
        } else {
            Token::Name(text, false)
        }
    }

    fn quoted(&mut self, column: usize) -> Result<Token> {
        let mut name = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((position, character)) = characters.next() {
            match character {
                '"' => {
                    self.take(position + 1);
                    return Ok(Token::Name(name, true));
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => name.push('\n'),
                    Some((_, 'r')) => name.push('\r'),
                    Some((_, escaped)) => name.push(escaped),
                    None => break,
                },
                other => name.push(other),
            }
        }
        self.error(column, "a quoted name does not end on its line".to_owned())
    }

    fn mark(&mut self, column: usize) -> Result<Token> {
        const MARKS: [&str; 14] = [
            "..=", "{", "}", "[", "]", ",", ":", "=", "%", "@", "*", "+", "-", "#",
        ];
        for mark in MARKS {
            if self.rest.starts_with(mark) {
                self.take(mark.len());
                return Ok(Token::Mark(mark));
            }
        }
        let found: String = self.rest.chars().take(1).collect();
        self.error(column, format!("unexpected `{found}`"))
    }

    fn take_while(&mut self, holds: fn(char) -> bool) -> &str {
        let length = self.rest.len() - self.rest.trim_start_matches(holds).len();
        self.take(length)
    }

    /// Takes what is `length` bytes long; columns are counted along, so that a long line
    /// takes no longer than its length.
    fn take(&mut self, length: usize) -> &str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.column += taken.chars().count();
        taken
    }

    fn error<T>(&self, column: usize, message: String) -> Result<T> {
        Err(Error::Parse {
            line: self.line,
            column,
            message,
        })
    }
}
