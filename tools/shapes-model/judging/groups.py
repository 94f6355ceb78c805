"""Groups of pixels of one colour that may be one shape; where the shapes lie is not known here.

The scene only tells how many shapes of a colour are asked, and so how far parts are joined. Example:
``find_groups(make_style("plain"), as_planes(picture), ground, scene)``.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from scenes import SHAPE_COLOURS

from .pixels import colour_distance, components, grow, nested, segment_distance, shrink

@dataclass
class Group:
    """Pixels of one colour that may be one shape: ``colour`` is an index, ``mask`` bool [128, 128]."""

    colour: int
    mask: torch.Tensor
    bright: torch.Tensor = None
    dark: torch.Tensor = None
    patterned: bool = False


def find_groups(style, pixels, ground, scene):
    """Groups of pixels of one colour, joined where a pattern or a shape in front cuts them."""
    from_ground = colour_distance(pixels, ground)
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
            strong = slivers(mask & (least < 35))
        parts.append([Group(colour, part) for part in strong])
    every = [group for groups in parts for group in groups]
    result = []
    for groups in parts:
        others = [group for group in every if group.colour != (groups[0].colour if groups else -1)]
        wanted = sum(shape.colour == SHAPE_COLOURS[groups[0].colour] for shape in scene.shapes) if groups else 0
        result += join(style, groups, others, max(1, wanted))
    for group in result:
        measure_colour(style, group, pixels, along[group.colour])
    return result


def slivers(mask):
    """What little is seen of a shape behind another: more than a fringe one pixel wide."""
    if mask.sum() < 6:
        return []
    square = F.avg_pool2d(mask.float()[None, None], 2, 1)[0, 0] > 0.99
    return [part for part in components(mask) if part.sum() >= 6 and (part[:-1, :-1] & square).any()]


def join(style, groups, others, wanted):
    """Joins parts until as many are left as the caption wants, where there is a reason to."""
    groups = list(groups)
    while len(groups) > 1:
        pairs = list(itertools.combinations(range(len(groups)), 2))
        inside = [pair for pair in pairs if nested(groups[pair[0]].mask, groups[pair[1]].mask)]
        if not inside and len(groups) <= wanted:
            break
        if not inside:
            # Between outlines lies a glow of mixed colours.
            wide = [grow(group.mask, 5 if style.name == "neon" else 3) for group in groups]
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


def measure_colour(style, group, pixels, along):
    """The group's own colours: a picture may be off by some levels."""
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
