//! From latents to pixels, whole or by tiles.

use std::time::Instant;

use tintype_backend::Tensors;
use tintype_tensor::Tensor;

use super::FluxPipeline;
use super::check::Run;
use super::model::ModelKind;
use super::tiles::{TileGrid, blended, crop};
use crate::image::denormalize;
use crate::latents::unpack;
use crate::{Observer, Part, Result};

impl FluxPipeline {
    /// Pixels f32 `[pictures, 3, height, width]` in 0..=1 of packed latents.
    ///
    /// Pictures are decoded one by one: the result is the same, the memory is that of one.
    pub(super) fn decode(
        &mut self,
        run: &mut Run,
        packed: &Tensor,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let channels = self.configs.vae.latent_channels;
        let (batch, dtype) = (run.batch(), self.dtype);
        let latents = unpack(&packed.to_f32()?, batch, channels, run.size)?;
        let grid = TileGrid::new(run, self.configs.vae_sample_size);
        let size = [run.size.height, run.size.width];
        let model = self.model(ModelKind::Decoder, run, observer)?;
        observer.begin(Part::Decode, 0);
        let start = Instant::now();
        let mut pixels = Vec::with_capacity(batch * 3 * 64 * size[0] * size[1]);
        for picture in latents.chunks_exact(channels * size[0] * size[1]) {
            let decoded = blended(&grid, size, 3, 8, |rows, columns| {
                let tile = crop(
                    picture,
                    channels,
                    size,
                    (rows.start, rows.len()),
                    (columns.start, columns.len()),
                );
                let tile =
                    Tensor::from_f32_as(dtype, [1, channels, rows.len(), columns.len()], tile)?;
                let outputs = model.run(&Tensors::new().with("latents", tile))?;
                Ok(outputs.host("image")?.to_f32_vec()?)
            })?;
            pixels.extend(decoded);
        }
        denormalize(&mut pixels);
        run.timings.decode += start.elapsed();
        self.release(|models| models.decoder = None);
        Ok(Tensor::from_f32(
            [batch, 3, run.size.pixel_height(), run.size.pixel_width()],
            pixels,
        )?)
    }
}
