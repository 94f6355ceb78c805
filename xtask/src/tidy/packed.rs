//! The model inside the program may have large files, if they make a small package.
//!
//! A registry takes packages of 10 MB, so what counts is the size of the whole folder as cargo
//! packs it. Measured here without tar's headers, which add some 40 bytes a file once compressed.
//!
//! ```text
//! error: crates/shapes/model: 9800211 bytes when packed, expected at most 9500000
//! ```

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Finding;

/// Whether a file belongs to the model.
pub(super) fn is_in_model(path: &str) -> bool {
    path.strip_prefix(MODEL)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Checks the model's files, given as paths and contents.
pub(super) fn check<'a>(files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<Finding> {
    let size = packed_size(files);
    (size > TOO_LARGE).then(|| {
        let message = format!("{size} bytes when packed, expected at most {TOO_LARGE}");
        Finding::error(MODEL, message)
    })
}

/// The size in bytes as one compressed stream, as in cargo's `.crate` files.
fn packed_size<'a>(files: impl Iterator<Item = (&'a str, &'a [u8])>) -> usize {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for (path, bytes) in files {
        let written = encoder
            .write_all(path.as_bytes())
            .and_then(|()| encoder.write_all(bytes));
        written.expect("a vector takes everything");
    }
    encoder.finish().expect("a vector takes everything").len()
}

const MODEL: &str = "crates/shapes/model";
const TOO_LARGE: usize = 9_500_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no compression makes smaller.
    fn noise(count: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn what_counts_is_the_packed_size() {
        let zeros = vec![0; 3 * TOO_LARGE];
        assert_eq!(check([("a", zeros.as_slice())].into_iter()), None);
        let half = noise(TOO_LARGE / 2 + 1);
        let other: Vec<u8> = half.iter().map(|byte| !byte).rev().collect();
        assert_eq!(check([("a", half.as_slice())].into_iter()), None);
        let finding = check([("a", half.as_slice()), ("b", &other)].into_iter());
        let message = finding.unwrap().to_string();
        assert!(
            message.starts_with("error: crates/shapes/model: 95"),
            "{message}"
        );
    }

    #[test]
    fn only_the_folder_itself_is_the_model() {
        assert!(is_in_model("crates/shapes/model/vae/config.json"));
        for path in ["crates/shapes/model", "crates/shapes/models/a", "model/a"] {
            assert!(!is_in_model(path), "{path}");
        }
    }
}
