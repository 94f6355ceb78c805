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

/// Output pixels side by side: `length` from (`y`, `x`), at `lane` of a panel.
#[derive(Clone, Copy)]
struct Run {
    lane: usize,
    length: usize,
    y: usize,
    x: usize,
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

    /// Writes rows `depth..depth + depths` of the columns `pixel..pixel + count` as a panel
    /// of `group` lanes; lanes beyond `count` become zero.
    pub(super) fn fill(
        &self,
        (pixel, count): (usize, usize),
        (depth, depths): (usize, usize),
        group: usize,
        panel: &mut [f32],
    ) {
        if count < group {
            panel.fill(0.0);
        }
        let area = self.kernel[0] * self.kernel[1];
        let mut lane = 0;
        while lane < count {
            let [y, x] = [(pixel + lane) / self.output[1], (pixel + lane) % self.output[1]];
            let run = Run { lane, length: (self.output[1] - x).min(count - lane), y, x };
            let targets = panel.chunks_exact_mut(group).take(depths);
            let (mut channel, mut position) = (depth / area, depth % area);
            let (mut ky, mut kx) = (position / self.kernel[1], position % self.kernel[1]);
            for target in targets {
                self.fill_run(run, channel, [ky, kx], &mut target[run.lane..run.lane + run.length]);
                position += 1;
                kx += 1;
                if kx == self.kernel[1] {
                    (kx, ky) = (0, ky + 1);
                }
                if position == area {
                    (position, ky, channel) = (0, 0, channel + 1);
                }
            }
            lane += run.length;
        }
    }

    #[inline(always)]
    fn fill_run(&self, run: Run, channel: usize, [ky, kx]: [usize; 2], target: &mut [f32]) {
        let [height, width] = self.size;
        let y = (run.y * self.stride[0] + ky).wrapping_sub(self.padding[0]);
        if y >= height {
            target.fill(0.0);
            return;
        }
        let row = &self.x[(channel * height + y) * width..][..width];
        // The kernel's column for lane 0, moved right by the padding to stay unsigned.
        let start = run.x * self.stride[1] + kx;
        let left = self.padding[1];
        if self.stride[1] != 1 {
            for (index, value) in target.iter_mut().enumerate() {
                let x = (start + index * self.stride[1]).wrapping_sub(left);
                *value = row.get(x).copied().unwrap_or(0.0);
            }
        } else if start >= left && start - left + run.length <= width {
            copy(&row[start - left..start - left + run.length], target);
        } else {
            let before = left.saturating_sub(start).min(run.length);
            let from = (start + before).saturating_sub(left).min(width);
            let copied = (width - from).min(run.length - before);
            target[..before].fill(0.0);
            target[before..before + copied].copy_from_slice(&row[from..from + copied]);
            target[before + copied..].fill(0.0);
        }
    }
}

/// Copies a run; the usual length is a constant, which needs no call.
#[inline(always)]
fn copy(source: &[f32], target: &mut [f32]) {
    match (<&[f32; 32]>::try_from(source), <&mut [f32; 32]>::try_from(&mut *target)) {
        (Ok(source), Ok(target)) => *target = *source,
        _ => target.copy_from_slice(source),
    }
}
