//! How far two pictures are apart.

use crate::{Error, Result};

/// Peak signal-to-noise ratio of pictures in 0..=1, in decibels; infinite for equal ones.
///
/// # Errors
/// [`Error::Compare`] for different lengths, or none.
pub fn psnr(a: &[f32], b: &[f32]) -> Result<f64> {
    if a.len() != b.len() || a.is_empty() {
        return Err(Error::Compare {
            what: "the values of two pictures",
            expected: format!("as many as {}", b.len().max(1)),
            found: a.len().to_string(),
        });
    }
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    let mean = squares.sum::<f64>() / a.len() as f64;
    Ok(-10.0 * mean.log10())
}

/// Structural similarity of two planes in 0..=1 of `height` rows, after Wang, Bovik, Sheikh and
/// Simoncelli (2004): the mean over all windows of 11×11 that lie within, weighted by a Gaussian
/// of deviation 1.5, with K₁ = 0.01 and K₂ = 0.03. Of several planes on top of each other, give
/// each alone.
///
/// # Errors
/// [`Error::Compare`] for different sizes, or planes smaller than a window.
pub fn ssim(a: &[f32], b: &[f32], height: usize) -> Result<f64> {
    let width = a.len().checked_div(height).unwrap_or(0);
    let fits = a.len() == b.len() && width * height == a.len();
    if !fits || width < WINDOW || height < WINDOW {
        return Err(Error::Compare {
            what: "the sizes of two pictures",
            expected: format!("the same, at least {WINDOW} by {WINDOW}"),
            found: format!("{} and {} values in {height} rows", a.len(), b.len()),
        });
    }
    let plane = |f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
        let pairs = a.iter().zip(b);
        let values: Vec<f64> = pairs
            .map(|(a, b)| f(f64::from(*a), f64::from(*b)))
            .collect();
        blurred(&values, height, width)
    };
    let (mean_a, mean_b) = (plane(&|a, _| a), plane(&|_, b| b));
    let (aa, bb, ab) = (
        plane(&|a, _| a * a),
        plane(&|_, b| b * b),
        plane(&|a, b| a * b),
    );
    let mut total = 0.0;
    for index in 0..mean_a.len() {
        let (x, y) = (mean_a[index], mean_b[index]);
        let (var_a, var_b) = (aa[index] - x * x, bb[index] - y * y);
        let covariance = ab[index] - x * y;
        total += (2.0 * x * y + C1) * (2.0 * covariance + C2)
            / ((x * x + y * y + C1) * (var_a + var_b + C2));
    }
    Ok(total / mean_a.len() as f64)
}

/// A plane through the Gaussian window, where it lies within.
fn blurred(values: &[f64], height: usize, width: usize) -> Vec<f64> {
    let weights = weights();
    let columns = width - WINDOW + 1;
    let mut across = Vec::with_capacity(height * columns);
    for row in values.chunks_exact(width) {
        across.extend(row.windows(WINDOW).map(|window| dot(window, &weights)));
    }
    let mut result = Vec::with_capacity((height - WINDOW + 1) * columns);
    for top in 0..=height - WINDOW {
        for column in 0..columns {
            let place = |row: usize| across[(top + row) * columns + column];
            result.push((0..WINDOW).map(|row| place(row) * weights[row]).sum());
        }
    }
    result
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn weights() -> [f64; WINDOW] {
    let mut weights: [f64; WINDOW] = std::array::from_fn(|index| {
        let distance = index as f64 - (WINDOW / 2) as f64;
        (-distance * distance / (2.0 * 1.5 * 1.5)).exp()
    });
    let sum: f64 = weights.iter().sum();
    for weight in &mut weights {
        *weight /= sum;
    }
    weights
}

const WINDOW: usize = 11;
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_of_a_tenth_is_twenty_decibels() {
        let a = vec![0.5; 300];
        let b: Vec<f32> = (0..300)
            .map(|i| if i % 2 == 0 { 0.6 } else { 0.4 })
            .collect();
        assert!((psnr(&a, &b).unwrap() - 20.0).abs() < 1e-5);
        assert_eq!(psnr(&a, &a).unwrap(), f64::INFINITY);
        assert!(psnr(&a, &b[1..]).is_err());
    }

    #[test]
    fn similarity_follows_structure() {
        let stripes: Vec<f32> = (0..400).map(|i| ((i / 4) % 2) as f32).collect();
        assert!((ssim(&stripes, &stripes, 20).unwrap() - 1.0).abs() < 1e-12);
        let inverse: Vec<f32> = stripes.iter().map(|v| 1.0 - v).collect();
        assert!(ssim(&stripes, &inverse, 20).unwrap() < -0.5);
        let dark: Vec<f32> = stripes.iter().map(|v| v * 0.9).collect();
        let near = ssim(&stripes, &dark, 20).unwrap();
        assert!((0.9..1.0).contains(&near), "{near}");
        // Of planes that do not change, the formula leaves the means alone.
        let (a, b) = (vec![0.2; 121], vec![0.6; 121]);
        let expected = (2.0 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4);
        assert!((ssim(&a, &b, 11).unwrap() - expected).abs() < 1e-6);
        assert!(ssim(&a[..110], &b[..110], 10).is_err());
    }
}
