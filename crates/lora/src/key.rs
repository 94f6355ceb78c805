//! Takes a key of a LoRA file apart: the module it is about, and its role there.
//!
//! Endings only; what stands before them is the business of `names`.
//!
//! ```text
//! transformer.x_embedder.lora_A.default.weight → transformer.x_embedder, Down
//! lora_unet_img_in.alpha                       → lora_unet_img_in, Alpha
//! ```

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// `[rank, in]`
    Down,
    /// `[out, rank]`
    Up,
    /// `[out]`, added to the module's bias with the scale of the pair.
    UpBias,
    /// One number; the update is scaled by alpha / rank.
    Alpha,
    /// `DoRA`: the lengths that rows (or columns) are given.
    Magnitude,
    HadamardFirstUp,
    HadamardFirstDown,
    HadamardSecondUp,
    HadamardSecondDown,
    KroneckerLeft,
    KroneckerLeftUp,
    KroneckerLeftDown,
    KroneckerRight,
    KroneckerRightUp,
    KroneckerRightDown,
    /// Added to the weight as it is.
    Difference,
    /// Added to the bias as it is.
    BiasDifference,
    /// Takes the place of a norm's weight.
    NormScale,
    /// Known, but nothing that can be merged here; the text says what it is.
    Unsupported(&'static str),
}

/// How the roles of a low-rank pair are spelled; tells formats apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    LoraAB,
    DownUp,
    XLabs,
    Other,
}

/// One key taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key<'k> {
    /// The module as it is written, with all prefixes.
    pub(crate) module: &'k str,
    pub(crate) role: Role,
    pub(crate) spelling: Spelling,
}

impl<'k> Key<'k> {
    /// `None` for an ending that no LoRA format has.
    pub(crate) fn parse(key: &'k str) -> Option<Self> {
        let parsed = Self::peft(key).or_else(|| Self::from_table(key))?;
        (!parsed.module.is_empty()).then_some(parsed)
    }

    /// PEFT puts the adapter's name between the role and `weight`, or leaves both out.
    fn peft(key: &'k str) -> Option<Self> {
        let (at, marker) = PEFT
            .iter()
            .filter_map(|&(marker, _)| Some((key.rfind(marker)?, marker)))
            .max()?;
        let role = PEFT.iter().find(|row| row.0 == marker)?.1;
        let rest = key[at + marker.len()..].split('.').collect::<Vec<_>>();
        let is_bias = match rest[..] {
            [""] | ["", "weight"] => false,
            ["", adapter, "weight"] if !adapter.is_empty() => false,
            ["", "bias"] => true,
            ["", adapter, "bias"] if !adapter.is_empty() => true,
            // `lora_magnitude_vector.default` has no `weight` in older files.
            ["", adapter] if role == Role::Magnitude && !adapter.is_empty() => false,
            _ => return None,
        };
        let role = match (role, is_bias) {
            (role, false) => role,
            (Role::Up, true) => Role::UpBias,
            (_, true) => return None,
        };
        Some(Self {
            module: &key[..at],
            role,
            spelling: Spelling::LoraAB,
        })
    }

    fn from_table(key: &'k str) -> Option<Self> {
        ENDINGS.iter().find_map(|&(ending, role, spelling)| {
            let module = key.strip_suffix(ending)?;
            // Only these call a pair plainly `down` and `up`.
            let fits = spelling != Spelling::XLabs || module.contains(".processor.");
            // The norm's own name is part of the module.
            let module = match role {
                Role::NormScale => key.strip_suffix(".scale")?,
                _ => module,
            };
            fits.then_some(Self {
                module,
                role,
                spelling,
            })
        })
    }
}

const PEFT: [(&str, Role); 3] = [
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".lora_magnitude_vector", Role::Magnitude),
];

/// Longer endings stand before those that they end in.
const ENDINGS: &[(&str, Role, Spelling)] = &[
    (".lora_down.weight", Role::Down, Spelling::DownUp),
    (".lora_up.weight", Role::Up, Spelling::DownUp),
    (".lora_up.bias", Role::UpBias, Spelling::DownUp),
    (".lora.down.weight", Role::Down, Spelling::DownUp),
    (".lora.up.weight", Role::Up, Spelling::DownUp),
    (
        ".lora_linear_layer.down.weight",
        Role::Down,
        Spelling::DownUp,
    ),
    (".lora_linear_layer.up.weight", Role::Up, Spelling::DownUp),
    (".down.weight", Role::Down, Spelling::XLabs),
    (".up.weight", Role::Up, Spelling::XLabs),
    (".alpha", Role::Alpha, Spelling::Other),
    (".dora_scale", Role::Magnitude, Spelling::Other),
    (".hada_w1_a", Role::HadamardFirstUp, Spelling::Other),
    (".hada_w1_b", Role::HadamardFirstDown, Spelling::Other),
    (".hada_w2_a", Role::HadamardSecondUp, Spelling::Other),
    (".hada_w2_b", Role::HadamardSecondDown, Spelling::Other),
    (".lokr_w1", Role::KroneckerLeft, Spelling::Other),
    (".lokr_w1_a", Role::KroneckerLeftUp, Spelling::Other),
    (".lokr_w1_b", Role::KroneckerLeftDown, Spelling::Other),
    (".lokr_w2", Role::KroneckerRight, Spelling::Other),
    (".lokr_w2_a", Role::KroneckerRightUp, Spelling::Other),
    (".lokr_w2_b", Role::KroneckerRightDown, Spelling::Other),
    (".diff", Role::Difference, Spelling::Other),
    (".diff_b", Role::BiasDifference, Spelling::Other),
    (".w_norm", Role::Difference, Spelling::Other),
    (".b_norm", Role::BiasDifference, Spelling::Other),
    (".query_norm.scale", Role::NormScale, Spelling::Other),
    (".key_norm.scale", Role::NormScale, Spelling::Other),
    (".lora_mid.weight", CONVOLUTION, Spelling::Other),
    (".hada_t1", CONVOLUTION, Spelling::Other),
    (".hada_t2", CONVOLUTION, Spelling::Other),
    (".lokr_t1", CONVOLUTION, Spelling::Other),
    (".lokr_t2", CONVOLUTION, Spelling::Other),
    (".oft_blocks", ORTHOGONAL, Spelling::Other),
    (".oft_diag", ORTHOGONAL, Spelling::Other),
    (".oft_R.weight", ORTHOGONAL, Spelling::Other),
    (".on_input", ON_INPUT, Spelling::Other),
    (".lora_embedding_A", EMBEDDING, Spelling::Other),
    (".lora_embedding_B", EMBEDDING, Spelling::Other),
];

const CONVOLUTION: Role = Role::Unsupported("a Tucker decomposition of convolutions");
const ORTHOGONAL: Role = Role::Unsupported("orthogonal fine-tuning (OFT)");
const ON_INPUT: Role = Role::Unsupported("scaling of inputs ((IA)³)");
const EMBEDDING: Role = Role::Unsupported("a LoRA on embeddings");

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(key: &str) -> Option<(&str, Role)> {
        Key::parse(key).map(|key| (key.module, key.role))
    }

    #[test]
    fn endings_of_every_format() {
        for (key, module, role) in [
            ("a.b.lora_A.weight", "a.b", Role::Down),
            ("a.b.lora_B.weight", "a.b", Role::Up),
            ("a.b.lora_B.bias", "a.b", Role::UpBias),
            ("a.lora_A.default.weight", "a", Role::Down),
            ("a.lora_B.my-style.weight", "a", Role::Up),
            ("a.lora_B.default.bias", "a", Role::UpBias),
            ("a.lora_A", "a", Role::Down),
            ("a.lora_magnitude_vector", "a", Role::Magnitude),
            (
                "a.lora_magnitude_vector.default.weight",
                "a",
                Role::Magnitude,
            ),
            ("a.lora_magnitude_vector.default", "a", Role::Magnitude),
            ("a.lora_down.weight", "a", Role::Down),
            ("a.lora_linear_layer.up.weight", "a", Role::Up),
            (
                "b.processor.qkv_lora1.down.weight",
                "b.processor.qkv_lora1",
                Role::Down,
            ),
            ("a.alpha", "a", Role::Alpha),
            ("a.dora_scale", "a", Role::Magnitude),
            ("a.lokr_w1_a", "a", Role::KroneckerLeftUp),
            (
                "a.norm.query_norm.scale",
                "a.norm.query_norm",
                Role::NormScale,
            ),
        ] {
            assert_eq!(parsed(key), Some((module, role)), "{key}");
        }
    }

    #[test]
    fn other_endings_are_not_understood() {
        for key in [
            "a.weight",
            "a.down.weight",
            ".lora_A.weight",
            "lora_A.weight",
            "a.lora_A.bias",
            "a.lora_A.b.c.weight",
            "a.lora_A..weight",
            "a.scale",
            "alpha",
            "",
        ] {
            assert_eq!(parsed(key), None, "{key}");
        }
    }
}
