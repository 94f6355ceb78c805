//! Scaled FP8 files: an 8-bit weight beside the scale that it was divided by.
//!
//! `X.weight` in `F8_E4M3` with `X.scale_weight` or `X.weight_scale` (one value, or
//! one for each row) is one parameter whose value is the product, read as f32.
//! The scale's own name disappears. Scales of activations stay what they are.
//!
//! ```text
//! img_in.weight F8_E4M3[64, 16], img_in.scale_weight F32[] → img_in.weight f32[64, 16]
//! ```

use std::collections::BTreeMap;

use crate::header::StorageDType;
use crate::source::{Base, Source};
use crate::{Result, SafetensorsFile};

/// The sources of all tensors of `files`, with scales folded into their weights.
pub(crate) fn sources_of(files: &[SafetensorsFile]) -> Result<BTreeMap<String, Source>> {
    let mut bases = BTreeMap::new();
    for file in files {
        for (name, _) in file.entries() {
            let base = Base::File {
                file: file.clone(),
                name: name.to_owned(),
            };
            bases.insert(name.to_owned(), base);
        }
    }
    let scales: BTreeMap<String, String> = bases
        .keys()
        .filter_map(|name| Some((weight_of(name)?, name.clone())))
        .filter(|(weight, _)| bases.get(weight).is_some_and(is_f8))
        .collect();
    let mut sources = BTreeMap::new();
    for (name, base) in &bases {
        let source = Source::new(base.clone());
        let source = match scales.get(name) {
            Some(scale) => source
                .scaled(bases[scale].clone())
                .map_err(|error| bases[scale].value_error(scale, error))?,
            None => source,
        };
        sources.insert(name.clone(), source);
    }
    for scale in scales.values() {
        sources.remove(scale);
    }
    Ok(sources)
}

/// The weight that a name of a scale belongs to.
fn weight_of(name: &str) -> Option<String> {
    let module = SCALE_SUFFIXES
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))?;
    Some(format!("{module}.weight"))
}

fn is_f8(base: &Base) -> bool {
    match base {
        Base::File { file, name } => file
            .entry(name)
            .is_some_and(|entry| entry.dtype == StorageDType::F8E4M3),
        Base::Memory(_) => false,
    }
}

const SCALE_SUFFIXES: [&str; 2] = [".scale_weight", ".weight_scale"];
