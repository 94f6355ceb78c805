//! Convolutions without a library: products of patches that are read where they lie.
//!
//! Rows are output pixels, columns the output channels of a group, groups are the batch. The sums
//! run over taps and channels; channels are the innermost where their elements are neighbours
//! (channels-last), so that 8 of them are one access.
//!
//! ```ignore
//! let kernels = convolution("conv2d", &call, &machine)?;
//! ```

use super::Machine;
use super::address::{is_packed, offset};
use super::tiles::{Bias, Operand, Output, Tiles};
use crate::{Axis, Convolution, Generated, Result};

/// The kernel of a convolution.
///
/// # Errors
/// As [`Tiles::generate`].
pub(super) fn convolution(step: &str, call: &Convolution, machine: &Machine) -> Result<Generated> {
    let groups = call.attributes.groups.max(1);
    let [pictures, channels, height, width] = four(&call.output.axes);
    let columns = Axis {
        size: channels.size / groups,
        ..channels
    };
    let outer = [pictures, height, width];
    let even = |axis: &Axis| axis.size == 1 || axis.stride.is_multiple_of(2);
    let tiles = Tiles {
        batch: groups,
        depth: call.weight.axes[1..].iter().map(|axis| axis.size).product(),
        left: patches(call),
        right: taps(call),
        bias: call.bias.as_ref().map(|view| Bias {
            view,
            place: offset(&format!("(batch * {}u + (n))", columns.size), &view.axes),
        }),
        scales: None,
        gelu: false,
        output: Output {
            view: &call.output,
            place: format!(
                "(u64)batch * {}ull + {}",
                columns.size * columns.stride,
                offset("m", &outer)
            ),
            step: columns.stride,
            is_paired: columns.stride == 1
                && columns.size.is_multiple_of(2)
                && call.output.offset.is_multiple_of(2)
                && outer.iter().all(even),
        },
    };
    tiles.generate(step, machine)
}

/// The axes of the sums in order, of a view `[_, c, h, w]` of the input or the weight.
fn depth_axes(call: &Convolution, axes: [Axis; 3]) -> [Axis; 3] {
    let [channel, y, x] = axes;
    if is_channels_last(call) {
        [y, x, channel]
    } else {
        [channel, y, x]
    }
}

fn is_channels_last(call: &Convolution) -> bool {
    let channels = |axes: &[Axis]| axes[1].stride == 1 && axes[1].size > 1;
    channels(&call.input.axes)
}

fn patches(call: &Convolution) -> Operand<'_> {
    let [pictures, channels, height, width] = four(&call.input.axes);
    let [_, group_channels, tap_height, tap_width] = four(&call.weight.axes).map(|axis| axis.size);
    let [_, _, out_height, out_width] = four(&call.output.axes).map(|axis| axis.size);
    let [stride_y, stride_x] = call.attributes.stride;
    let [top, _, left, _] = call.attributes.padding;
    // Position k apart into channel and tap.
    let (channel, tap_y, tap_x) = if is_channels_last(call) {
        (
            format!("k % {group_channels}u"),
            format!("k / {}u", group_channels * tap_width),
            format!("k / {group_channels}u % {tap_width}u"),
        )
    } else {
        (
            format!("k / {}u", tap_height * tap_width),
            format!("k / {tap_width}u % {tap_height}u"),
            format!("k % {tap_width}u"),
        )
    };
    let place = format!(
        "const u32 y = row / {out_width}u % {out_height}u * {stride_y}u + {tap_y} - {top}u;\n\
         const u32 x = row % {out_width}u * {stride_x}u + {tap_x} - {left}u;\n\
         const u32 channel = batch * {group_channels}u + {channel};\n\
         at = (u64)(row / {}u) * {}ull + (u64)channel * {}ull + (u64)y * {}ull + (u64)x * {}ull;\n\
         // Below zero is far above.\n\
         return y < {}u && x < {}u;",
        out_height * out_width,
        pictures.stride,
        channels.stride,
        height.stride,
        width.stride,
        height.size,
        width.size,
    );
    let per_group = Axis {
        size: group_channels,
        ..channels
    };
    let others = [pictures, height, width];
    Operand {
        view: &call.input,
        rows: [0, 2, 3]
            .iter()
            .map(|&axis| call.output.axes[axis].size)
            .product(),
        place,
        is_packed: is_channels_last(call) && is_packed(call.input.offset, &others, &[per_group], 8),
        is_along_rows: !is_channels_last(call),
    }
}

fn taps(call: &Convolution) -> Operand<'_> {
    let [outputs, channels, height, width] = four(&call.weight.axes);
    let groups = call.attributes.groups.max(1);
    let rows = Axis {
        size: outputs.size / groups,
        ..outputs
    };
    let inner = depth_axes(call, [channels, height, width]);
    Operand {
        view: &call.weight,
        rows: rows.size,
        place: format!(
            "at = (u64)(batch * {}u + row) * {}ull + {}; return true;",
            rows.size,
            rows.stride,
            offset("k", &inner)
        ),
        is_packed: is_packed(call.weight.offset, &[outputs], &inner, 8),
        is_along_rows: false,
    }
}

fn four(axes: &[Axis]) -> [Axis; 4] {
    axes.try_into().expect("the verifier has seen the rank")
}
