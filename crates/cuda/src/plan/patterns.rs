//! The names of fusions: which operations, in which order, are known as what.
//!
//! Groups form by rules that know no model; this table names those that matter, so that listings
//! and profiles can be read and tests can ask for them. What has no name is called after its
//! operations.
//!
//! ```
//! use tintype_cuda::pattern_of;
//!
//! assert_eq!(pattern_of(&["layer_norm", "modulate"]), "norm_modulate");
//! assert_eq!(pattern_of(&["mul", "add"]), "mul_add");
//! ```

/// A fusion that has a name.
struct Pattern {
    name: &'static str,
    operations: &'static [&'static str],
}

const PATTERNS: [Pattern; 16] = [
    pattern("norm_modulate", &["layer_norm", "modulate"]),
    pattern(
        "residual_norm_modulate",
        &["gated_residual", "layer_norm", "modulate"],
    ),
    pattern(
        "residual_clamp_norm_modulate",
        &["gated_residual", "clamp", "layer_norm", "modulate"],
    ),
    pattern("residual", &["gated_residual"]),
    pattern("norm_rotary", &["rms_norm", "rotary"]),
    pattern(
        "query_key_norm_rotary",
        &["rms_norm", "rms_norm", "rotary", "rotary"],
    ),
    pattern(
        "query_key_norm_rotary",
        &["rms_norm", "rotary", "rms_norm", "rotary"],
    ),
    // Codes of both; those of the last are named by themselves.
    pattern(
        "query_key_norm_rotary",
        &[
            "rms_norm", "rotary", "cast", "div", "cast", "rms_norm", "rotary",
        ],
    ),
    pattern("group_norm_silu", &["group_norm", "silu"]),
    pattern("add_group_norm_silu", &["add", "group_norm", "silu"]),
    pattern("add_norm", &["add", "layer_norm"]),
    pattern("add_norm", &["cast", "add", "rms_norm", "cast"]),
    pattern("gated_gelu", &["gelu_tanh", "mul"]),
    pattern("euler_step", &["cast", "cast", "mul", "add", "cast"]),
    pattern("euler_step", &["cast", "mul", "cast", "add", "cast"]),
    pattern("copy", &[]),
];

const fn pattern(name: &'static str, operations: &'static [&'static str]) -> Pattern {
    Pattern { name, operations }
}

/// The name of a group of these operations.
pub fn pattern_of(operations: &[&str]) -> String {
    for rounding in ROUNDINGS {
        if let Some(before) = operations.strip_suffix(rounding) {
            return match before {
                [] => QUANTIZE.to_owned(),
                _ => format!("{}_{QUANTIZE}", pattern_of(before)),
            };
        }
    }
    let known = PATTERNS
        .iter()
        .find(|pattern| pattern.operations == operations);
    if let Some(known) = known {
        return known.name.to_owned();
    }
    if operations.len() > MOST_NAMED {
        let first = operations[..MOST_NAMED].join("_");
        return format!("{first}_and_{}", operations.len() - MOST_NAMED);
    }
    operations.join("_")
}

const MOST_NAMED: usize = 5;

/// What makes codes, of values in 16 bits or in f32.
const ROUNDINGS: [&[&str]; 2] = [&["cast", "div", "cast"], &["div", "cast"]];

const QUANTIZE: &str = "quantize";
