//! Lanczos' resampling in the fixed-point arithmetic of PIL.
//!
//! One direction after the other, in PIL's order, with 8-bit values between;
//! weights are fractions of 2²². No other filter, no cropping.

use super::{CHANNELS, Image};

/// `image` in another size; a direction that does not change is left alone.
pub(super) fn lanczos(image: &Image, width: usize, height: usize) -> Image {
    if rows_come_first(image, width, height) {
        in_width(&in_height(image, height), width)
    } else {
        in_height(&in_width(image, width), height)
    }
}

/// Whether rows are resampled before columns, which shows in the last bit.
///
/// Found by trying PIL 13 on thousands of sizes; earlier versions begin with columns always.
fn rows_come_first(image: &Image, width: usize, height: usize) -> bool {
    let lost = |from: usize, to: usize| from as i128 - to as i128;
    let lost_rows = lost(image.height, height);
    lost_rows > 0 && lost_rows > 2 * lost(image.width, width)
}

fn in_width(image: &Image, width: usize) -> Image {
    if width == image.width {
        return image.clone();
    }
    let filters = filters(image.width, width);
    let rows = image.rgb8.chunks_exact(CHANNELS * image.width);
    Image {
        width,
        height: image.height,
        rgb8: rows.flat_map(|row| resample_row(row, &filters)).collect(),
    }
}

fn in_height(image: &Image, height: usize) -> Image {
    if height == image.height {
        return image.clone();
    }
    let filters = filters(image.height, height);
    let stride = CHANNELS * image.width;
    let rows = filters
        .iter()
        .flat_map(|filter| resample_column(&image.rgb8, stride, filter));
    Image {
        width: image.width,
        height,
        rgb8: rows.collect(),
    }
}

/// The inputs of one output pixel, in one direction.
struct Filter {
    first: usize,
    weights: Vec<i64>,
}

fn filters(input: usize, output: usize) -> Vec<Filter> {
    let scale = input as f64 / output as f64;
    // Shrinking widens the filter, so that every input pixel counts.
    let stretch = scale.max(1.0);
    (0..output)
        .map(|place| filter(input, (place as f64 + 0.5) * scale, stretch))
        .collect()
}

fn filter(input: usize, center: f64, stretch: f64) -> Filter {
    let support = LOBES * stretch;
    let first = (center - support + 0.5).max(0.0) as usize;
    let end = ((center + support + 0.5) as usize).min(input);
    let weights: Vec<f64> = (first..end)
        .map(|place| kernel((place as f64 - center + 0.5) * stretch.recip()))
        .collect();
    let sum: f64 = weights.iter().sum();
    let fixed = |weight: &f64| (weight / sum * f64::from(1 << FRACTION_BITS)).round() as i64;
    Filter {
        first,
        weights: weights.iter().map(fixed).collect(),
    }
}

/// Lanczos' kernel over three lobes, sinc(x) · sinc(x / 3).
fn kernel(x: f64) -> f64 {
    if (-LOBES..LOBES).contains(&x) {
        sinc(x) * sinc(x / LOBES)
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    let angle = x * std::f64::consts::PI;
    if angle == 0.0 {
        1.0
    } else {
        angle.sin() / angle
    }
}

fn resample_row<'a>(row: &'a [u8], filters: &'a [Filter]) -> impl Iterator<Item = u8> + 'a {
    filters.iter().flat_map(move |filter| {
        let inputs = &row[CHANNELS * filter.first..];
        (0..CHANNELS).map(move |channel| {
            let values = inputs.iter().skip(channel).step_by(CHANNELS);
            rounded(
                filter
                    .weights
                    .iter()
                    .zip(values)
                    .map(|(weight, &value)| weight * i64::from(value))
                    .sum(),
            )
        })
    })
}

fn resample_column(rgb8: &[u8], stride: usize, filter: &Filter) -> Vec<u8> {
    let mut sums = vec![0; stride];
    let rows = rgb8.chunks_exact(stride).skip(filter.first);
    for (weight, row) in filter.weights.iter().zip(rows) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += weight * i64::from(value);
        }
    }
    sums.into_iter().map(rounded).collect()
}

fn rounded(sum: i64) -> u8 {
    let half = 1 << (FRACTION_BITS - 1);
    ((sum + half) >> FRACTION_BITS).clamp(0, 255) as u8
}

const LOBES: f64 = 3.0;
/// 32 bits less 8 for the value and 2 for the overshoot of the sum.
const FRACTION_BITS: u32 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(width: usize, height: usize) -> Image {
        let value = |index: usize| (index * index * 7 % 251) as u8;
        let rgb8 = (0..3 * width * height).map(value).collect();
        Image::new(width, height, rgb8).unwrap()
    }

    /// A weighted sum of the bytes, to compare whole pictures by one number.
    fn digest(image: &Image) -> u64 {
        let bytes = image.rgb8().iter().enumerate();
        bytes
            .map(|(index, &byte)| (index as u64 % 977 + 1) * u64::from(byte))
            .sum()
    }

    #[test]
    fn one_colour_stays() {
        let image = Image::new(7, 5, [9, 200, 255].repeat(35)).unwrap();
        let resized = image.resize(16, 3).unwrap();
        assert_eq!(resized.rgb8(), [9, 200, 255].repeat(48));
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let image = pattern(9, 4);
        assert_eq!(image.resize(9, 4).unwrap(), image);
    }

    #[test]
    fn pictures_equal_those_of_pil() {
        // Recorded from PIL 13: Image.resize(size, LANCZOS) of the same pattern.
        for (from, to, expected) in RECORDED {
            let resized = pattern(from.0, from.1).resize(to.0, to.1).unwrap();
            assert_eq!(digest(&resized), expected, "{from:?} to {to:?}");
        }
    }

    type Size = (usize, usize);
    const RECORDED: [(Size, Size, u64); 12] = [
        ((13, 9), (32, 16), 78959358),
        ((64, 48), (16, 32), 74586069),
        ((5, 7), (5, 21), 6267187),
        ((100, 3), (33, 3), 5255372),
        ((1, 1), (4, 4), 14168),
        ((31, 57), (48, 64), 516882749),
        ((200, 120), (64, 48), 517748892),
        // Both sides of the choice which direction comes first.
        ((50, 70), (80, 48), 656037201),
        ((62, 48), (32, 7), 26702765),
        ((26, 47), (10, 11), 6443082),
        ((40, 60), (35, 50), 290027070),
        ((40, 60), (34, 47), 271826161),
    ];
}
