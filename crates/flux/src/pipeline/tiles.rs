//! Pictures cut into overlapping tiles and joined again, as diffusers' AutoencoderKL
//! does it: the size of a tile comes from the configuration, a quarter overlaps, and
//! neighbours fade into each other there. Knows nothing of models.

use std::ops::Range;

use super::check::Run;
use crate::Result;

/// How a picture is cut, in latents: overlapping squares as in diffusers' AutoencoderKL.
pub(super) struct TileGrid {
    /// The side of a tile; `None` if the picture is taken whole.
    tile: Option<usize>,
}

/// The part of a tile's side that it shares with its neighbour.
const OVERLAP: f64 = 0.25;

impl TileGrid {
    pub(super) fn new(run: &Run, sample_size: usize) -> Self {
        let tile = Self::side(sample_size);
        let larger = run.size.height > tile || run.size.width > tile;
        Self {
            tile: (run.request.vae_tiling && larger).then_some(tile),
        }
    }

    /// The side of a tile for an autoencoder of pictures of such a side in pixels.
    pub(super) fn side(sample_size: usize) -> usize {
        (sample_size / 8).max(2)
    }

    /// The length of the first tile along a side of `size` latents.
    pub(super) fn first(&self, size: usize) -> usize {
        self.tile.map_or(size, |tile| tile.min(size))
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

/// A part of `[channels, height, width]`: rows and columns as start and length.
pub(super) fn crop(
    values: &[f32],
    channels: usize,
    [height, width]: [usize; 2],
    (top, rows): (usize, usize),
    (left, columns): (usize, usize),
) -> Vec<f32> {
    let mut part = Vec::with_capacity(channels * rows * columns);
    for channel in 0..channels {
        for row in top..top + rows {
            let start = (channel * height + row) * width + left;
            part.extend_from_slice(&values[start..start + columns]);
        }
    }
    part
}
