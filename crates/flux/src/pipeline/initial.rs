//! Where the latents begin: noise, given latents, or a noised picture.

use std::time::Instant;

use tintype_backend::Tensors;
use tintype_tensor::{Shape, Tensor};

use super::FluxPipeline;
use super::check::{Generators, Run, expect_shape};
use super::model::ModelKind;
use super::tiles::{TileGrid, blended, crop};
use crate::latents::pack;
use crate::scheduler::scale_noise;
use crate::{ImageSource, Observer, Part, Result};

impl FluxPipeline {
    /// Packed latents `[pictures, tokens, channels]` in the pipeline's dtype.
    pub(super) fn initial_latents(
        &mut self,
        run: &mut Run,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        if let Some(latents) = &run.request.tensors.latents {
            return Ok(latents.to_dtype(self.dtype)?);
        }
        let channels = self.configs.vae.latent_channels;
        let batch = run.batch();
        // The encoder's noise is drawn before that of the latents.
        let image = self.encoded_image(run, observer)?;
        let noise = run
            .generators
            .randn(&run.size.noise_shape(batch, channels))?;
        let mut values = self.dtype_rounded(&noise)?;
        if let Some(image) = image {
            let noise = values;
            values = image.repeat(batch);
            scale_noise(&mut values, &noise, run.schedule.sigmas[0], self.dtype)?;
        }
        let packed = pack(&values, batch, channels, run.size)?;
        Ok(Tensor::from_f32_as(
            self.dtype,
            run.size.packed_shape(batch, channels).to_vec(),
            packed,
        )?)
    }

    fn dtype_rounded(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(tensor.to_dtype(self.dtype)?.to_f32_vec()?)
    }

    /// The latents of the request's picture, `[1, channels, height, width]`, scaled for
    /// the transformer: a sample of the encoder's distribution.
    fn encoded_image(
        &mut self,
        run: &mut Run,
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<f32>>> {
        let Some(initial) = run.request.image.clone() else {
            return Ok(None);
        };
        let (height, width) = (run.size.pixel_height(), run.size.pixel_width());
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
        let (mean, log_variance) = self.encode_pixels(run, &pixels, observer)?;
        self.release(|models| models.encoder = None);
        let noise = run.image_noise(self.configs.vae.latent_channels)?;
        let noise = self.dtype_rounded(&noise)?;
        let (scale, shift) = (
            self.configs.vae.scaling_factor,
            self.configs.vae.shift_factor,
        );
        let dtype = self.dtype;
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
    fn encode_pixels(
        &mut self,
        run: &mut Run,
        pixels: &[f32],
        observer: &mut dyn Observer,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let grid = TileGrid::new(run, self.configs.vae_sample_size);
        let channels = self.configs.vae.latent_channels;
        let (height, width) = (run.size.height, run.size.width);
        let dtype = self.dtype;
        let model = self.model(ModelKind::Encoder, run, observer)?;
        observer.begin(Part::Encode, 0);
        let start = Instant::now();
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
            let outputs = model.run(&Tensors::new().with("image", image))?;
            let mean = outputs.host("mean")?.to_f32_vec()?;
            let log_variance = outputs.host("log_variance")?.to_f32_vec()?;
            Ok([mean, log_variance].concat())
        })?;
        run.timings.encode += start.elapsed();
        let (mean, log_variance) = moments.split_at(moments.len() / 2);
        Ok((mean.to_vec(), log_variance.to_vec()))
    }
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
