//! Any file as a LoRA: its names understood or listed as unknown, or refused with an error.
//!
//! The first byte chooses: even, the rest is a whole safetensors file; odd, the rest is text with
//! a tensor's name and sizes in each line, so that the fuzzer works on names and shapes at once.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use tintype_lora::{Component, LoraFile};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

/// Keeps one input from asking for more memory than fuzzing has.
const MOST_VALUES: usize = 1 << 16;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    if choice % 2 == 0 {
        let mut file =
            tempfile::NamedTempFile::with_suffix(".safetensors").expect("a temporary file");
        file.write_all(rest).expect("writable");
        file.flush().expect("writable");
        if let Ok(lora) = LoraFile::open(file.path()) {
            look_at(&lora);
        }
    } else if let Some(parameters) = std::str::from_utf8(rest).ok().and_then(parameters_of)
        && let Ok(lora) = LoraFile::from_parameters(&parameters)
    {
        look_at(&lora);
    }
});

/// `name 4 8` in each line; zeros, as only names and shapes matter.
fn parameters_of(text: &str) -> Option<Parameters> {
    let mut builder = Parameters::builder();
    let mut values = 0;
    for line in text.lines() {
        let mut words = line.split(' ');
        let name = words.next()?;
        let sizes: Vec<usize> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let count = sizes
            .iter()
            .try_fold(1, |count: usize, size| count.checked_mul(*size))?;
        values += count;
        if values > MOST_VALUES {
            return None;
        }
        builder = builder.tensor(name, Tensor::from_f32(sizes, vec![0.0; count]).ok()?);
    }
    builder.build().ok()
}

fn look_at(lora: &LoraFile) {
    let _ = lora.check_finite();
    let _ = lora.keys_outside(&[Component::Transformer]);
    for target in lora.targets() {
        let _ = (target.block(), target.rank(), target.shape());
        for key in &target.keys {
            assert!(
                lora.tensors().contains(key),
                "a target names what is not there"
            );
        }
    }
    for key in lora.unknown_keys() {
        assert!(
            lora.tensors().contains(key),
            "an unknown name that is not there"
        );
    }
}
