//! Lists the parameters of a checkpoint: `list_parameters [PATH]`.
//!
//! PATH is a safetensors file, an index or a folder. Without one, it writes a
//! small file, lists it, and removes it.

use std::path::{Path, PathBuf};

use tintype_weights::layout::Layout;
use tintype_weights::{Checkpoint, Parameters};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = std::env::args_os().nth(1) {
        return list(&PathBuf::from(path));
    }
    let path = std::env::temp_dir().join(format!(
        "list_parameters-{}.safetensors",
        std::process::id()
    ));
    std::fs::write(&path, small_file())?;
    let listed = list(&path);
    std::fs::remove_file(&path)?;
    listed
}

fn list(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let checkpoint = Checkpoint::open(path)?;
    let parameters = Parameters::from_checkpoint(&checkpoint)?;
    println!("{}", Layout::detect(&parameters));
    for name in parameters.names() {
        match parameters.info(name) {
            Ok(info) => println!("{name}: {}{}", info.dtype, info.shape),
            Err(error) => println!("{error}"),
        }
    }
    println!(
        "{} parameters, checkpoint {}",
        parameters.len(),
        checkpoint.identity().hash()
    );
    Ok(())
}

/// One tensor of two floats, byte by byte.
fn small_file() -> Vec<u8> {
    let header = br#"{"scale":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend([1.0f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
    bytes
}
