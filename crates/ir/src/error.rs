//! What can be wrong with a graph, its text, or its use.

/// Errors of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text form does not parse.
    #[error("line {line}, column {column}: {message}")]
    Parse {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What was expected and found.
        message: String,
    },
    /// An operation does not fit its operands.
    #[error("{op}: {message}")]
    Type {
        /// The operation.
        op: String,
        /// What was expected and found.
        message: String,
    },
    /// The verifier found a broken rule.
    #[error("graph `{graph}` breaks rule `{rule}` at {place}: {message}")]
    Verify {
        /// The graph's name.
        graph: String,
        /// The rule's name; the verifier's documentation lists them.
        rule: &'static str,
        /// The value, input, parameter or output concerned.
        place: String,
        /// What was expected and found.
        message: String,
    },
    /// A pass produced a graph that does not verify.
    #[error("pass `{pass}`: {source}")]
    Pass {
        /// The pass.
        pass: &'static str,
        /// What is wrong.
        source: Box<Error>,
    },
    /// A name that is no stage.
    #[error("unknown stage `{0}`, expected weight, request or step")]
    UnknownStage(String),
    /// A dimension or element count beyond i64.
    #[error("{0} overflows")]
    Overflow(String),
    /// A symbol without a value.
    #[error("dimension `{0}` has no value")]
    Unbound(String),
    /// A symbol given two values.
    #[error("`{input}`: dimension `{symbol}` is {expected} already, found {found}")]
    Conflict {
        /// The input that disagrees.
        input: String,
        /// The symbol.
        symbol: String,
        /// The value bound before.
        expected: usize,
        /// The value found now.
        found: usize,
    },
    /// A symbol's value outside of the range that the graph declares.
    #[error("`{input}`: dimension `{symbol}` must lie in {min}..={max}, found {found}")]
    Range {
        /// The input concerned.
        input: String,
        /// The symbol.
        symbol: String,
        /// Least value.
        min: usize,
        /// Greatest value.
        max: usize,
        /// The value found.
        found: usize,
    },
    /// A symbol cannot be held to a range.
    #[error("symbol `{symbol}`: expected {expected}, found {found}")]
    Narrow {
        /// The symbol.
        symbol: String,
        /// What there is.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// A tensor given for an input has another type.
    #[error("`{input}`: expected {expected}, found {found}")]
    Input {
        /// The input.
        input: String,
        /// Declared type.
        expected: String,
        /// Type found.
        found: String,
    },
    /// Constant folding could not evaluate an operation.
    #[error("cannot evaluate {op}: {message}")]
    Evaluate {
        /// The operation.
        op: String,
        /// What the evaluator said.
        message: String,
    },
    /// An overlay that does not fit its parameter.
    #[error("overlay on `{parameter}`: {message}")]
    Overlay {
        /// The parameter.
        parameter: String,
        /// What was expected and found.
        message: String,
    },
}
