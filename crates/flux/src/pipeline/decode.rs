//! From latents to pixels, whole or by tiles.

use std::time::Instant;

use tintype_backend::Tensors;
use tintype_refit::Signature;
use tintype_tensor::{Shape, Tensor};

use super::drawing::Drawing;
use super::modules::ModelKind;
use super::tiles::{TileGrid, blended, crop};
use crate::image::denormalize;
use crate::latents::unpack;
use crate::{Part, Result};

impl Drawing<'_> {
    /// Pixels f32 `[pictures, 3, height, width]` in 0..=1 of packed latents.
    ///
    /// Pictures are decoded one by one: the result is the same, the memory is that of one.
    pub(super) fn decode(&mut self, packed: &Tensor) -> Result<Tensor> {
        let configs = &self.pipeline.configs;
        let channels = configs.vae.latent_channels;
        let (batch, dtype) = (self.run.batch(), self.pipeline.dtype);
        let latents = unpack(&packed.to_f32()?, batch, channels, self.run.size)?;
        let grid = TileGrid::new(&self.run, configs.vae_sample_size);
        let size = [self.run.size.height, self.run.size.width];
        let [rows, columns] = size.map(|side| grid.first(side));
        let shape = Shape::from([1, channels, rows, columns]);
        let signature = Signature::new().with("latents", dtype, shape);
        self.load(ModelKind::Decoder, &signature)?;
        self.observer.begin(Part::Decode, 0);
        let (start, loaded) = (Instant::now(), self.run.timings.load);
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
                let inputs = Tensors::new().with("latents", tile);
                let outputs = self.call(ModelKind::Decoder, &inputs)?;
                Ok(outputs.host("image")?.to_f32_vec()?)
            })?;
            pixels.extend(decoded);
        }
        denormalize(&mut pixels);
        self.run.timings.decode += self.run.timings.since(start, loaded);
        self.release(ModelKind::Decoder);
        let size = self.run.size;
        let shape = [batch, 3, size.pixel_height(), size.pixel_width()];
        Ok(Tensor::from_f32(shape, pixels)?)
    }
}
