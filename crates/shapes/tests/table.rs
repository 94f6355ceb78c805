//! The table has the files of the folder `model`, at addresses that suit every dtype.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::Path;

#[test]
fn the_table_is_the_folder() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("model");
    for (name, bytes) in tintype_shapes::FILES {
        assert!(*bytes == std::fs::read(model.join(name)).unwrap(), "{name}");
    }
    let names: Vec<&str> = tintype_shapes::FILES.iter().map(|file| file.0).collect();
    assert!(names.is_sorted());
    for name in ["model_index.json", "tintype.json"] {
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn every_file_is_aligned() {
    for (name, bytes) in tintype_shapes::FILES {
        assert_eq!(bytes.as_ptr().addr() % 64, 0, "{name}");
    }
}
