"""Masks and distances of pixels; knows neither shapes nor styles.

Masks are bool [128, 128], pictures f32 [3, 128, 128] in 0..255. Example: ``box(grow(mask, 2))``.
"""

import numpy as np
import torch

from spec import CANVAS

FRAME = torch.ones(CANVAS, CANVAS, dtype=torch.bool)
FRAME[2:-2, 2:-2] = False


def as_planes(picture):
    """f32 [3, h, w] in 0..255 of a picture [h, w, 3]."""
    return torch.from_numpy(np.asarray(picture).astype(np.float32)).permute(2, 0, 1).contiguous()


def colour_distance(a, b):
    """Distances [h, w] in RGB between two pictures [3, h, w], in levels of 255."""
    return (a - b).square().sum(0).sqrt()


def grow(mask, radius):
    """Dilation by a square of 2 radius + 1 pixels."""
    rows = mask.clone()
    for shift in range(1, radius + 1):
        rows[shift:] |= mask[:-shift]
        rows[:-shift] |= mask[shift:]
    grown = rows.clone()
    for shift in range(1, radius + 1):
        grown[:, shift:] |= rows[:, :-shift]
        grown[:, :-shift] |= rows[:, shift:]
    return grown


def shrink(mask, radius):
    """Erosion by a square of 2 radius + 1 pixels; the picture's edge takes nothing away."""
    return ~grow(~mask, radius)


def segment_distance(picture, start, stop):
    """Distances [n, h, w] of pixels [3, h, w] to the segments from start to stop, both [n, 3],
    and where along them the nearest points lie, 0 to 1."""
    span = stop - start
    offset = picture[None] - start[:, :, None, None]
    along = (offset * span[:, :, None, None]).sum(1) / (span * span).sum(1).clamp(min=1e-6)[:, None, None]
    along = along.clamp(0, 1)
    return (offset - along[:, None] * span[:, :, None, None]).square().sum(1).sqrt(), along


def components(mask):
    """The 8-connected parts of a mask, as a list of masks, by union of runs."""
    grid = mask.numpy()
    padded = np.zeros((grid.shape[0], grid.shape[1] + 2), np.int8)
    padded[:, 1:-1] = grid
    rows, columns = np.nonzero(np.diff(padded, axis=1))
    runs = [(int(rows[k]), int(columns[k]), int(columns[k + 1])) for k in range(0, len(rows), 2)]
    parent = list(range(len(runs)))

    def root(index):
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    by_row = {}
    for index, (row, start, stop) in enumerate(runs):
        for other in by_row.get(row - 1, []):
            if runs[other][1] <= stop and start <= runs[other][2]:
                parent[root(index)] = root(other)
        by_row.setdefault(row, []).append(index)
    parts = {}
    for index, (row, start, stop) in enumerate(runs):
        part = parts.setdefault(root(index), np.zeros(grid.shape, bool))
        part[row, start:stop] = True
    return [torch.from_numpy(part) for part in parts.values()]


def box(mask):
    """The mask's (left, top, right, bottom), the last two exclusive. The mask holds at least one pixel."""
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def within(p, q):
    """Whether box p lies within box q."""
    return p[0] >= q[0] and p[1] >= q[1] and p[2] <= q[2] and p[3] <= q[3]


def nested(p, q):
    """Whether one of two boxes lies within the other."""
    return within(p, q) or within(q, p)
