//! `tintype doctor`.

use anyhow::Result;
use tintype::backends::ENTRIES;

pub(crate) fn run() -> Result<()> {
    say!("tintype {}", env!("CARGO_PKG_VERSION"));
    for entry in ENTRIES {
        match entry.probe() {
            Ok(found) => say!("{:9} available: {}", entry.name, found.description),
            Err(error) => say!("{:9} not available: {error}", entry.name),
        }
    }
    Ok(())
}
