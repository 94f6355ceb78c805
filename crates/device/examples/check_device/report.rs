//! The table of checks.

use std::fmt::Display;

use tintype_tensor::{Tensor, relative_error};

/// Counts what passed and prints a line for each check.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: usize,
    failed: Vec<String>,
}

impl Report {
    /// A check with what was found.
    pub(crate) fn line(&mut self, name: &str, passed: bool, found: impl Display) {
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("{verdict:<7} {name:<58} {found}");
        if passed {
            self.passed += 1;
        } else {
            self.failed.push(name.to_owned());
        }
    }

    /// A check whose error is one of the check.
    pub(crate) fn result(
        &mut self,
        name: &str,
        result: Result<String, Box<dyn std::error::Error>>,
    ) {
        match result {
            Ok(found) => self.line(name, true, found),
            Err(error) => self.line(name, false, error),
        }
    }

    /// Two tensors that agree within `tolerance`, or to the bit if it is 0.
    pub(crate) fn compare(
        &mut self,
        name: &str,
        found: &Tensor,
        expected: &Tensor,
        tolerance: f64,
    ) {
        let same_type = found.dtype() == expected.dtype() && found.shape() == expected.shape();
        if !same_type {
            let types = format!(
                "{}{} for {}{}",
                found.dtype(),
                found.shape(),
                expected.dtype(),
                expected.shape()
            );
            return self.line(name, false, types);
        }
        let count = expected.element_count();
        if tolerance == 0.0 {
            let differing = differing(found, expected);
            let found = format!("{differing} of {count} differ");
            return self.line(name, differing == 0, found);
        }
        let error = match (found.to_f32_vec(), expected.to_f32_vec()) {
            (Ok(found), Ok(expected)) => finite_error(found, expected),
            _ => f64::NAN,
        };
        let text = format!("{count} elements, error {error:.1e}, at most {tolerance:.0e}");
        self.line(name, error <= tolerance, text);
    }

    /// Prints the sum; whether all passed.
    pub(crate) fn finish(self) -> bool {
        println!("{} passed; {} failed", self.passed, self.failed.len());
        for name in &self.failed {
            println!("failed: {name}");
        }
        self.failed.is_empty()
    }
}

/// The relative error, where both may hold the same infinity: their difference is none.
fn finite_error(mut found: Vec<f32>, mut expected: Vec<f32>) -> f64 {
    for (found, expected) in found.iter_mut().zip(&mut expected) {
        if found.is_infinite() && found == expected {
            (*found, *expected) = (1.0, 1.0);
        }
    }
    relative_error(&found, &expected)
}

/// How many elements differ; NaN is NaN whatever its bits.
fn differing(found: &Tensor, expected: &Tensor) -> usize {
    if !expected.dtype().is_float() {
        let pairs = found.bytes().iter().zip(expected.bytes());
        return pairs.filter(|(a, b)| a != b).count();
    }
    let (Ok(found), Ok(expected)) = (found.to_f32_vec(), expected.to_f32_vec()) else {
        return expected.element_count();
    };
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let pairs = found.iter().zip(&expected);
    pairs.filter(|&(&a, &b)| !same(a, b)).count()
}
