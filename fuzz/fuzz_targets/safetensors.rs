//! Any bytes as a safetensors file: opened and read to the end, or refused with an error.
//!
//! The first byte chooses: even, the rest is the whole file; odd, the rest is a header's JSON to
//! which the length and as many zero bytes of data as the byte says are added, so that the
//! fuzzer gets past the length at once.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use tintype_weights::{Parameters, SafetensorsFile};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    let mut file = tempfile::NamedTempFile::with_suffix(".safetensors").expect("a temporary file");
    if choice % 2 == 0 {
        file.write_all(rest).expect("writable");
    } else {
        file.write_all(&(rest.len() as u64).to_le_bytes())
            .expect("writable");
        file.write_all(rest).expect("writable");
        file.write_all(&vec![0; usize::from(choice / 2)])
            .expect("writable");
    }
    file.flush().expect("writable");
    read(file.path());
});

fn read(path: &std::path::Path) {
    let Ok(opened) = SafetensorsFile::open(path) else {
        assert!(
            Parameters::open(path).is_err(),
            "a refused file opens elsewhere"
        );
        return;
    };
    let _ = opened.identity();
    for (name, entry) in opened.entries() {
        assert!(entry.range.start <= entry.range.end);
        if let Ok(tensor) = opened.tensor(name) {
            let _ = tensor.to_f32_vec();
        }
    }
    let Ok(parameters) = Parameters::open(path) else {
        return;
    };
    for name in parameters.names() {
        let _ = parameters.get(name);
        let _ = parameters.hash(name);
    }
}
