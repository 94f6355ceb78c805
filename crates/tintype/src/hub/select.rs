//! Which files of a repository a pipeline needs, and whether a folder has them all.
//!
//! Pure but for looking at a folder. It does not read weights: a file that is there was checked
//! when it was fetched.
//!
//! ```text
//! wanted(["README.md", "vae/config.json", "vae/model.fp16.safetensors", …])
//! ```

use std::path::Path;

use serde_json::Value;

use super::model_id::is_safe_part;

/// The file that says which components a pipeline has.
pub(crate) const PIPELINE_INDEX: &str = "model_index.json";

/// The model's defaults, which name the LoRAs that come with it; they lie in [`LORAS`].
const DEFAULTS: &str = "tintype.json";
const LORAS: &str = "loras";

/// What a folder of a pipeline holds.
#[derive(Clone, Copy)]
enum Component {
    Weights,
    Tokenizer,
    Scheduler,
}

const COMPONENTS: [(&str, Component); 7] = [
    ("scheduler", Component::Scheduler),
    ("tokenizer", Component::Tokenizer),
    ("tokenizer_2", Component::Tokenizer),
    ("text_encoder", Component::Weights),
    ("text_encoder_2", Component::Weights),
    ("transformer", Component::Weights),
    ("vae", Component::Weights),
];

const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// The names that weights have without a variant such as `fp16`.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

const SAFETENSORS: &str = ".safetensors";
const INDEX: &str = ".safetensors.index.json";

/// The files among `names` that a pipeline in diffusers' layout needs, in their order.
///
/// Checkpoints in one file at the top, images, other formats and weights in other precisions
/// stay out. Where a folder has both shards with an index and one whole file, the shards win,
/// as they do in diffusers.
pub(crate) fn wanted(names: &[String]) -> Vec<String> {
    let is_wanted = |name: &&String| {
        if [PIPELINE_INDEX, DEFAULTS].contains(&name.as_str()) {
            return true;
        }
        let Some((folder, file)) = name.split_once('/') else {
            return false;
        };
        if folder == LORAS && names.iter().any(|name| name == DEFAULTS) {
            return is_safe_part(file) && file.ends_with(SAFETENSORS);
        }
        let component = COMPONENTS.iter().find(|component| component.0 == folder);
        is_safe_part(file) && component.is_some_and(|found| takes(found.1, folder, file, names))
    };
    names.iter().filter(is_wanted).cloned().collect()
}

fn takes(component: Component, folder: &str, file: &str, names: &[String]) -> bool {
    match component {
        Component::Scheduler => file == "scheduler_config.json",
        Component::Tokenizer => TOKENIZER_FILES.contains(&file),
        Component::Weights => file == "config.json" || is_weight(folder, file, names),
    }
}

fn is_weight(folder: &str, file: &str, names: &[String]) -> bool {
    let has = |file: String| names.contains(&format!("{folder}/{file}"));
    for stem in STEMS {
        if has(format!("{stem}{INDEX}")) {
            return file == format!("{stem}{INDEX}") || is_shard(file, stem);
        }
        if has(format!("{stem}{SAFETENSORS}")) {
            return file == format!("{stem}{SAFETENSORS}");
        }
    }
    // No plain weights: whatever variant there is, is what the author offers.
    file.ends_with(SAFETENSORS) || file.ends_with(INDEX)
}

/// `stem-00001-of-00003.safetensors`
fn is_shard(file: &str, stem: &str) -> bool {
    let numbers = file
        .strip_prefix(stem)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(SAFETENSORS))
        .and_then(|rest| rest.split_once("-of-"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(index, count)| is_number(index) && is_number(count))
}

/// Whether `folder` has every file that its pipeline index calls for.
pub(crate) fn is_complete(folder: &Path) -> bool {
    let Some(Value::Object(index)) = read_json(&folder.join(PIPELINE_INDEX)) else {
        return false;
    };
    COMPONENTS
        .iter()
        .filter(|(name, _)| is_used(index.get(*name)))
        .all(|(name, component)| component_is_complete(&folder.join(name), *component))
}

/// A component that the pipeline goes without is listed as `[null, null]`.
fn is_used(entry: Option<&Value>) -> bool {
    entry
        .and_then(Value::as_array)
        .is_some_and(|pair| pair.iter().all(|part| !part.is_null()))
}

fn component_is_complete(folder: &Path, component: Component) -> bool {
    let has = |file: &str| folder.join(file).is_file();
    match component {
        Component::Scheduler => has("scheduler_config.json"),
        Component::Tokenizer => {
            has("tokenizer.json") || has("spiece.model") || (has("vocab.json") && has("merges.txt"))
        }
        Component::Weights => has("config.json") && weights_are_complete(folder),
    }
}

fn weights_are_complete(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    let names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    match names.iter().find(|name| name.ends_with(INDEX)) {
        Some(index) => shards_are_complete(folder, index),
        None => names
            .iter()
            .any(|name| name.ends_with(SAFETENSORS) && folder.join(name).is_file()),
    }
}

fn shards_are_complete(folder: &Path, index: &str) -> bool {
    let index = read_json(&folder.join(index));
    let Some(Value::Object(map)) = index.as_ref().and_then(|index| index.get("weight_map")) else {
        return false;
    };
    map.values().all(|shard| {
        shard
            .as_str()
            .is_some_and(|shard| is_safe_part(shard) && folder.join(shard).is_file())
    })
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_of(names: &[&str]) -> Vec<String> {
        wanted(
            &names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_flux_repository_yields_its_pipeline() {
        let needed = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "text_encoder_2/config.json",
            "text_encoder_2/model-00001-of-00002.safetensors",
            "text_encoder_2/model-00002-of-00002.safetensors",
            "text_encoder_2/model.safetensors.index.json",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "tokenizer_2/spiece.model",
            "tokenizer_2/tokenizer.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        let mut names = needed.to_vec();
        names.extend([
            ".gitattributes",
            "LICENSE.md",
            "README.md",
            "ae.safetensors",
            "dev_grid.jpg",
            "flux1-dev.safetensors",
            "text_encoder/flax_model.msgpack",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/pytorch_model.bin",
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/model.onnx",
            "vae/../config.json",
            "vae/deep/config.json",
            "other/config.json",
        ]);
        assert_eq!(wanted_of(&names), needed);
    }

    #[test]
    fn a_variant_is_taken_when_it_is_all_there_is() {
        let only = ["vae/diffusion_pytorch_model.fp16.safetensors"];
        assert_eq!(wanted_of(&only), only);
    }

    #[test]
    fn loras_come_with_the_file_that_names_them() {
        let loras = [
            "loras/neon.safetensors",
            "loras/README.md",
            "loras/a/b.safetensors",
        ];
        assert_eq!(wanted_of(&loras), [""; 0]);
        let mut names = loras.to_vec();
        names.push(DEFAULTS);
        assert_eq!(wanted_of(&names), ["loras/neon.safetensors", DEFAULTS]);
    }

    #[test]
    fn a_folder_is_complete_with_every_shard() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(!is_complete(folder.path()));
        write(
            PIPELINE_INDEX,
            r#"{"vae": ["diffusers", "AutoencoderKL"], "text_encoder_2": [null, null]}"#,
        );
        assert!(!is_complete(folder.path()));
        write("vae/config.json", "{}");
        write(
            "vae/model.safetensors.index.json",
            r#"{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}"#,
        );
        write("vae/model-1-of-2.safetensors", "");
        assert!(!is_complete(folder.path()));
        write("vae/model-2-of-2.safetensors", "");
        assert!(is_complete(folder.path()));
        write(
            "vae/model.safetensors.index.json",
            r#"{"weight_map": {"a": "../vae/config.json"}}"#,
        );
        assert!(!is_complete(folder.path()));
    }
}
