"""Pictures of scenes, drawn on the device by signed distances.

``Renderer(device)(rows, "plain", generator)`` takes rows of ``scenes.to_row`` and returns
f32 [n, 3, 128, 128] in -1..1. Styles are those of spec.json: plain, neon, chalk.
"""

import math

import torch
import torch.nn.functional as F

from spec import BACKGROUNDS, CANVAS, COLOURS, KINDS, PATTERNS, RGB, SPEC

TABLE = 256
EXTENT = 2.0


def star(points=5, outer=1.1, inner=0.48):
    radii = [outer if index % 2 == 0 else inner for index in range(2 * points)]
    angles = [math.pi * index / points - math.pi / 2 for index in range(2 * points)]
    return [(r * math.cos(a), r * math.sin(a) + 0.06) for r, a in zip(radii, angles)]


def cross(arm=1.0, half=0.34):
    quarter = [(half, -arm), (half, -half), (arm, -half)]
    corners = []
    for turn in range(4):
        cos, sin = round(math.cos(turn * math.pi / 2)), round(math.sin(turn * math.pi / 2))
        corners += [(x * cos - y * sin, x * sin + y * cos) for x, y in quarter]
    return corners


def heart(count=60):
    """The curve x = 16 sin³t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, to unit size."""
    points = []
    for index in range(count):
        t = 2 * math.pi * index / count
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 16, (-y - 2.5) / 15))
    return points


def polygon_distance(points, x, y):
    """The signed distance to a polygon, negative inside: the nearest edge, the sign by crossings."""
    nearest = torch.full_like(x, float("inf"))
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1]):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        if ey != 0:
            crosses = ((y >= ay) != (y >= by)) & (x < ax + py * ex / ey)
            inside ^= crosses
    return torch.where(inside, -nearest.sqrt(), nearest.sqrt())


def unit_distance(kind, x, y):
    """The signed distance to a shape of radius 1 about the origin, y down."""
    if kind == "circle":
        return (x * x + y * y).sqrt() - 1.0
    if kind == "ring":
        return ((x * x + y * y).sqrt() - 0.82).abs() - 0.18
    side = 0.9
    hexagon = [(1.05 * math.cos(k * math.pi / 3), 1.05 * math.sin(k * math.pi / 3)) for k in range(6)]
    polygons = {
        "square": [(-side, -side), (side, -side), (side, side), (-side, side)],
        "triangle": [(0.0, -1.0), (1.05, 0.85), (-1.05, 0.85)],
        "star": star(),
        "cross": cross(),
        "heart": heart(),
        "hexagon": hexagon,
    }
    return polygon_distance(polygons[kind], x, y)


def coverage(distance):
    """How much of a pixel lies inside, for a distance in pixels."""
    return (0.5 - distance).clamp(0, 1)


def smooth_noise(shape, cells, generator, device):
    """Noise in -1..1 of about ``cells`` grains along the canvas."""
    cells = cells * shape[-1] // CANVAS
    grid = torch.rand(shape[0], 1, cells, cells, generator=generator, device=device) * 2 - 1
    return F.interpolate(grid, size=shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


class Renderer:
    """Holds the distance tables of all kinds and the palette.

    Nothing is copied to the device after the start, so that drawing can be part of a captured step.
    """

    def __init__(self, device="cpu"):
        self.device = torch.device(device)
        axis = (torch.arange(TABLE, dtype=torch.float64) / (TABLE - 1) * 2 - 1) * EXTENT
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        tables = torch.stack([unit_distance(kind, x, y) for kind in KINDS])
        self.tables = tables.float().reshape(-1).to(self.device)
        self.palette = torch.tensor([RGB[name] for name in COLOURS], device=self.device) / 255.0
        self.night = torch.tensor(SPEC["night"], device=self.device)[None, :, None, None] / 255.0
        self.board = torch.tensor(SPEC["board"], device=self.device)[None, :, None, None] / 255.0

    def pixels(self, corner, size):
        """Coordinates y, x [m, size, size] of pixel centres; ``corner`` [n, 2] is the first pixel's, or None."""
        pixel = torch.arange(size, device=self.device) + 0.5
        y, x = torch.meshgrid(pixel, pixel, indexing="ij")
        if corner is None:
            return y[None], x[None]
        return y + corner[:, 1, None, None], x + corner[:, 0, None, None]

    def distances(self, kind, u, v):
        """Unit distances [n, h, w] of kinds [n] at unit coordinates, by bilinear reading."""
        step = (TABLE - 1) / (2 * EXTENT)
        beyond = ((u.abs() - EXTENT).clamp(min=0) ** 2 + (v.abs() - EXTENT).clamp(min=0) ** 2).sqrt()
        column = ((u + EXTENT) * step).clamp(0, TABLE - 1.001)
        row = ((v + EXTENT) * step).clamp(0, TABLE - 1.001)
        left, top = column.floor(), row.floor()
        right, down = column - left, row - top
        at = (kind.clamp(min=0).long() * TABLE * TABLE)[:, None, None] + top.long() * TABLE + left.long()
        read = lambda offset: self.tables[at + offset]
        upper = read(0) * (1 - right) + read(1) * right
        lower = read(TABLE) * (1 - right) + read(TABLE + 1) * right
        return upper * (1 - down) + lower * down + beyond

    def background(self, rows, y, x):
        """Plain, halved and graded backgrounds [n, 3, h, w]."""
        form, a, b = rows[:, 18].long(), rows[:, 19].long(), rows[:, 20].long()
        mixes = []
        for name in BACKGROUNDS:
            along = x if name.endswith("left") else y
            if name == "plain":
                mixes.append(torch.zeros_like(along))
            elif name.startswith("halves"):
                mixes.append((along - CANVAS / 2 + 0.5).clamp(0, 1))
            else:
                mixes.append((along - 0.5) / (CANVAS - 1))
        mixes = torch.stack(mixes)
        sample = torch.arange(len(rows), device=self.device) if mixes.shape[1] > 1 else torch.zeros_like(form)
        mix = mixes[form, sample][:, None]
        start, stop = self.palette[a][:, :, None, None], self.palette[b][:, :, None, None]
        return start * (1 - mix) + stop * mix

    def shapes(self, rows, at_y, at_x):
        """For each shape in drawing order: colour [n, 3, 1, 1], distance and pattern's marks [n, 1, h, w]."""
        period = SPEC["pattern_period"]
        for index in range(3):
            kind, colour, radius, x, y, pattern = rows[:, 6 * index : 6 * index + 6].unbind(1)
            size = radius[:, None, None]
            dx, dy = at_x - x[:, None, None], at_y - y[:, None, None]
            distance = self.distances(kind, dx / size, dy / size) * size
            distance = torch.where(kind[:, None, None] < 0, torch.full_like(distance, 1e3), distance)
            wave = (dx + dy) / math.sqrt(2) / period
            stripe = coverage(((wave - wave.floor() - 0.5).abs() - 0.25) * period)
            fx, fy = dx / period, dy / period
            dot = coverage(torch.sqrt((fx - fx.round()) ** 2 + (fy - fy.round()) ** 2) * period - 2.6)
            pattern = pattern[:, None, None]
            marks = stripe * (pattern == PATTERNS.index("striped")) + dot * (pattern == PATTERNS.index("dotted"))
            yield self.palette[colour.long()][:, :, None, None], distance[:, None], marks[:, None]

    def plain(self, rows, y, x, generator):
        picture = self.background(rows, y, x)
        for colour, distance, marks in self.shapes(rows, y, x):
            paint = colour * (1 - (1 - SPEC["pattern_shade"]) * marks)
            mask = coverage(distance)
            picture = picture * (1 - mask) + paint * mask
        return picture

    def neon(self, rows, y, x, generator):
        picture = self.night.expand(len(rows), 3, *y.shape[1:])
        for colour, distance, marks in self.shapes(rows, y, x):
            mask = coverage(distance)
            inside = colour * (0.3 + 0.25 * marks)
            picture = picture * (1 - mask) + inside * mask
            glow = colour * 0.55 * torch.exp(-distance.abs() / 4.0)
            outline = (1.9 - distance.abs()).clamp(0, 1)
            shine = 0.85 * colour + 0.15
            picture = torch.maximum(picture, glow)
            picture = picture * (1 - outline) + shine * outline
        return picture

    def chalk(self, rows, y, x, generator):
        shape = (len(rows), 1, *y.shape[1:])
        noise = lambda cells: smooth_noise(shape, cells, generator, self.device)
        picture = self.board + 0.02 * noise(10)
        for colour, distance, marks in self.shapes(rows, y, x):
            rough = distance + 0.8 * noise(40)
            mask = coverage(rough)
            wave = (x - y)[:, None] / math.sqrt(2) / 5.0 + 0.525 * noise(14)
            hatch = coverage(((wave - wave.floor() - 0.5).abs() - 0.32) * 5.0)
            grain = 0.82 + 0.18 * noise(64)
            edge = (2.4 - (rough + 1.6).abs()).clamp(0, 1)
            strength = torch.maximum(hatch * 0.9, edge) * grain * (1 - 0.45 * marks)
            chalk = 0.88 * colour + 0.1
            paint = self.board + (chalk - self.board) * (0.25 + 0.75 * strength)
            picture = picture * (1 - mask) + paint * mask
        return picture

    def __call__(self, rows, style="plain", generator=None, corner=None, size=CANVAS):
        """Pictures of rows; with ``corner`` [n, 2] only the square of ``size`` pixels from there on."""
        rows = rows.to(self.device, torch.float32)
        picture = getattr(self, style)(rows, *self.pixels(corner, size), generator)
        return picture.clamp(0, 1) * 2 - 1


def sheet(pictures, columns=6, gap=4):
    """Pictures [n, 3, h, w] in -1..1 on one sheet, as a PIL image."""
    from PIL import Image

    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    page = torch.full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 0.5)
    for index, picture in enumerate(pictures.float().cpu()):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        page[:, top : top + height, left : left + width] = picture.clamp(-1, 1) / 2 + 0.5
    return Image.fromarray((page * 255).round().byte().permute(1, 2, 0).numpy())


if __name__ == "__main__":
    import random
    import sys

    from scenes import sample, to_row

    rng = random.Random(3)
    scenes = [sample(rng) for _ in range(18)]
    rows = torch.tensor([to_row(scene) for scene in scenes])
    renderer, generator = Renderer(), torch.Generator().manual_seed(0)
    for scene in scenes:
        print(scene.caption)
    styles = [renderer(rows, style, generator) for style in ("plain", "neon", "chalk")]
    sheet(torch.cat(styles)).save(sys.argv[1])
