//! The patches of an image under a convolution's kernel, written as right panels.

use super::convolution::Conv2d;

/// One image (and group of channels) with the kernel that moves over it.
///
/// Column p of the patch matrix belongs to output pixel p, row `(channel, y, x)` to a
/// position under the kernel.
pub(super) struct Patches<'a> {
    x: &'a [f32],
    channels: usize,
    size: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Top and left.
    padding: [usize; 2],
}

/// Output pixels side by side: `length` from (`y`, `x`), at `column` of the block.
#[derive(Clone, Copy)]
struct Run {
    column: usize,
    length: usize,
    y: usize,
    x: usize,
}

/// Where a block's values go: panels of `group` columns and `depths` rows.
struct Panels<'a> {
    values: &'a mut [f32],
    group: usize,
    depths: usize,
}

impl<'a> Patches<'a> {
    pub(super) fn new(options: &Conv2d, x: &'a [f32]) -> Self {
        let mut size = options.size;
        let mut output = options.output_size();
        let [top, _, left, _] = options.padding;
        if options.kernel == [1, 1] && options.stride == [1, 1] && options.padding == [0; 4] {
            // Every pixel for itself: the image is one long row.
            size = [1, size[0] * size[1]];
            output = size;
        }
        Self {
            x,
            channels: options.channels / options.groups,
            size,
            output,
            kernel: options.kernel,
            stride: options.stride,
            padding: [top, left],
        }
    }

    /// Rows of the patch matrix.
    pub(super) fn inner(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    /// Columns of the patch matrix.
    pub(super) fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Writes rows `depth..depth + depths` of the columns `pixel..pixel + count` as panels
    /// of `group` columns; columns beyond `count` become zero.
    ///
    /// A row of the image is read as far as the block goes before the next one: rows lie
    /// far apart, and only neighbouring values arrive from memory ahead of time.
    pub(super) fn fill(
        &self,
        (pixel, count): (usize, usize),
        (depth, depths): (usize, usize),
        group: usize,
        panels: &mut [f32],
    ) {
        if !count.is_multiple_of(group) {
            let last = count / group * group * depths;
            panels[last..].fill(0.0);
        }
        assert!(group.is_power_of_two(), "patches: panels of whole vectors");
        let area = self.kernel[0] * self.kernel[1];
        let runs = self.runs(pixel, count);
        let mut panels = Panels {
            values: panels,
            group,
            depths,
        };
        for row in 0..depths {
            let (channel, position) = ((depth + row) / area, (depth + row) % area);
            let kernel = [position / self.kernel[1], position % self.kernel[1]];
            for &run in &runs {
                self.fill_run(run, channel, kernel, row, &mut panels);
            }
        }
    }

    /// The pixels `pixel..pixel + count` row by row of the output.
    fn runs(&self, pixel: usize, count: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut column = 0;
        while column < count {
            let [y, x] = [
                (pixel + column) / self.output[1],
                (pixel + column) % self.output[1],
            ];
            let length = (self.output[1] - x).min(count - column);
            runs.push(Run {
                column,
                length,
                y,
                x,
            });
            column += length;
        }
        runs
    }

    fn fill_run(
        &self,
        run: Run,
        channel: usize,
        [ky, kx]: [usize; 2],
        row: usize,
        panels: &mut Panels,
    ) {
        let [height, width] = self.size;
        let y = (run.y * self.stride[0] + ky).wrapping_sub(self.padding[0]);
        if y >= height {
            panels.write_zeros(row, run.column, run.length);
            return;
        }
        let line = &self.x[(channel * height + y) * width..][..width];
        let start = run.x * self.stride[1] + kx;
        let left = self.padding[1];
        if self.stride[1] != 1 {
            for index in 0..run.length {
                let x = (start + index * self.stride[1]).wrapping_sub(left);
                let value = line.get(x).copied().unwrap_or(0.0);
                panels.write(row, run.column + index, &[value]);
            }
            return;
        }
        // Padding at the left, values of the image, padding at the right.
        let before = left.saturating_sub(start).min(run.length);
        let from = (start + before).saturating_sub(left).min(width);
        let copied = (width - from).min(run.length - before);
        panels.write_zeros(row, run.column, before);
        panels.write(row, run.column + before, &line[from..from + copied]);
        let end = before + copied;
        panels.write_zeros(row, run.column + end, run.length - end);
    }
}

impl Panels<'_> {
    /// The rest of the panel's row at `column`; `group` is a power of two.
    fn lanes(&mut self, row: usize, column: usize) -> &mut [f32] {
        let lane = column & (self.group - 1);
        let panel = column >> self.group.trailing_zeros();
        let start = (panel * self.depths + row) * self.group;
        &mut self.values[start + lane..start + self.group]
    }

    fn write(&mut self, row: usize, mut column: usize, mut values: &[f32]) {
        while !values.is_empty() {
            let lanes = self.lanes(row, column);
            // A whole row of the widest panel is the usual case, and needs no call.
            if let (Ok(lanes), Some(first)) = (
                <&mut [f32; 32]>::try_from(&mut *lanes),
                values.first_chunk::<32>(),
            ) {
                *lanes = *first;
                (column, values) = (column + 32, &values[32..]);
                continue;
            }
            let count = lanes.len().min(values.len());
            lanes[..count].copy_from_slice(&values[..count]);
            (column, values) = (column + count, &values[count..]);
        }
    }

    fn write_zeros(&mut self, row: usize, mut column: usize, mut count: usize) {
        while count > 0 {
            let lanes = self.lanes(row, column);
            let length = lanes.len().min(count);
            lanes[..length].fill(0.0);
            (column, count) = (column + length, count - length);
        }
    }
}
