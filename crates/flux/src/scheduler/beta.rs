//! Quantiles of the symmetric beta distribution, for the beta spacing of sigmas.
//!
//! Only what [`super::Schedule`] needs, to about 1e-14: no densities, no other
//! distributions.

/// The value below which `probability` of Beta(`shape`, `shape`) lies.
///
/// Found by bisection of [`beta_probability`]; 0 and 1 are exact.
pub(super) fn beta_quantile(probability: f64, shape: f64) -> f64 {
    if probability <= 0.0 {
        return 0.0;
    }
    // The distribution is symmetric: search where the floats are dense.
    if probability > 0.5 {
        return 1.0 - beta_quantile(1.0 - probability, shape);
    }
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..BISECTIONS {
        let middle = 0.5 * (low + high);
        if beta_probability(middle, shape) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function `I_x(shape, shape)`, for x of 0 to 0.5.
///
/// The continued fraction of NIST DLMF 8.17.22, evaluated from its end.
fn beta_probability(x: f64, shape: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    let fraction = (1..=TERMS).rev().fold(1.0, |below, index| {
        let half = f64::from(index / 2);
        let coefficient = if index % 2 == 0 {
            half * (shape - half) * x / ((shape + 2.0 * half - 1.0) * (shape + 2.0 * half))
        } else {
            -(shape + half) * (2.0 * shape + half) * x
                / ((shape + 2.0 * half) * (shape + 2.0 * half + 1.0))
        };
        1.0 + coefficient / below
    });
    let log_front = shape * (x.ln() + (-x).ln_1p()) - log_beta(shape);
    log_front.exp() / (shape * fraction)
}

/// ln B(shape, shape).
fn log_beta(shape: f64) -> f64 {
    2.0 * log_gamma(shape) - log_gamma(2.0 * shape)
}

/// ln Γ(x) for x > 0: Stirling's series (NIST DLMF 5.11.1) above 12, reached by recurrence.
fn log_gamma(mut x: f64) -> f64 {
    let mut product = 1.0;
    while x < 12.0 {
        product *= x;
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = STIRLING
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| sum * square + coefficient);
    let tau = std::f64::consts::TAU;
    (x - 0.5) * x.ln() - x + 0.5 * tau.ln() + series / x - f64::ln(product)
}

/// B₂ₖ / (2k (2k − 1)) for k = 1…7.
const STIRLING: [f64; 7] = [
    1.0 / 12.0,
    -1.0 / 360.0,
    1.0 / 1260.0,
    -1.0 / 1680.0,
    1.0 / 1188.0,
    -691.0 / 360360.0,
    1.0 / 156.0,
];
/// Enough halvings to reach the smallest sigmas' last bit.
const BISECTIONS: usize = 120;
/// Terms of the continued fraction; at x = 0.5 it gains a digit every other term.
const TERMS: u32 = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_half_shape_is_the_arcsine_law() {
        for place in [1e-6, 0.01, 0.2, 0.5, 0.7, 0.99, 1.0] {
            let expected = (std::f64::consts::FRAC_PI_2 * place).sin().powi(2);
            let found = beta_quantile(place, 0.5);
            assert!(
                (found - expected).abs() < 1e-13,
                "{place}: {found} {expected}"
            );
        }
        assert_eq!(beta_quantile(0.0, 0.6), 0.0);
        assert_eq!(beta_quantile(1.0, 0.6), 1.0);
    }

    #[test]
    fn shape_one_is_uniform_and_two_is_cubic() {
        assert!((beta_quantile(0.3, 1.0) - 0.3).abs() < 1e-14);
        let x: f64 = 0.25;
        let probability = 3.0 * x * x - 2.0 * x * x * x;
        assert!((beta_quantile(probability, 2.0) - x).abs() < 1e-14);
    }
}
