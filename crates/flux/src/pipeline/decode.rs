//! From latents to pixels, whole or by tiles; and the tiles themselves.

use std::ops::Range;
use std::time::Instant;

use tintype_backend::Tensors;
use tintype_tensor::Tensor;

use super::FluxPipeline;
use super::check::Run;
use super::initial::crop;
use super::model::ModelKind;
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

/// How a picture is cut, in latents: overlapping squares as in diffusers' AutoencoderKL.
pub(super) struct TileGrid {
    /// The side of a tile; `None` if the picture is taken whole.
    tile: Option<usize>,
}

/// The part of a tile's side that it shares with its neighbour.
const OVERLAP: f64 = 0.25;

impl TileGrid {
    pub(super) fn new(run: &Run, sample_size: usize) -> Self {
        let tile = (sample_size / 8).max(2);
        let larger = run.size.height > tile || run.size.width > tile;
        Self {
            tile: (run.request.vae_tiling && larger).then_some(tile),
        }
    }

    /// Tiles along a side of `size` latents; the last ones may be cut short.
    fn ranges(&self, size: usize) -> Vec<Range<usize>> {
        match self.tile {
            None => std::iter::once(0..size).collect(),
            Some(tile) => {
                let stride = ((tile as f64 * (1.0 - OVERLAP)) as usize).max(1);
                (0..size)
                    .step_by(stride)
                    .map(|start| start..(start + tile).min(size))
                    .collect()
            }
        }
    }
}

/// A tile's values `[channels, height, width]`.
struct Tile {
    values: Vec<f32>,
    height: usize,
    width: usize,
}

/// Runs `convert` on each tile and joins the results, `scale` values for each latent
/// along a side; neighbours fade into each other where they overlap.
pub(super) fn blended(
    grid: &TileGrid,
    [height, width]: [usize; 2],
    channels: usize,
    scale: usize,
    mut convert: impl FnMut(Range<usize>, Range<usize>) -> Result<Vec<f32>>,
) -> Result<Vec<f32>> {
    let Some(tile) = grid.tile else {
        return convert(0..height, 0..width);
    };
    let blend = (tile as f64 * scale as f64 * OVERLAP) as usize;
    let kept = tile * scale - blend;
    let (full_height, full_width) = (height * scale, width * scale);
    let mut joined = vec![0.0; channels * full_height * full_width];
    let mut above: Vec<Tile> = Vec::new();
    for (row_index, rows) in grid.ranges(height).into_iter().enumerate() {
        let mut row: Vec<Tile> = Vec::new();
        for (column_index, columns) in grid.ranges(width).into_iter().enumerate() {
            let values = convert(rows.clone(), columns.clone())?;
            let mut current = Tile {
                values,
                height: rows.len() * scale,
                width: columns.len() * scale,
            };
            if let Some(upper) = above.get(column_index) {
                current.blend_from_above(upper, channels, blend);
            }
            if let Some(left) = row.last() {
                current.blend_from_left(left, channels, blend);
            }
            let target = (row_index * kept, column_index * kept);
            current.copy_to(
                &mut joined,
                channels,
                [full_height, full_width],
                target,
                kept,
            );
            row.push(current);
        }
        above = row;
    }
    Ok(joined)
}

impl Tile {
    fn blend_from_above(&mut self, upper: &Self, channels: usize, blend: usize) {
        let blend = blend.min(upper.height).min(self.height);
        for channel in 0..channels {
            for row in 0..blend {
                let share = row as f32 / blend as f32;
                let source = ((channel * upper.height) + upper.height - blend + row) * upper.width;
                let target = (channel * self.height + row) * self.width;
                for column in 0..self.width.min(upper.width) {
                    let value = &mut self.values[target + column];
                    *value = upper.values[source + column] * (1.0 - share) + *value * share;
                }
            }
        }
    }

    fn blend_from_left(&mut self, left: &Self, channels: usize, blend: usize) {
        let blend = blend.min(left.width).min(self.width);
        for line in 0..channels * self.height {
            for column in 0..blend {
                let share = column as f32 / blend as f32;
                let source = left.values[line * left.width + left.width - blend + column];
                let value = &mut self.values[line * self.width + column];
                *value = source * (1.0 - share) + *value * share;
            }
        }
    }

    /// Copies the upper left `kept` rows and columns, as far as there are any.
    fn copy_to(
        &self,
        joined: &mut [f32],
        channels: usize,
        [full_height, full_width]: [usize; 2],
        (top, left): (usize, usize),
        kept: usize,
    ) {
        if top >= full_height || left >= full_width {
            return;
        }
        let rows = kept.min(self.height).min(full_height - top);
        let columns = kept.min(self.width).min(full_width - left);
        for channel in 0..channels {
            for row in 0..rows {
                let source = (channel * self.height + row) * self.width;
                let target = (channel * full_height + top + row) * full_width + left;
                joined[target..target + columns]
                    .copy_from_slice(&self.values[source..source + columns]);
            }
        }
    }
}
