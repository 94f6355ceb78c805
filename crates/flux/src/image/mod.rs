//! Pictures between files and tensors.
//!
//! An [`Image`] is 8-bit RGB. It comes from a PNG or from a decoded tensor, and
//! becomes a PNG or the input of the VAE's encoder; rounding and resizing are
//! those of diffusers' `VaeImageProcessor`. Other file formats are not read.
//!
//! ```
//! use tintype_flux::image::Image;
//!
//! // One picture of 1×2 pixels, as [batch, channel, row, column] in 0 to 1.
//! let images = Image::from_nchw(&[0.0, 1.0, 0.5, 0.5, 1.0, 0.0], 1, 1, 2)?;
//! assert_eq!(images[0].rgb8(), [0, 128, 255, 255, 128, 0]);
//! let larger = images[0].resize(4, 2)?;
//! assert_eq!((larger.width(), larger.height()), (4, 2));
//! # Ok::<(), tintype_flux::Error>(())
//! ```

mod png;
mod resize;

pub use self::png::Metadata;

use crate::{Error, Result};

/// A picture in 8-bit RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    rgb8: Vec<u8>,
}

impl Image {
    /// A picture from its pixels, row by row, three bytes each.
    ///
    /// # Errors
    /// [`Error::Argument`] for a side of 0, too many pixels, or another number of bytes.
    pub fn new(width: usize, height: usize, rgb8: Vec<u8>) -> Result<Self> {
        let expected = byte_len(width, height)?;
        if rgb8.len() != expected {
            return Err(Error::argument(
                "rgb8",
                format!("{expected} bytes"),
                rgb8.len(),
            ));
        }
        Ok(Self {
            width,
            height,
            rgb8,
        })
    }

    /// Pictures from `[batch, 3, height, width]` in 0 to 1: `round(255 · x)`, ties to even.
    ///
    /// What lies outside of 0 to 1 is clamped, and what is not a number is black.
    ///
    /// # Errors
    /// [`Error::Argument`] if `values` does not hold exactly that many values.
    pub fn from_nchw(
        values: &[f32],
        batch: usize,
        height: usize,
        width: usize,
    ) -> Result<Vec<Self>> {
        let size = byte_len(width, height)?;
        if batch.checked_mul(size) != Some(values.len()) {
            let expected = format!("{batch} × 3 × {height} × {width} values");
            return Err(Error::argument("images", expected, values.len()));
        }
        let plane = size / CHANNELS;
        let pictures = values.chunks_exact(size).map(|picture| {
            let mut rgb8 = Vec::with_capacity(size);
            for pixel in 0..plane {
                rgb8.extend((0..CHANNELS).map(|channel| to_byte(picture[channel * plane + pixel])));
            }
            Self {
                width,
                height,
                rgb8,
            }
        });
        Ok(pictures.collect())
    }

    /// The picture as `[1, 3, height, width]` in −1 to 1, as the VAE's encoder takes it.
    pub fn to_nchw(&self) -> Vec<f32> {
        let channels =
            (0..CHANNELS).map(|channel| self.rgb8.iter().skip(channel).step_by(CHANNELS));
        channels
            .flatten()
            .map(|&byte| 2.0 * (f32::from(byte) / 255.0) - 1.0)
            .collect()
    }

    /// The picture in another size, by Lanczos' filter over three lobes, equal to PIL's.
    ///
    /// # Errors
    /// [`Error::Argument`] for a side of 0, or too many pixels.
    pub fn resize(&self, width: usize, height: usize) -> Result<Self> {
        byte_len(width, height)?;
        Ok(resize::lanczos(self, width, height))
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels, row by row, three bytes each.
    pub fn rgb8(&self) -> &[u8] {
        &self.rgb8
    }
}

/// Brings what the VAE decodes, −1 to 1, into 0 to 1, in place; the rest is clamped.
pub fn denormalize(values: &mut [f32]) {
    for value in values {
        *value = (*value * 0.5 + 0.5).clamp(0.0, 1.0);
    }
}

fn to_byte(value: f32) -> u8 {
    // `as` clamps to 0…255, and makes 0 of what is not a number.
    (value * 255.0).round_ties_even() as u8
}

/// The number of bytes of a picture, if it is one.
fn byte_len(width: usize, height: usize) -> Result<usize> {
    let pixels = width.checked_mul(height);
    match pixels.filter(|pixels| (1..=MAX_PIXELS).contains(pixels)) {
        Some(pixels) => Ok(CHANNELS * pixels),
        None => Err(Error::argument(
            "image size",
            format!("1 to {MAX_PIXELS} pixels"),
            format!("{width} × {height}"),
        )),
    }
}

const CHANNELS: usize = 3;
/// As many as a picture of the largest size that can be generated.
const MAX_PIXELS: usize = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_round_to_even() {
        let bytes: Vec<u8> = [0.5, 1.5, 2.5, 253.5, 254.5]
            .into_iter()
            .map(|value: f32| to_byte(value / 255.0))
            .collect();
        assert_eq!(bytes, [0, 2, 2, 254, 254]);
        assert_eq!([-1.0, 2.0, f32::NAN].map(to_byte), [0, 255, 0]);
    }

    #[test]
    fn impossible_pictures_are_refused() {
        assert!(Image::new(0, 1, vec![]).is_err());
        assert!(Image::new(1, 1, vec![0; 4]).is_err());
        assert!(Image::new(usize::MAX, 2, vec![]).is_err());
        assert!(Image::from_nchw(&[0.0; 5], 1, 1, 2).is_err());
        let image = Image::new(1, 1, vec![1, 2, 3]).unwrap();
        assert!(image.resize(0, 5).is_err());
        assert!(image.resize(1 << 20, 1 << 20).is_err());
    }

    proptest! {
        #[test]
        fn a_picture_survives_the_tensor(width in 1usize..6, height in 1usize..6, seed: u8) {
            let rgb8: Vec<u8> = (0..3 * width * height).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            let image = Image::new(width, height, rgb8).unwrap();
            let mut values = image.to_nchw();
            denormalize(&mut values);
            prop_assert_eq!(Image::from_nchw(&values, 1, height, width).unwrap(), [image]);
        }
    }
}
