//! Where there is no driver, everything that asks for a device says so and what to do.
//!
//! On a machine with a GPU there is nothing to see here: `check_device` is for those.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use tintype_device::{Device, Driver, Error};

#[test]
fn opening_a_device_says_why_not() {
    let Err(error) = Driver::load() else { return };
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let message = error.to_string();
    for ordinal in [0, 7, usize::MAX] {
        let error = Device::open(ordinal).unwrap_err();
        assert_eq!(error.to_string(), message);
        let error = error.for_backend("cuda");
        let is_unavailable = matches!(error, tintype_backend::Error::Unavailable { .. });
        assert!(is_unavailable, "{error}");
        let shown = error.to_string();
        assert!(
            shown.starts_with("backend `cuda` is not available: the NVIDIA driver"),
            "{shown}"
        );
    }
}

#[test]
fn many_threads_may_ask_at_once() {
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(Driver::load)).collect();
    let results: Vec<bool> = threads
        .into_iter()
        .map(|t| t.join().unwrap().is_ok())
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}
