//! `tintype doctor`.

use anyhow::Result;
use tintype::backends::ENTRIES;
use tintype::built_in;

pub(crate) fn run() -> Result<()> {
    say!("tintype {}", env!("CARGO_PKG_VERSION"));
    for entry in ENTRIES {
        match entry.probe() {
            Ok(found) => say!("{:9} available: {}", entry.name, found.description),
            Err(error) => say!("{:9} not available: {error}", entry.name),
        }
        #[cfg(feature = "tensorrt")]
        if entry.name == "tensorrt" {
            for line in tintype::tensorrt::report() {
                say!("{:9} {line}", "");
            }
        }
    }
    match built_in::files() {
        Some(_) => say!(
            "model     built in: {}, used without --model",
            built_in::NAME
        ),
        None => say!("model     none built in: give one with --model"),
    }
    Ok(())
}
