"""Measures pictures of shapes: what is there, where, and whether a caption asked for it.

It is no learned model and is never told where a shape was meant to be. It fits the background,
names pixels by colour, groups them, fits every kind of shape to each group by its signed
distance, and only then compares what it found with what the caption's content asks.

    verdict = Judge().judge(picture, scene)          # picture: uint8 [128, 128, 3], RGB
    python judge.py FOLDER [STYLE]                   # captions.json and 0000.png, 0001.png, …
"""

import itertools
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from render import CANVAS, EXTENT, TABLE, Renderer
from scenes import BACKGROUNDS, COLOURS, KINDS, OPPOSITE, RGB, SHAPE_COLOURS, SPEC, Background, Scene, Shape

RADII = [10.5, 13.0, 15.5, 18.0, 21.5, 25.0, 28.5]
RADIUS_LIMITS = (9.5, 30.0)
SIZE_RANGES = {"small": (9.5, 15.5), "medium": (15.5, 21.5), "large": (21.5, 30.0)}
SHAPE_RGB = torch.tensor([RGB[name] for name in SHAPE_COLOURS], dtype=torch.float32)
ALL_RGB = torch.tensor([RGB[name] for name in COLOURS], dtype=torch.float32)
BACKGROUND_TOLERANCE = 45.0


@dataclass
class Style:
    """How a style paints: colours ``bright`` to ``dark`` [8, 3] of each shape colour, the fixed
    background or None, the farthest a pixel may be from its colour, the radius in pixels that
    closes gaps of strokes, and the worst misfit of a shape that still counts as its kind."""

    name: str
    bright: torch.Tensor
    dark: torch.Tensor
    ground: torch.Tensor | None
    reach: float
    closing: int
    worst: float


@dataclass
class Group:
    """Pixels of one colour that may be one shape: ``colour`` is an index, ``mask`` bool [128, 128]."""

    colour: int
    mask: torch.Tensor
    bright: torch.Tensor = None
    dark: torch.Tensor = None
    patterned: bool = False


@dataclass
class Fit:
    """The best placement of each kind: ``cost`` [8], ``misfit`` [8] (share of area), ``place`` [8, 3]
    as (x, y, radius), and the share of the best silhouette that is not hidden."""

    cost: torch.Tensor
    misfit: torch.Tensor
    place: torch.Tensor
    visible: float = 1.0

    @property
    def kind(self):
        return int(self.cost.argmin())


@dataclass
class Verdict:
    """What was measured. ``position_right`` is None where the caption has no relation."""

    shapes_right: bool
    position_right: bool | None
    background_right: bool
    sizes_right: bool
    patterns_right: bool
    details: dict = field(default_factory=dict)


def scene_to_json(scene):
    """A scene as a JSON-able dict."""
    return asdict(scene)


def scene_from_json(data):
    """The scene of ``scene_to_json``; placements may be absent."""
    return Scene(
        [Shape(**shape) for shape in data["shapes"]],
        [tuple(relation) for relation in data["relations"]],
        Background(**data["background"]),
        data["layout"],
        data.get("caption", ""),
    )


def make_style(name):
    if name == "plain":
        return Style(name, SHAPE_RGB, SHAPE_RGB * SPEC["pattern_shade"], None, 60.0, 0, 0.22)
    if name == "neon":
        shine = 0.85 * SHAPE_RGB + 0.15 * 255
        return Style(name, shine, 0.75 * shine, torch.tensor(SPEC["night"]).float(), 45.0, 0, 0.4)
    if name == "chalk":
        board = torch.tensor(SPEC["board"]).float()
        chalk = 0.88 * SHAPE_RGB + 0.1 * 255
        return Style(name, chalk, board + 0.2 * (chalk - board), board, 50.0, 1, 0.25)
    raise ValueError(f"style {name!r} is none of plain, neon, chalk")


# --- pixels -----------------------------------------------------------------------------------


def as_planes(picture):
    """f32 [3, h, w] in 0..255 of a picture [h, w, 3]."""
    return torch.from_numpy(np.asarray(picture).astype(np.float32)).permute(2, 0, 1).contiguous()


def grow(mask, radius):
    """Dilation by a square of 2 radius + 1 pixels."""
    return F.max_pool2d(mask.float()[None, None], 2 * radius + 1, 1, radius)[0, 0] > 0.5


def shrink(mask, radius):
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
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# --- background -------------------------------------------------------------------------------


def mixes():
    """For each form, how much of colour b a pixel [h, w] shows."""
    along = torch.arange(CANVAS, dtype=torch.float32)
    result = []
    for form in BACKGROUNDS:
        ramp = torch.zeros(CANVAS)
        if form.startswith("halves"):
            ramp = (along + 1 - CANVAS / 2).clamp(0, 1)
        elif form.startswith("gradient"):
            ramp = along / (CANVAS - 1)
        line = ramp[None, :] if form.endswith("left") else ramp[:, None]
        result.append(line.expand(CANVAS, CANVAS).contiguous())
    return torch.stack(result)


FRAME = torch.ones(CANVAS, CANVAS, dtype=torch.bool)
FRAME[2:-2, 2:-2] = False
MIXES = mixes()


def fit_mix(picture, mix, weights):
    """Colours (a, b) of least squares for picture = a (1 - mix) + b mix."""
    basis = torch.stack([1 - mix, mix])[:, weights > 0]
    values, weight = picture[:, weights > 0], weights[weights > 0]
    left = (basis * weight) @ basis.T + 1e-3 * torch.eye(2)
    return torch.linalg.solve(left, (basis * weight) @ values.T)


def blend(colours, mix):
    return colours[0][:, None, None] * (1 - mix) + colours[1][:, None, None] * mix


def fit_background(picture):
    """The best (form, a, b) for a picture [3, h, w], its colours [2, 3], its picture, its misfit in levels."""
    best = None
    sample = picture[:, ::2, ::2].contiguous()
    for index, form in enumerate(BACKGROUNDS):
        mix, weights = MIXES[index, ::2, ::2], FRAME[::2, ::2].float()
        for _ in range(4):
            colours = fit_mix(sample, mix, weights)
            away = (sample - blend(colours, mix)).square().sum(0).sqrt()
            weights = 1.0 / (1.0 + (away / 25.0) ** 4) + 1e-4
        # A richer form must earn itself: on a plain background all forms fit alike.
        misfit = float(away.clamp(max=80).mean()) + (0.0 if form == "plain" else 1.0)
        if best is None or misfit < best[0]:
            colours = colours if form != "plain" else colours[:1].expand(2, 3)
            best = (misfit, form, colours)
    misfit, form, colours = best
    ground = blend(colours, MIXES[BACKGROUNDS.index(form)])
    names = [COLOURS[int((ALL_RGB - colour).square().sum(1).sqrt().argmin())] for colour in colours]
    return {"form": form, "a": names[0], "b": "" if form == "plain" else names[1], "misfit": misfit}, colours, ground


def background_right(found, colours, picture, ground, asked):
    """Whether form and colours are the asked ones and nearly all of the frame shows them."""
    if found["form"] != asked.form or found["a"] != asked.a or found["b"] != asked.b:
        return False
    wanted = torch.tensor([RGB[asked.a], RGB[asked.b or asked.a]], dtype=torch.float32)
    near = (colours - wanted).square().sum(1).sqrt().max() <= BACKGROUND_TOLERANCE
    return bool(near) and bool(((picture - ground).square().sum(0).sqrt()[FRAME] < 50).float().mean() > 0.9)


# --- fitting ----------------------------------------------------------------------------------


class Fitter:
    """Fits all kinds to a map of how much of each pixel a shape covers.

    A coarse search over all centres and seven radii by Fourier transforms at half resolution,
    then Gauss-Newton on (x, y, radius) at full resolution.
    """

    def __init__(self, outlined):
        self.outlined = outlined
        tables = Renderer().tables.reshape(len(KINDS), TABLE, TABLE)
        step = 2 * EXTENT / (TABLE - 1)
        down, right = torch.gradient(tables, spacing=step, dim=(1, 2))
        self.tables = torch.stack([tables, right, down], 1)
        self.pixel = torch.arange(CANVAS) + 0.5
        self.templates, self.squares = self.make_templates()

    def distances(self, kinds, place, window=(0, 0, CANVAS, CANVAS)):
        """Signed distances [n, h, w] in pixels and their slopes [n, 3, h, w] in (x, y, radius)."""
        left, top, right, bottom = window
        radius = place[:, 2, None, None]
        u = (self.pixel[None, None, left:right] - place[:, 0, None, None]) / radius
        v = (self.pixel[None, top:bottom, None] - place[:, 1, None, None]) / radius
        grid = torch.stack(torch.broadcast_tensors(u / EXTENT, v / EXTENT), -1)
        read = F.grid_sample(self.tables[kinds], grid, padding_mode="border", align_corners=True)
        unit, along_x, along_y = read.unbind(1)
        slopes = torch.stack([-along_x, -along_y, unit - u * along_x - v * along_y], 1)
        return unit * radius, slopes

    def profile(self, distance, edge):
        """Coverage for a distance, with an edge that many pixels wide, and its slope."""
        if self.outlined:
            raw = (1.4 + 0.5 * edge - distance.abs()) / edge
            slope = -distance.sign() / edge
        else:
            raw = 0.5 - distance / edge
            slope = torch.full_like(distance, -1.0 / edge)
        return raw.clamp(0, 1), slope * ((raw > 0) & (raw < 1))

    def make_templates(self):
        kinds = torch.arange(len(KINDS)).repeat_interleave(len(RADII))
        radii = torch.tensor(RADII).repeat(len(KINDS))
        centre = torch.full_like(radii, CANVAS / 2)
        distance, _ = self.distances(kinds, torch.stack([centre, centre, radii], 1))
        cover = F.avg_pool2d(self.profile(distance, 1.6)[0][:, None], 2)[:, 0]
        cover = torch.roll(cover, (-CANVAS // 4, -CANVAS // 4), (1, 2))
        return torch.fft.rfft2(cover).conj(), torch.fft.rfft2(cover * cover).conj()

    def coarse(self, amount, weight, each=2):
        """The best ``each`` radii of every kind with their centres: kinds [n], places [n, 3]."""
        halve = lambda plane: F.avg_pool2d(plane[None, None], 2)[0, 0]
        target, weights = halve(amount * weight), halve(weight)
        spectrum = torch.fft.rfft2(weights) * self.squares - 2 * torch.fft.rfft2(target) * self.templates
        cost = torch.fft.irfft2(spectrum, s=(CANVAS // 2, CANVAS // 2)).flatten(1)
        least, at = cost.min(1)
        rank = least.reshape(len(KINDS), len(RADII)).topk(each, dim=1, largest=False).indices
        flat = (rank + torch.arange(len(KINDS))[:, None] * len(RADII)).flatten()
        # A template's centre lies on the corner that four half-resolution pixels share.
        x, y = (at[flat] % (CANVAS // 2)) * 2.0, torch.div(at[flat], CANVAS // 2, rounding_mode="floor") * 2.0
        radii = torch.tensor(RADII)[rank.flatten()]
        return torch.arange(len(KINDS)).repeat_interleave(each), torch.stack([x, y, radii], 1)

    def step(self, kinds, place, target, weights, window, edge):
        """One step of Gauss-Newton with edges that many pixels wide: the error [n, h, w] and new places."""
        distance, slopes = self.distances(kinds, place, window)
        cover, slope = self.profile(distance, edge)
        error = cover - target
        jacobian = (slope[:, None] * slopes).flatten(2)
        weighted = jacobian * weights.flatten()
        square = weighted @ jacobian.transpose(1, 2) + 0.5 * torch.eye(3)
        move = torch.linalg.solve(square, (weighted @ error.flatten(1)[:, :, None])[:, :, 0])
        moved = place - move.clamp(-3, 3)
        moved[:, 2].clamp_(*RADIUS_LIMITS)
        return cover, error, moved

    def refine(self, kinds, place, target, weights, window):
        """From several places of each kind, in order of kinds, to the best one of each kind."""
        for edge in (4.0, 4.0, 3.0):
            _, error, moved = self.step(kinds, place, target, weights, window, edge)
            cost = (weights * error * error).sum((1, 2))
            place = moved
        each = len(kinds) // len(KINDS)
        keep = cost.reshape(len(KINDS), each).argmin(1) + torch.arange(len(KINDS)) * each
        kinds, place = kinds[keep], place[keep]
        best = Fit(torch.full((len(KINDS),), float("inf")), torch.ones(len(KINDS)), place)
        for _ in range(4):
            cover, error, moved = self.step(kinds, place, target, weights, window, 1.6)
            cost = (weights * error * error).sum((1, 2))
            union = (weights * torch.maximum(cover, target)).sum((1, 2)).clamp(min=1)
            better = cost < best.cost
            best.misfit = torch.where(better, (weights * error.abs()).sum((1, 2)) / union, best.misfit)
            best.place = torch.where(better[:, None], place, best.place)
            best.cost = torch.where(better, cost, best.cost)
            place = moved
        return best

    def fit(self, amount, weight):
        """The best placement of each kind for coverage [h, w] in 0..1, weighted by [h, w]."""
        # What is hidden costs a trifle, so that nothing is imagined without need.
        weight = weight.clamp(min=0.005)
        left, top, right, bottom = box(amount > 0.3)
        window = (max(0, left - 20), max(0, top - 20), min(CANVAS, right + 20), min(CANVAS, bottom + 20))
        kinds, place = self.coarse(amount, weight)
        crop = (slice(window[1], window[3]), slice(window[0], window[2]))
        return self.refine(kinds, place, amount[crop], weight[crop], window)


# --- the judge --------------------------------------------------------------------------------


class Judge:
    """Judges pictures of one style: plain, neon or chalk."""

    def __init__(self, style="plain"):
        self.style = make_style(style)
        self.fitter = Fitter(outlined=style == "neon")

    def judge(self, picture, scene):
        """The verdict on a picture, uint8 [128, 128, 3], for the content of a scene (not its places)."""
        array = np.asarray(picture)
        if array.shape != (CANVAS, CANVAS, 3):
            raise ValueError(f"picture: expected shape ({CANVAS}, {CANVAS}, 3), found {array.shape}")
        pixels = as_planes(array)
        found_ground, ground, ground_right = self.background(pixels, scene.background)
        groups, amounts, fits = self.measure(pixels, ground, scene)
        found = [self.describe(pixels, group, fit) for group, fit in zip(groups, fits)]
        extra = self.unexplained(pixels, ground, groups, fits)
        match = self.match(scene, groups, fits)
        shapes_right = match is not None and not extra
        details = {"background": found_ground, "found": found, "unexplained_pixels": extra, "asked": scene_to_json(scene)}
        position = None if not scene.relations else False
        sizes = patterns = False
        if match is not None:
            placed = [self.placed(scene.shapes[i].kind, fits[j], amounts[j]) for i, j in enumerate(match)]
            sizes = all(self.size_fits(shape.size, one["place"][2]) for shape, one in zip(scene.shapes, placed))
            patterns = all(pattern_fits(shape.pattern, found[j]["pattern"]) for shape, j in zip(scene.shapes, match))
            held = [relation_holds(placed[a], relation, placed[b]) for a, relation, b in scene.relations]
            details["relations"] = held
            position = all(held) if held else None
        return Verdict(shapes_right, position, ground_right, sizes, patterns, details)

    def measure(self, pixels, ground, scene):
        """The groups of a picture's pixels, what each covers, and its fits. The scene counts colours only."""
        groups = self.find_groups(pixels, ground, scene)
        amounts = [self.amount(pixels, ground, group, groups) for group in groups]
        # A smear that is nowhere paint has no shape; it counts among the unexplained.
        solid = [index for index, (cover, _) in enumerate(amounts) if bool((cover > 0.3).any())]
        groups, amounts = [groups[index] for index in solid], [amounts[index] for index in solid]
        return groups, amounts, self.fit_groups(groups, amounts)

    def background(self, pixels, asked):
        if self.style.ground is None:
            found, colours, ground = fit_background(pixels)
            return found, ground, background_right(found, colours, pixels, ground, asked)
        frame = pixels[:, FRAME]
        colour = frame.median(1).values
        ground = colour[:, None, None].expand_as(pixels)
        right = (colour - self.style.ground).norm() < 30 and ((frame - colour[:, None]).square().sum(0).sqrt() < 40).float().mean() > 0.9
        return {"form": self.style.name, "colour": colour.tolist()}, ground, bool(right)

    # Groups of pixels.

    def find_groups(self, pixels, ground, scene):
        """Groups of pixels of one colour, joined where a pattern or a shape in front cuts them."""
        style = self.style
        from_ground = (pixels - ground).square().sum(0).sqrt()
        near, along = segment_distance(pixels, style.bright, style.dark)
        least, label = near.min(0)
        core = (least < style.reach) & (least < from_ground) & (from_ground > 30)
        if style.name == "chalk":
            # Faint strokes of all colours look like the board.
            core &= along.gather(0, label[None])[0] < 0.7
        parts = []
        for colour in range(len(SHAPE_COLOURS)):
            mask = core & (label == colour)
            if style.closing:
                mask = shrink(grow(mask, style.closing), style.closing)
            if mask.sum() < 6:
                continue
            solid = shrink(mask, 1)
            asked = any(shape.colour == SHAPE_COLOURS[colour] for shape in scene.shapes)
            strong = [part for part in components(mask) if (part & solid).sum() >= 3]
            if not strong and asked:
                strong = self.slivers(mask & (least < 35))
            parts.append([Group(colour, part) for part in strong])
        every = [group for groups in parts for group in groups]
        result = []
        for groups in parts:
            others = [group for group in every if group.colour != (groups[0].colour if groups else -1)]
            wanted = sum(shape.colour == SHAPE_COLOURS[groups[0].colour] for shape in scene.shapes) if groups else 0
            result += self.join(groups, others, max(1, wanted))
        for group in result:
            self.measure_colour(group, pixels, along[group.colour])
        return result

    def slivers(self, mask):
        """What little is seen of a shape behind another: more than a fringe one pixel wide."""
        if mask.sum() < 6:
            return []
        square = F.avg_pool2d(mask.float()[None, None], 2, 1)[0, 0] > 0.99
        return [part for part in components(mask) if part.sum() >= 6 and (part[:-1, :-1] & square).any()]

    def join(self, groups, others, wanted):
        """Joins parts until as many are left as the caption wants, where there is a reason to."""
        groups = list(groups)
        while len(groups) > 1:
            pairs = list(itertools.combinations(range(len(groups)), 2))
            inside = [pair for pair in pairs if nested(groups[pair[0]].mask, groups[pair[1]].mask)]
            if not inside and len(groups) <= wanted:
                break
            if not inside:
                # Between outlines lies a glow of mixed colours.
                wide = [grow(group.mask, 5 if self.style.name == "neon" else 3) for group in groups]
                inside = [(i, j) for i, j in pairs if (wide[i] & wide[j]).any()]
                inside += [
                    (i, j)
                    for i, j in pairs
                    if any((wide[i] & o.mask).any() and (wide[j] & o.mask).any() for o in others)
                ]
            if not inside:
                break
            i, j = inside[0]
            groups[i] = Group(groups[i].colour, groups[i].mask | groups[j].mask)
            del groups[j]
        return groups

    def measure_colour(self, group, pixels, along):
        """The group's own colours: a picture may be off by some levels."""
        style = self.style
        group.bright, group.dark = style.bright[group.colour], style.dark[group.colour]
        if style.name != "plain":
            return
        core = shrink(group.mask, 1)
        core = core if core.sum() >= 6 else group.mask
        values, where = pixels[:, core], along[core]
        light, shade = where < 0.35, where > 0.65
        group.patterned = bool(shade.float().mean() > 0.12 and light.float().mean() > 0.1)
        if light.any():
            group.bright = values[:, light].median(1).values
        group.dark = group.bright
        if group.patterned:
            group.dark = values[:, shade].median(1).values

    def amount(self, pixels, ground, group, groups):
        """How much of each pixel the group covers, [h, w] in 0..1, and how sure that is."""
        others = [other for other in groups if other.colour != group.colour]
        same = [other.mask for other in groups if other.colour == group.colour and other is not group]
        if self.style.name == "neon":
            cover = self.outline_amount(pixels, group)
            sure = torch.ones_like(cover)
        else:
            dark = group.dark
            if self.style.name == "chalk":
                dark = self.style.ground + 0.3 * (group.bright - self.style.ground)
            own = (segment_distance(pixels, group.bright[None], dark[None])[0][0] - 8).clamp(min=0)
            else_ = (pixels - ground).square().sum(0).sqrt()
            for other in others:
                near = segment_distance(pixels, other.bright[None], other.dark[None])[0][0]
                else_ = torch.where(grow(other.mask, 3), torch.minimum(else_, near), else_)
            else_ = (else_ - 8).clamp(min=0)
            cover = else_ / (own + else_).clamp(min=1)
            sure = ((own + else_) / 50).clamp(0, 1)
        cover = cover * grow(group.mask, 3)
        for mask in same:
            cover = cover * ~(grow(mask, 2) & ~group.mask)
        if self.style.name == "chalk":
            wide = F.max_pool2d(cover[None, None], 3, 1, 1)
            cover = torch.maximum(cover, -F.max_pool2d(-wide, 3, 1, 1)[0, 0])
        return cover, sure

    def outline_amount(self, pixels, group):
        scale = (pixels * group.bright[:, None, None]).sum(0) / (group.bright * group.bright).sum()
        aside = (pixels - scale * group.bright[:, None, None]).square().sum(0).sqrt()
        top = scale[group.mask].quantile(0.7).clamp(0.6, 1.2)
        return ((scale / top - 0.6) / 0.25).clamp(0, 1) * (1.6 - aside / 45).clamp(0, 1)

    # Shapes.

    def fit_groups(self, groups, amounts):
        """A fit of every group; one that another cuts is fitted again without what is hidden."""
        fits = [self.fitter.fit(cover, sure) for cover, sure in amounts]
        front = [float(fit.misfit[fit.kind]) for fit in fits]
        for index in range(len(groups)):
            touching = [
                other
                for other in range(len(groups))
                if other != index
                and groups[other].colour != groups[index].colour
                and self.before(groups[other], groups[index], front[other], front[index])
                and self.touch(groups[index], groups[other], fits[other])
            ]
            if not touching or front[index] < 0.02:
                continue
            cover, sure = amounts[index]
            hidden = torch.zeros_like(groups[index].mask)
            for other in touching:
                hidden |= self.silhouette(fits[other], 2.4 if self.style.name == "neon" else 1.2)
            again = self.fitter.fit(cover, sure * ~hidden)
            shape = self.silhouette(again, 0.0)
            again.visible = float((shape & ~hidden).sum() / shape.sum().clamp(min=1))
            fits[index] = again
        return fits

    def before(self, group, other, misfit, other_misfit):
        """Whether one group is the one in front: it lies within the other, or looks more like a whole shape."""
        if nested(group.mask, other.mask):
            return within(group.mask, other.mask)
        return misfit < other_misfit

    def touch(self, group, other, fit):
        return bool((grow(group.mask, 2) & (grow(other.mask, 1) | self.silhouette(fit, 2.0))).any())

    def silhouette(self, fit, margin, kind=None):
        kind = fit.kind if kind is None else kind
        distance, _ = self.fitter.distances(torch.tensor([kind]), fit.place[kind][None])
        return distance[0] < margin

    def accepts(self, fit, kind):
        """Whether the pixels show this kind: it fits best, or what little is seen cannot tell."""
        best = fit.kind
        if float(fit.misfit[kind]) > self.style.worst:
            return False
        if kind == best:
            return True
        return fit.visible < 0.6 and float(fit.cost[kind]) <= 1.15 * float(fit.cost[best]) + 3.0

    def match(self, scene, groups, fits):
        """Which group is which asked shape, or None: same number, colours and kinds."""
        if len(groups) != len(scene.shapes):
            return None
        for order in itertools.permutations(range(len(groups))):
            if all(
                SHAPE_COLOURS[groups[j].colour] == shape.colour
                and self.colour_near(groups[j])
                and self.accepts(fits[j], KINDS.index(shape.kind))
                for shape, j in zip(scene.shapes, order)
            ):
                return list(order)
        return None

    def colour_near(self, group):
        return float((group.bright - self.style.bright[group.colour]).norm()) < 55

    def placed(self, kind, fit, amount):
        kind = KINDS.index(kind)
        distance, _ = self.fitter.distances(torch.tensor([kind]), fit.place[kind][None])
        profile, _ = self.fitter.profile(distance[0], 1.6)
        return {"kind": kind, "place": fit.place[kind].tolist(), "distance": distance[0], "profile": profile, "cover": amount[0]}

    def size_fits(self, size, radius):
        low, high = SIZE_RANGES[size]
        return low - 0.5 <= radius <= high + 0.5

    def unexplained(self, pixels, ground, groups, fits):
        """Pixels of blobs that are neither background nor any fitted shape."""
        away = (pixels - ground).square().sum(0).sqrt() > (150 if self.style.name == "neon" else 60)
        for fit in fits:
            away &= ~self.silhouette(fit, 3.5)
        for group in groups:
            away &= ~grow(group.mask, 1)
        return int(away.sum()) if shrink(away, 1).sum() >= 4 else 0

    def describe(self, pixels, group, fit):
        kind = fit.kind
        x, y, radius = (round(value, 2) for value in fit.place[kind].tolist())
        second = float(fit.cost.sort().values[1])
        return {
            "kind": KINDS[kind],
            "colour": SHAPE_COLOURS[group.colour],
            "x": x,
            "y": y,
            "radius": radius,
            "misfit": round(float(fit.misfit[kind]), 4),
            "cost": round(float(fit.cost[kind]), 3),
            "second_cost": round(second, 3),
            "second_kind": KINDS[int(fit.cost.argsort()[1])],
            "visible": round(fit.visible, 3),
            "pattern": self.pattern(pixels, group, fit),
        }

    def pattern(self, pixels, group, fit):
        """plain, striped, dotted, or marked where it is one of both; None where too little of the inside is seen, or under chalk's hatching."""
        style = self.style
        if style.name == "chalk":
            return None
        inside = self.silhouette(fit, -3.0 if style.name == "neon" else -1.7)
        if style.name == "neon":
            colour = SHAPE_RGB[group.colour]
            marks = ((pixels * colour[:, None, None]).sum(0) / (colour * colour).sum() - 0.3) / 0.25
            aside = (pixels - (0.3 + 0.25 * marks) * colour[:, None, None]).square().sum(0).sqrt()
            inside &= (aside < 25) & (marks < 1.6)
        else:
            bright, dark = style.bright[group.colour], style.dark[group.colour]
            shift = group.bright - bright
            near, along = segment_distance(pixels, (bright + shift)[None], (dark + shift)[None])
            inside &= near[0] < 45
            marks = along[0]
        if inside.sum() < 25:
            return None
        return pattern_of_marks(marks.clamp(0, 1), inside)


def pattern_fits(asked, found):
    return found in (None, asked) or (found == "marked" and asked != "plain")


def pattern_of_marks(marks, inside):
    """Names a map of marks in 0..1: stripes have one direction, dots have none."""
    values = marks[inside]
    if float(values.std()) < 0.17 or float((values > 0.5).float().mean()) < 0.05:
        return "plain"
    both = inside[:, 1:] & inside[:, :-1]
    both = both[:-1] & inside[1:, 1:] & inside[1:, :-1]
    if both.sum() < 30:
        return "marked"
    # Differences along the two diagonals, at the same point between four pixels.
    falling = (marks[1:, 1:] - marks[:-1, :-1])[both]
    rising = (marks[:-1, 1:] - marks[1:, :-1])[both]
    xx, yy, xy = (falling**2).sum(), (rising**2).sum(), (falling * rising).sum()
    coherence = ((xx - yy) ** 2 + 4 * xy**2).sqrt() / (xx + yy).clamp(min=1e-6)
    return "striped" if float(coherence) > 0.5 else "dotted"


def within(a, b):
    """Whether the box of mask a lies within the box of mask b."""
    p, q = box(a), box(b)
    return p[0] >= q[0] and p[1] >= q[1] and p[2] <= q[2] and p[3] <= q[3]


def nested(a, b):
    return within(a, b) or within(b, a)


# --- relations --------------------------------------------------------------------------------


def relation_holds(a, relation, b):
    """Whether two placed shapes stand in a relation, as a person would say it."""
    if relation in ("right of", "below"):
        return relation_holds(b, OPPOSITE[relation], a)
    right, down = b["place"][0] - a["place"][0], b["place"][1] - a["place"][1]
    reach = a["place"][2] + b["place"][2]
    if relation == "left of":
        return right > abs(down) and right >= 0.85 * reach
    if relation == "above":
        return down > abs(right) and down >= 0.85 * reach
    if relation == "inside":
        return is_inside(a, b)
    return is_overlapping(a, b)


def is_inside(a, b, least=0.88):
    """Nearly all of a within the outline of b."""
    inner, outer = a["distance"] < 0, filled(b) < 1.0
    share = float((inner & outer).sum() / inner.sum().clamp(min=1))
    return share > least and a["place"][2] < b["place"][2]


def filled(one):
    """The distance to a shape's silhouette with the ring's hole filled."""
    if KINDS[one["kind"]] != "ring":
        return one["distance"]
    pixel = torch.arange(CANVAS) + 0.5
    x, y, radius = one["place"]
    return ((pixel[None, :] - x) ** 2 + (pixel[:, None] - y) ** 2).sqrt() - radius


def is_overlapping(a, b):
    """The silhouettes meet, neither holds the other, and a is the one in front."""
    common = torch.maximum(a["distance"], b["distance"])
    if float(common.min()) > 1.0:
        return False
    if is_inside(a, b, 0.97) or is_inside(b, a, 0.97):
        return False
    shared = common < 0
    if shared.sum() < 6:
        return True
    return seen(a, shared) >= seen(b, shared)


def seen(one, where):
    """How much of what a shape should show in a region is seen there."""
    should = one["profile"][where]
    return float((should * one["cover"][where]).sum() / should.sum().clamp(min=1e-3)) if should.sum() > 1 else 0.0


# --- what a LoRA changes ----------------------------------------------------------------------


def glow(picture, scene):
    """Neon's property: how much of the shapes' colour there is 3 to 6 pixels outside them, as a mean
    share of the way from the background to the colour. Flat shapes have about 0, glowing ones 0.1.
    The picture is read as flat shapes and as outlines, and what fits better counts. Without shapes it is 0."""
    return min(glow_as(picture, scene, style) for style in ("plain", "neon"))[1]


def glow_as(picture, scene, style):
    """The mean misfit of the shapes read in a style, and the glow about them."""
    judge = kept_judge(style)
    pixels = as_planes(picture)
    _, ground, _ = judge.background(pixels, scene.background)
    groups, _, fits = judge.measure(pixels, ground, scene)
    if not groups:
        return float("inf"), 0.0
    covered = torch.stack([judge.silhouette(fit, 3.0) for fit in fits]).any(0)
    shares = []
    for group, fit in zip(groups, fits):
        halo = judge.silhouette(fit, 6.0) & ~covered
        way = group.bright[:, None, None] - ground
        along = ((pixels - ground) * way).sum(0) / way.square().sum(0).clamp(min=1)
        shares.append(along[halo])
    every = torch.cat(shares)
    misfit = sum(float(fit.misfit[fit.kind]) for fit in fits) / len(fits)
    return misfit, float(every.mean()) if len(every) else 0.0


def board_distance(picture, scene):
    """Chalk's property: the distance in RGB (0 to 442) of the picture's frame, 2 pixels wide, from
    the board's colour: the median over its pixels."""
    return float((as_planes(picture)[:, FRAME] - torch.tensor(SPEC["board"])[:, None]).square().sum(0).sqrt().median())


# Per style: the property and the least change, with the LoRA less without, that counts.
PROPERTIES = {"neon": (glow, 0.06), "chalk": (board_distance, -25.0)}


def style_changed(style, scene, without, with_lora):
    """Whether a LoRA changed its style's property in the style's direction, and both values."""
    measure, least = PROPERTIES[style]
    before, after = measure(without, scene), measure(with_lora, scene)
    return bool((after - before) * np.sign(least) >= abs(least)), before, after


# --- reports ----------------------------------------------------------------------------------

_judges = {}


def kept_judge(style):
    if style not in _judges:
        _judges[style] = Judge(style)
    return _judges[style]


def judge(picture, scene, style="plain"):
    """``Judge(style).judge`` with a judge that is kept."""
    return kept_judge(style).judge(picture, scene)


def table(verdicts):
    """Markdown: shares of right shapes, positions, backgrounds, sizes, patterns, overall and by content."""
    rows = {"all": list(verdicts)}
    for verdict in verdicts:
        asked = verdict.details["asked"]
        keys = {f"{len(asked['shapes'])} shapes", f"background {asked['background']['form']}"}
        keys |= {f"kind {shape['kind']}" for shape in asked["shapes"]}
        keys |= {f"relation {relation[1]}" for relation in asked["relations"]}
        for key in keys:
            rows.setdefault(key, []).append(verdict)
    lines = ["| captions | count | shapes | position | background | sizes | patterns |", "|---|---|---|---|---|---|---|"]
    for name in sorted(rows, key=lambda key: (key != "all", key)):
        cells = [share([getattr(verdict, column) for verdict in rows[name]]) for column in COLUMNS]
        lines.append(f"| {name} | {len(rows[name])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLUMNS = ["shapes_right", "position_right", "background_right", "sizes_right", "patterns_right"]


def share(values):
    counted = [value for value in values if value is not None]
    return f"{100 * sum(counted) / len(counted):.1f} %" if counted else "–"


def main():
    from PIL import Image

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    style = sys.argv[2] if len(sys.argv) > 2 else "plain"
    scenes = [scene_from_json(data) for data in json.loads((folder / "captions.json").read_text(encoding="utf-8"))]
    verdicts = []
    for index, scene in enumerate(scenes):
        picture = np.asarray(Image.open(folder / f"{index:04d}.png").convert("RGB"))
        verdicts.append(judge(picture, scene, style))
    (folder / "verdicts.json").write_text(json.dumps([asdict(verdict) for verdict in verdicts]), encoding="utf-8")
    print(table(verdicts))


if __name__ == "__main__":
    main()
