//! What layers compute: the library's constants as Rust enums with names.

use tintype_tensorrt_sys as sys;

/// An enum over constants of the library, each with the name it has in listings.
macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident: $raw:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $constant:ident $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// The name in listings.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            pub(crate) const fn raw(self) -> sys::$raw {
                match self { $(Self::$variant => sys::$raw::$constant,)* }
            }
        }
    };
}

kinds! {
    /// Layers on one operand.
    Unary: UnaryOperation {
        /// `eˣ`
        Exp = EXP "exp",
        /// Natural logarithm.
        Log = LOG "log",
        /// Square root.
        Sqrt = SQRT "sqrt",
        /// `1/x`
        Reciprocal = RECIP "reciprocal",
        /// `|x|`
        Abs = ABS "abs",
        /// `−x`
        Neg = NEG "neg",
        /// Sine.
        Sin = SIN "sin",
        /// Cosine.
        Cos = COS "cos",
        /// The error function.
        Erf = ERF "erf",
        /// To the nearest whole number, ties to even.
        Round = ROUND "round",
        /// Whether a bool is false.
        Not = NOT "not",
    }
}

kinds! {
    /// Activation layers.
    Activation: ActivationType {
        /// `1/(1 + e⁻ˣ)`
        Sigmoid = SIGMOID "sigmoid",
        /// Hyperbolic tangent.
        Tanh = TANH "tanh",
        /// GELU by the error function.
        GeluErf = GELU_ERF "gelu_erf",
        /// GELU by the hyperbolic tangent.
        GeluTanh = GELU_TANH "gelu_tanh",
        /// Limited to `alpha..=beta`.
        Clip = CLIP "clip",
    }
}

kinds! {
    /// Layers on two operands.
    ElementWise: ElementWiseOperation {
        /// `a + b`
        Sum = SUM "sum",
        /// `a · b`
        Product = PROD "product",
        /// The greater.
        Max = MAX "max",
        /// The lesser.
        Min = MIN "min",
        /// `a − b`
        Difference = SUB "difference",
        /// `a / b`
        Quotient = DIV "quotient",
        /// `aᵇ`
        Power = POW "power",
        /// `⌊a / b⌋`
        FloorQuotient = FLOOR_DIV "floor_quotient",
        /// `a == b`, a bool.
        Equal = EQUAL "equal",
        /// `a < b`, a bool.
        Less = LESS "less",
        /// Both of two bools.
        And = AND "and",
    }
}

kinds! {
    /// Reductions.
    Reduction: ReduceOperation {
        /// The sum.
        Sum = SUM "sum",
        /// The mean.
        Mean = AVG "mean",
        /// The greatest.
        Max = MAX "max",
        /// The least.
        Min = MIN "min",
    }
}
