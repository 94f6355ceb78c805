//! Names with block numbers left open: `double_blocks.{}.img_attn.qkv`.
//!
//! A flattened name (dots replaced by underscores) cannot be unflattened by
//! itself, since module names hold underscores too. Matching it against the
//! flattened templates of a model's modules can, for any number of blocks.

/// The block numbers if `name` is an instance of `template`.
///
/// With `flat`, dots of the template stand for underscores.
pub(crate) fn numbers<'n>(template: &str, name: &'n str, flat: bool) -> Option<Vec<&'n str>> {
    let mut rest = name;
    let mut numbers = Vec::new();
    for (index, piece) in template.split("{}").enumerate() {
        if index > 0 {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            // Longer ones are no block numbers of any model, nor is `01`.
            if end == 0 || end > 4 || (end > 1 && rest.starts_with('0')) {
                return None;
            }
            numbers.push(&rest[..end]);
            rest = &rest[end..];
        }
        rest = strip_piece(rest, piece, flat)?;
    }
    rest.is_empty().then_some(numbers)
}

/// The template with its numbers filled in.
pub(crate) fn filled(template: &str, numbers: &[&str]) -> String {
    let mut numbers = numbers.iter();
    let mut name = String::with_capacity(template.len() + 4);
    for (index, piece) in template.split("{}").enumerate() {
        if index > 0 {
            name.push_str(numbers.next().copied().unwrap_or_default());
        }
        name.push_str(piece);
    }
    name
}

fn strip_piece<'n>(name: &'n str, piece: &str, flat: bool) -> Option<&'n str> {
    if !flat {
        return name.strip_prefix(piece);
    }
    let (start, rest) = name.split_at_checked(piece.len())?;
    let pairs = piece.bytes().zip(start.bytes());
    let mut same = pairs.map(|(piece, name)| piece == name || (piece == b'.' && name == b'_'));
    same.all(|same| same).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_dots() {
        let template = "blocks.{}.ff_context.net.{}.proj";
        let found = numbers(template, "blocks.11.ff_context.net.0.proj", false).unwrap();
        assert_eq!(found, ["11", "0"]);
        assert_eq!(filled(template, &found), "blocks.11.ff_context.net.0.proj");
        let flat = "blocks_11_ff_context_net_0_proj";
        assert_eq!(numbers(template, flat, true).unwrap(), ["11", "0"]);
        assert_eq!(numbers(template, flat, false), None);
    }

    #[test]
    fn what_is_no_instance() {
        for name in [
            "a_x_b",
            "a_1",
            "a_1_bc",
            "a__b",
            "a_01_b",
            "a_12345_b",
            "a_é_b",
            "",
        ] {
            assert_eq!(numbers("a.{}.b", name, true), None, "{name}");
        }
    }
}
