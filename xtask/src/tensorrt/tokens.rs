//! The tokens of a C++ header: words, numbers, strings, marks.
//!
//! Comments vanish, a preprocessor line is one token. Nothing is expanded: what a header of
//! TensorRT declares outside of `#if` is all that the parser needs, and it refuses the rest.
//!
//! ```text
//! virtual bool f() = 0;   ->   virtual · bool · f · ( · ) · = · 0 · ;
//! ```

/// One token, with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or a keyword.
    Word(String),
    /// A number as it is written.
    Number(String),
    /// What stands between quotation marks.
    Text(String),
    /// One character, but for `::`, which is one mark.
    Mark(&'static str),
    /// A whole preprocessor line without its `#`.
    Directive(String),
}

impl Token {
    /// Whether this is the word or the mark `text`.
    pub(super) fn is(&self, text: &str) -> bool {
        match self {
            Self::Word(word) => word == text,
            Self::Mark(mark) => *mark == text,
            _ => false,
        }
    }

    pub(super) fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Every token of `source`, in order.
pub(super) fn tokens_of(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_whitespace() {
            first.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            let (token, length) = token_at(rest, first);
            tokens.extend(token);
            length
        };
        rest = &rest[length..];
    }
    tokens
}

/// The token that `rest` opens with and its length; no token for a character that means nothing.
fn token_at(rest: &str, first: char) -> (Option<Token>, usize) {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let run = |accepts: &dyn Fn(char) -> bool| {
        rest.find(|character| !accepts(character))
            .unwrap_or(rest.len())
    };
    match first {
        '#' => {
            let length = directive_length(rest);
            let line = rest[1..length].replace("\\\n", " ");
            (Some(Token::Directive(line.trim().to_owned())), length)
        }
        '"' => {
            let end = rest[1..]
                .find('"')
                .map_or(rest.len(), |position| position + 2);
            let text = rest[1..end].trim_end_matches('"').to_owned();
            (Some(Token::Text(text)), end)
        }
        _ if first.is_ascii_digit() => {
            let length = run(&|character| is_word(character) || character == '.');
            (Some(Token::Number(rest[..length].to_owned())), length)
        }
        _ if is_word(first) => {
            let length = run(&is_word);
            (Some(Token::Word(rest[..length].to_owned())), length)
        }
        _ if rest.starts_with("::") => (Some(Token::Mark("::")), 2),
        _ => (mark(first).map(Token::Mark), first.len_utf8()),
    }
}

/// A directive ends with its line unless the line ends with a backslash.
fn directive_length(rest: &str) -> usize {
    let mut length = 0;
    for line in rest.split_inclusive('\n') {
        length += line.len();
        if !line.trim_end().ends_with('\\') {
            break;
        }
    }
    length
}

fn mark(character: char) -> Option<&'static str> {
    const MARKS: [&str; 22] = [
        "{", "}", "(", ")", "[", "]", "<", ">", ";", ":", ",", "=", "*", "&", "~", "+", "-", "|",
        "/", "!", ".", "?",
    ];
    MARKS.into_iter().find(|mark| mark.chars().eq([character]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let text = |token| match token {
            Token::Word(text) | Token::Number(text) => text,
            Token::Text(text) => format!("\"{text}\""),
            Token::Mark(mark) => mark.to_owned(),
            Token::Directive(line) => format!("#{line}"),
        };
        tokens_of(source).into_iter().map(text).collect()
    }

    #[test]
    fn comments_vanish_and_directives_are_one_token() {
        assert_eq!(
            texts("#define A \\\n  1\nint /* no; */ a; // no\nb::c{\"x y\", 10'}"),
            [
                "#define A    1",
                "int",
                "a",
                ";",
                "b",
                "::",
                "c",
                "{",
                "\"x y\"",
                ",",
                "10",
                "}"
            ]
        );
    }

    #[test]
    fn an_open_end_is_no_reason_to_panic() {
        for source in ["/* open", "\"open", "#define \\", "// open", "é", "\""] {
            let _ = tokens_of(source);
        }
    }
}
