//! That the graphs compute what the calls mean, what the library is told of them, and which path
//! each model's calls take.

mod attention;
mod convolution;
mod device;
mod library;
mod models;

use super::interpret::Memory;
use super::library::Version;
use crate::Place;

const CUDNN_9_14: Version = Version(91_400);
const HOPPER: u32 = 90;

fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn memory(places: &[(Place, usize)]) -> Memory {
    let places = places.iter().zip(1..);
    places
        .map(|(&(place, count), seed)| (place, numbers(count, seed)))
        .collect()
}

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() < 1e-9, "{what}: {index}: {a}, not {b}");
    }
}
