"""Pictures of scenes, drawn on the device by signed distances.

``Renderer(device)(rows, "plain", generator)`` takes rows of ``scenes.to_row`` and returns
f32 [n, 3, 128, 128] in -1..1. Styles are those of spec.json: plain, neon, chalk.
"""

import math

import torch
import torch.nn.functional as F

from scenes import BACKGROUNDS, CANVAS, COLOURS, KINDS, PATTERNS, RGB, SPEC

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
    """Noise in -1..1 of about ``cells`` grains along an edge."""
    grid = torch.rand(shape[0], 1, cells, cells, generator=generator, device=device) * 2 - 1
    return F.interpolate(grid, size=shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


class Renderer:
    """Holds the distance tables of all kinds and the palette."""

    def __init__(self, device="cpu"):
        self.device = torch.device(device)
        axis = (torch.arange(TABLE, dtype=torch.float64) / (TABLE - 1) * 2 - 1) * EXTENT
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        tables = torch.stack([unit_distance(kind, x, y) for kind in KINDS])
        self.tables = tables.float().reshape(-1).to(self.device)
        self.palette = torch.tensor([RGB[name] for name in COLOURS], device=self.device) / 255.0
        pixel = torch.arange(CANVAS, device=self.device) + 0.5
        self.y, self.x = torch.meshgrid(pixel, pixel, indexing="ij")

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

    def background(self, rows):
        """Plain, halved and graded backgrounds [n, 3, h, w]."""
        form, a, b = rows[:, 18].long(), rows[:, 19].long(), rows[:, 20].long()
        forms = torch.tensor([BACKGROUNDS.index(name) for name in BACKGROUNDS], device=self.device)
        mixes = []
        for name in BACKGROUNDS:
            along = self.x if name.endswith("left") else self.y
            if name == "plain":
                mixes.append(torch.zeros_like(along))
            elif name.startswith("halves"):
                mixes.append((along - CANVAS / 2 + 0.5).clamp(0, 1))
            else:
                mixes.append((along - 0.5) / (CANVAS - 1))
        mix = torch.stack(mixes)[forms[form]][:, None]
        start, stop = self.palette[a][:, :, None, None], self.palette[b][:, :, None, None]
        return start * (1 - mix) + stop * mix

    def shapes(self, rows):
        """For each shape in drawing order: presence, colour [n, 3, 1, 1], distance and pattern [n, 1, h, w]."""
        for index in range(3):
            kind, colour, radius, x, y, pattern = rows[:, 6 * index : 6 * index + 6].unbind(1)
            size = radius[:, None, None]
            dx, dy = self.x - x[:, None, None], self.y - y[:, None, None]
            distance = self.distances(kind, dx / size, dy / size) * size
            distance = torch.where(kind[:, None, None] < 0, torch.full_like(distance, 1e3), distance)
            period = SPEC["pattern_period"]
            wave = (dx + dy) / math.sqrt(2) / period
            stripe = coverage(((wave - wave.floor() - 0.5).abs() - 0.25) * period)
            fx, fy = dx / period, dy / period
            cell = torch.sqrt((fx - fx.round()) ** 2 + (fy - fy.round()) ** 2) * period
            dot = coverage(cell - 2.6)
            pattern = pattern[:, None, None]
            marks = stripe * (pattern == PATTERNS.index("striped")) + dot * (pattern == PATTERNS.index("dotted"))
            yield self.palette[colour.long()][:, :, None, None], distance[:, None], marks[:, None]

    def plain(self, rows, generator):
        picture = self.background(rows)
        for colour, distance, marks in self.shapes(rows):
            paint = colour * (1 - (1 - SPEC["pattern_shade"]) * marks)
            mask = coverage(distance)
            picture = picture * (1 - mask) + paint * mask
        return picture

    def neon(self, rows, generator):
        night = torch.tensor(SPEC["night"], device=self.device) / 255.0
        picture = night[None, :, None, None].expand(len(rows), 3, CANVAS, CANVAS)
        for colour, distance, marks in self.shapes(rows):
            mask = coverage(distance)
            inside = colour * (0.3 + 0.25 * marks)
            picture = picture * (1 - mask) + inside * mask
            glow = colour * 0.55 * torch.exp(-distance.abs() / 4.0)
            outline = (1.9 - distance.abs()).clamp(0, 1)
            shine = 0.85 * colour + 0.15
            picture = torch.maximum(picture, glow)
            picture = picture * (1 - outline) + shine * outline
        return picture

    def chalk(self, rows, generator):
        board = torch.tensor(SPEC["board"], device=self.device) / 255.0
        shape = (len(rows), 1, CANVAS, CANVAS)
        smudge = 0.02 * smooth_noise(shape, 10, generator, self.device)
        picture = board[None, :, None, None] + smudge
        for colour, distance, marks in self.shapes(rows):
            rough = distance + 0.8 * smooth_noise(shape, 40, generator, self.device)
            mask = coverage(rough)
            wobble = 1.5 * smooth_noise(shape, 14, generator, self.device)
            wave = (self.x - self.y) / math.sqrt(2) / 5.0 + wobble * 0.35
            hatch = coverage(((wave - wave.floor() - 0.5).abs() - 0.32) * 5.0)
            grain = 0.82 + 0.18 * smooth_noise(shape, 64, generator, self.device)
            edge = (2.4 - (rough + 1.6).abs()).clamp(0, 1)
            strength = torch.maximum(hatch * 0.9, edge) * grain * (1 - 0.45 * marks)
            chalk = 0.88 * colour + 0.1
            bare = board[None, :, None, None] * 1.0
            picture = picture * (1 - mask) + (bare + (chalk - bare) * (0.25 + 0.75 * strength)) * mask
        return picture

    def __call__(self, rows, style="plain", generator=None):
        rows = rows.to(self.device, torch.float32)
        picture = getattr(self, style)(rows, generator)
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
