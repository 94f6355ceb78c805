//! Where the latents begin: noise, given latents, or a noised picture.

use std::time::Instant;

use tintype_backend::Tensors;
use tintype_refit::Signature;
use tintype_tensor::{DType, Shape, Tensor};

use super::check::{Generators, Run, expect_shape};
use super::drawing::Drawing;
use super::modules::ModelKind;
use super::tiles::{TileGrid, blended, crop};
use crate::latents::pack;
use crate::scheduler::scale_noise;
use crate::{ImageSource, Part, Result};

impl Drawing<'_> {
    /// Packed latents `[pictures, tokens, channels]` in the pipeline's dtype.
    pub(super) fn initial_latents(&mut self) -> Result<Tensor> {
        let dtype = self.pipeline.dtype;
        if let Some(latents) = &self.run.request.tensors.latents {
            return Ok(latents.to_dtype(dtype)?);
        }
        let channels = self.pipeline.configs.vae.latent_channels;
        let batch = self.run.batch();
        // The encoder's noise is drawn before that of the latents.
        let image = self.encoded_image()?;
        let run = &mut self.run;
        let noise = run
            .generators
            .randn(&run.size.noise_shape(batch, channels))?;
        let mut values = rounded(&noise, dtype)?;
        if let Some(image) = image {
            let noise = values;
            values = image.repeat(batch);
            scale_noise(&mut values, &noise, run.schedule.sigmas[0], dtype)?;
        }
        let packed = pack(&values, batch, channels, run.size)?;
        let shape = run.size.packed_shape(batch, channels).to_vec();
        Ok(Tensor::from_f32_as(dtype, shape, packed)?)
    }

    /// The latents of the request's picture, `[1, channels, height, width]`, scaled for
    /// the transformer: a sample of the encoder's distribution.
    fn encoded_image(&mut self) -> Result<Option<Vec<f32>>> {
        let Some(initial) = self.run.request.image.clone() else {
            return Ok(None);
        };
        let size = self.run.size;
        let (height, width) = (size.pixel_height(), size.pixel_width());
        let pixels = match initial.image {
            ImageSource::Image(image) if (image.width(), image.height()) == (width, height) => {
                image.to_nchw()
            }
            ImageSource::Image(image) => image.resize(width, height)?.to_nchw(),
            ImageSource::Pixels(pixels) => {
                expect_shape("image", &pixels, &[1, 3, height, width])?;
                pixels
                    .to_f32()?
                    .iter()
                    .map(|value| 2.0 * value - 1.0)
                    .collect()
            }
        };
        let (mean, log_variance) = self.encode_pixels(&pixels)?;
        self.release(ModelKind::Encoder);
        let (vae, dtype) = (&self.pipeline.configs.vae, self.pipeline.dtype);
        let noise = rounded(&self.run.image_noise(vae.latent_channels)?, dtype)?;
        let (scale, shift) = (vae.scaling_factor, vae.shift_factor);
        let sample =
            mean.iter()
                .zip(&log_variance)
                .zip(&noise)
                .map(|((mean, log_variance), noise)| {
                    let deviation = dtype.round((0.5 * log_variance).exp());
                    let latent = dtype.round(mean + dtype.round(deviation * noise));
                    dtype.round(dtype.round(latent - shift) * scale)
                });
        Ok(Some(sample.collect()))
    }

    /// Mean and log variance of the encoder, `[1, channels, height, width]` each.
    fn encode_pixels(&mut self, pixels: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let configs = &self.pipeline.configs;
        let grid = TileGrid::new(&self.run, configs.vae_sample_size);
        let channels = configs.vae.latent_channels;
        let (height, width) = (self.run.size.height, self.run.size.width);
        let dtype = self.pipeline.dtype;
        let shape = Shape::from([1, 3, grid.first(height), 8, grid.first(width), 8]);
        let signature = Signature::new().with("image", dtype, shape);
        self.load(ModelKind::Encoder, &signature)?;
        self.observer.begin(Part::Encode, 0);
        let (start, loaded) = (Instant::now(), self.run.timings.load);
        let moments = blended(&grid, [height, width], 2 * channels, 1, |rows, columns| {
            let (tile_height, tile_width) = (rows.len(), columns.len());
            let tile = crop(
                pixels,
                3,
                [8 * height, 8 * width],
                (8 * rows.start, 8 * tile_height),
                (8 * columns.start, 8 * tile_width),
            );
            let shape = [1, 3, tile_height, 8, tile_width, 8];
            let image = Tensor::from_f32_as(dtype, shape, tile)?;
            let inputs = Tensors::new().with("image", image);
            let outputs = self.call(ModelKind::Encoder, &inputs)?;
            let mean = outputs.host("mean")?.to_f32_vec()?;
            let log_variance = outputs.host("log_variance")?.to_f32_vec()?;
            Ok([mean, log_variance].concat())
        })?;
        self.run.timings.encode += self.run.timings.since(start, loaded);
        let (mean, log_variance) = moments.split_at(moments.len() / 2);
        Ok((mean.to_vec(), log_variance.to_vec()))
    }
}

fn rounded(tensor: &Tensor, dtype: DType) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(dtype)?.to_f32_vec()?)
}

impl Generators {
    /// Noise `[batch, …]`: one generator draws all of it, or each its picture's.
    fn randn(&mut self, shape: &[usize]) -> Result<Tensor> {
        match self {
            Self::Joint(generator) => Ok(generator.randn(shape)?),
            Self::PerImage(generators) => {
                let mut values = Vec::new();
                for generator in generators {
                    let one = [&[1], &shape[1..]].concat();
                    values.extend(generator.randn(one)?.to_f32_vec()?);
                }
                Ok(Tensor::from_f32(Shape::from(shape), values)?)
            }
        }
    }
}

impl Run {
    /// Noise for the one picture that all begin from: from the first generator.
    fn image_noise(&mut self, channels: usize) -> Result<Tensor> {
        let shape = self.size.noise_shape(1, channels);
        match &mut self.generators {
            Generators::Joint(generator) => Ok(generator.randn(shape)?),
            Generators::PerImage(generators) => Ok(generators[0].randn(shape)?),
        }
    }
}
