//! Latents between the transformer's tokens and the VAE's planes.
//!
//! FLUX packs each 2×2 patch of a 16-channel latent into one token of 64 values.
//! This module rearranges, counts and numbers; it draws no noise and decodes
//! nothing.
//!
//! ```
//! use tintype_flux::latents::LatentSize;
//!
//! let size = LatentSize::from_pixels(72, 57)?;
//! assert_eq!((size.height, size.width), (8, 6));
//! assert_eq!((size.pixel_height(), size.pixel_width()), (64, 48));
//! assert_eq!(size.noise_shape(2, 16), [2, 16, 8, 6]);
//! assert_eq!(size.image_tokens(), 12);
//! assert!(size.floored_from.is_some());
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use crate::{Error, Result};

/// The size of a latent, in latent pixels; both sides are even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentSize {
    /// Rows of the latent, an eighth of the picture's.
    pub height: usize,
    /// Columns of the latent, an eighth of the picture's.
    pub width: usize,
    /// Height and width that were asked for, in pixels, where they had to be
    /// floored to multiples of 16: worth a warning.
    pub floored_from: Option<(usize, usize)>,
}

impl LatentSize {
    /// The latent of a picture of `height` × `width` pixels, each floored to a
    /// multiple of 16.
    ///
    /// # Errors
    /// [`Error::Argument`] for a side below 16 or above [`MAX_SIDE`] pixels.
    pub fn from_pixels(height: usize, width: usize) -> Result<Self> {
        let latent_height = latent_side("height", height)?;
        let latent_width = latent_side("width", width)?;
        let exact =
            height.is_multiple_of(PIXELS_PER_TOKEN) && width.is_multiple_of(PIXELS_PER_TOKEN);
        Ok(Self {
            height: latent_height,
            width: latent_width,
            floored_from: (!exact).then_some((height, width)),
        })
    }

    /// The height of the picture that will come out, in pixels.
    pub fn pixel_height(&self) -> usize {
        self.height * PIXELS_PER_LATENT
    }

    /// The width of the picture that will come out, in pixels.
    pub fn pixel_width(&self) -> usize {
        self.width * PIXELS_PER_LATENT
    }

    /// The number of tokens that the transformer sees for the picture.
    pub fn image_tokens(&self) -> usize {
        (self.height / 2) * (self.width / 2)
    }

    /// The shape of the noise that is drawn: `[batch, channels, height, width]`,
    /// before packing.
    pub fn noise_shape(&self, batch: usize, channels: usize) -> [usize; 4] {
        [batch, channels, self.height, self.width]
    }

    /// The shape of packed latents: `[batch, image tokens, 4 · channels]`.
    pub fn packed_shape(&self, batch: usize, channels: usize) -> [usize; 3] {
        [batch, self.image_tokens(), 4 * channels]
    }
}

/// Packs `[batch, channels, height, width]` into `[batch, height/2 · width/2, 4 · channels]`.
///
/// A token holds, for each channel, its 2×2 patch row by row.
///
/// # Errors
/// [`Error::Argument`] if `latents` does not hold exactly that many values.
pub fn pack<T: Copy>(
    latents: &[T],
    batch: usize,
    channels: usize,
    size: LatentSize,
) -> Result<Vec<T>> {
    check_len(latents.len(), batch, channels, size)?;
    let mut packed = Vec::with_capacity(latents.len());
    for_each_packed(batch, channels, size, |source| packed.push(latents[source]));
    Ok(packed)
}

/// Unpacks `[batch, height/2 · width/2, 4 · channels]` into `[batch, channels, height, width]`.
///
/// # Errors
/// [`Error::Argument`] if `packed` does not hold exactly that many values.
pub fn unpack<T: Copy + Default>(
    packed: &[T],
    batch: usize,
    channels: usize,
    size: LatentSize,
) -> Result<Vec<T>> {
    check_len(packed.len(), batch, channels, size)?;
    let mut latents = vec![T::default(); packed.len()];
    let mut values = packed.iter();
    for_each_packed(batch, channels, size, |target| {
        if let Some(&value) = values.next() {
            latents[target] = value;
        }
    });
    Ok(latents)
}

/// Position ids of the image tokens, `[image tokens, 3]`, each `[0, row, column]`.
pub fn image_ids(size: LatentSize) -> Vec<f32> {
    let (rows, columns) = (size.height / 2, size.width / 2);
    (0..rows)
        .flat_map(|row| (0..columns).flat_map(move |column| [0.0, row as f32, column as f32]))
        .collect()
}

/// Position ids of the text tokens, `[text tokens, 3]`, all zero.
pub fn text_ids(text_tokens: usize) -> Vec<f32> {
    vec![0.0; 3 * text_tokens]
}

fn latent_side(argument: &str, pixels: usize) -> Result<usize> {
    if (PIXELS_PER_TOKEN..=MAX_SIDE).contains(&pixels) {
        return Ok(2 * (pixels / PIXELS_PER_TOKEN));
    }
    let expected = format!("{PIXELS_PER_TOKEN} to {MAX_SIDE} pixels");
    Err(Error::argument(argument, expected, pixels))
}

/// Calls `visit` with the index in the unpacked latents of each packed value, in packed order.
fn for_each_packed(batch: usize, channels: usize, size: LatentSize, mut visit: impl FnMut(usize)) {
    let plane = size.height * size.width;
    for image in 0..batch {
        for row in (0..size.height).step_by(2) {
            for column in (0..size.width).step_by(2) {
                for channel in 0..channels {
                    let corner = (image * channels + channel) * plane + row * size.width + column;
                    visit(corner);
                    visit(corner + 1);
                    visit(corner + size.width);
                    visit(corner + size.width + 1);
                }
            }
        }
    }
}

fn check_len(found: usize, batch: usize, channels: usize, size: LatentSize) -> Result<()> {
    let [_, tokens, values] = size.packed_shape(batch, channels);
    let even = size.height.is_multiple_of(2) && size.width.is_multiple_of(2);
    let expected = batch
        .checked_mul(tokens)
        .and_then(|n| n.checked_mul(values));
    if even && expected == Some(found) {
        return Ok(());
    }
    let shape = format!("{batch} × {tokens} × {values} values");
    Err(Error::argument("latents", shape, found))
}

/// The longest side of a picture, in pixels.
pub const MAX_SIDE: usize = 16384;

const PIXELS_PER_LATENT: usize = 8;
pub(crate) const PIXELS_PER_TOKEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_holds_the_patch_of_each_channel() {
        let size = LatentSize::from_pixels(16, 32).unwrap();
        // Two channels of 2×4: 0..8 and 8..16.
        let latents: Vec<usize> = (0..16).collect();
        let packed = pack(&latents, 1, 2, size).unwrap();
        assert_eq!(
            packed,
            [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15]
        );
    }

    #[test]
    fn ids_number_rows_and_columns() {
        let size = LatentSize::from_pixels(32, 32).unwrap();
        let expected = [0., 0., 0., 0., 0., 1., 0., 1., 0., 0., 1., 1.];
        assert_eq!(image_ids(size), expected);
        assert_eq!(text_ids(2), [0.0; 6]);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for (height, width) in [
            (0, 64),
            (64, 0),
            (15, 64),
            (MAX_SIDE + 1, 64),
            (64, usize::MAX),
        ] {
            assert!(LatentSize::from_pixels(height, width).is_err());
        }
        assert!(LatentSize::from_pixels(MAX_SIDE, 16).is_ok());
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let size = LatentSize::from_pixels(32, 32).unwrap();
        assert!(pack(&[0.0; 15], 1, 1, size).is_err());
        assert!(unpack(&[0.0; 17], 1, 1, size).is_err());
        assert!(pack::<f32>(&[], usize::MAX, 16, size).is_err());
    }

    proptest! {
        #[test]
        fn unpack_is_the_inverse_of_pack(
            batch in 1usize..3, channels in 1usize..5, rows in 1usize..5, columns in 1usize..5,
        ) {
            let size = LatentSize::from_pixels(16 * rows, 16 * columns).unwrap();
            let latents: Vec<usize> = (0..batch * channels * size.height * size.width).collect();
            let packed = pack(&latents, batch, channels, size).unwrap();
            prop_assert_eq!(unpack(&packed, batch, channels, size).unwrap(), latents);
        }
    }
}
