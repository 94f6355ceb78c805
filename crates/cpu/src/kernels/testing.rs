//! Random inputs and comparisons for the tests of kernels.

use rayon::ThreadPoolBuilder;

/// A small generator (`SplitMix64`, Steele, Lea and Flood 2014) with a fixed seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Values in −2..2, none of them zero.
    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        let unit = |bits: u64| ((bits >> 40) as f32 + 0.5) / (1u64 << 24) as f32;
        (0..count).map(|_| 4.0 * unit(self.next()) - 2.0).collect()
    }
}

/// ‖a − b‖₂ / ‖b‖₂.
pub(crate) fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(&a, &b)| (f64::from(a) - b).powi(2))
        .sum();
    let norm: f64 = expected.iter().map(|b| b * b).sum();
    (difference / norm).sqrt()
}

/// Asserts that `found` is near `expected`.
#[track_caller]
pub(crate) fn assert_near(found: &[f32], expected: &[f64], tolerance: f64) {
    let error = relative_error(found, expected);
    assert!(
        error <= tolerance,
        "relative error {error:e}, at most {tolerance:e} expected"
    );
}

/// The output of `body` with 1 thread, asserted to have the same bits with 2, 3 and 5.
#[track_caller]
pub(crate) fn same_for_any_threads(body: impl Fn() -> Vec<f32> + Sync) -> Vec<f32> {
    let run = |threads| {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(&body)
    };
    let expected = run(1);
    for threads in [2, 3, 5] {
        let found = run(threads);
        let same = expected
            .iter()
            .zip(&found)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{threads} threads give other bits than one");
    }
    expected
}
