//! Names of C++ as names of Rust.
//!
//! ```text
//! getNbDLACores -> get_nb_dla_cores        VMatrixMultiplyLayer -> MATRIX_MULTIPLY_LAYER
//! kGELU_TANH    -> GELU_TANH               type                 -> type_
//! ```

/// A function's or parameter's name; keywords get an underscore behind them.
pub(super) fn snake(name: &str) -> String {
    const KEYWORDS: [&str; 7] = ["type", "loop", "in", "where", "ref", "match", "move"];
    // Names whose capitals do not start words.
    let name = name.replace("ReLU", "Relu").replace("MoE", "Moe");
    let characters = name.chars().collect::<Vec<_>>();
    let mut snake = String::new();
    for (index, character) in characters.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| characters[before]);
        let after = characters.get(index + 1);
        let starts_word = before.is_some_and(|before| {
            let is_version = *character == 'V' && after.is_some_and(char::is_ascii_digit);
            before != '_'
                && character.is_uppercase()
                && (!before.is_uppercase()
                    || is_version
                    || after.is_some_and(|after| after.is_lowercase()))
        });
        if starts_word {
            snake.push('_');
        }
        snake.extend(character.to_lowercase());
    }
    if KEYWORDS.contains(&snake.as_str()) {
        snake.push('_');
    }
    snake
}

/// A struct's field; bindgen has put the underscore behind a keyword already.
pub(super) fn field(name: &str) -> String {
    snake(name.trim_end_matches('_'))
}

/// The name of a class's slot table.
pub(super) fn table(virtual_class: &str) -> String {
    let name = virtual_class.strip_prefix('V').unwrap_or(virtual_class);
    snake(name).to_uppercase()
}

/// An enum's constant without its `k`.
pub(super) fn constant(name: &str) -> String {
    let bare = name
        .strip_prefix('k')
        .filter(|rest| rest.starts_with(|first: char| first.is_uppercase() || first.is_numeric()));
    let bare = bare.unwrap_or(name);
    if bare.starts_with(|first: char| first.is_numeric()) {
        format!("_{bare}")
    } else {
        bare.to_owned()
    }
}

/// A type without namespaces and with the name that headers call it by.
pub(super) fn type_(name: &str) -> String {
    let mut name = name;
    for prefix in ["nvinfer1_", "v_1_0_"] {
        name = name.strip_prefix(prefix).unwrap_or(name);
    }
    match name {
        "Dims64" => "Dims",
        "ILogger_Severity" => "Severity",
        name => name,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_where_a_reader_would() {
        let cases = [
            ("getNbDLACores", "get_nb_dla_cores"),
            ("addNMSV2", "add_nms_v2"),
            ("setShapeValuesV2", "set_shape_values_v2"),
            ("addMatrixMultiply", "add_matrix_multiply"),
            ("input0", "input0"),
            ("addParametricReLU", "add_parametric_relu"),
            ("addMoE", "add_moe"),
            ("type", "type_"),
            ("getIOTensorName", "get_io_tensor_name"),
            ("beta", "beta"),
        ];
        for (name, expected) in cases {
            assert_eq!(snake(name), expected, "{name}");
        }
        assert_eq!(table("VKVCacheUpdateLayer"), "KV_CACHE_UPDATE_LAYER");
    }

    #[test]
    fn constants_lose_their_letter_only() {
        assert_eq!(constant("kGELU_TANH"), "GELU_TANH");
        assert_eq!(constant("k4BIT"), "_4BIT");
        assert_eq!(constant("kind"), "kind");
        assert_eq!(type_("nvinfer1_v_1_0_ILogger_Severity"), "Severity");
        assert_eq!(type_("nvinfer1_Dims64"), "Dims");
        assert_eq!(field("nbDims"), "nb_dims");
        assert_eq!(field("type_"), "type_");
    }
}
