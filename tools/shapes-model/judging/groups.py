"""Groups of pixels of one colour that may be one shape; where the shapes lie is not known here.

The scene only tells how many shapes of a colour are asked, and so how far parts are joined. Example:
``find_groups(make_style("plain"), as_planes(picture), ground, scene)``.
"""

import functools
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from spec import SHAPE_COLOURS

from .pixels import box, colour_distance, components, grow, segment_distance, shrink

@dataclass
class Group:
    """Pixels of one colour that may be one shape: ``colour`` is an index, ``mask`` bool [128, 128] and
    not empty. The mask stays as it is: what is computed from it is kept."""

    colour: int
    mask: torch.Tensor
    bright: torch.Tensor = None
    dark: torch.Tensor = None
    patterned: bool = False
    wider: dict = field(default_factory=dict)

    @functools.cached_property
    def box(self):
        return box(self.mask)

    def grown(self, radius):
        """The mask, dilated."""
        if radius not in self.wider:
            self.wider[radius] = grow(self.mask, radius)
        return self.wider[radius]


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
    """Joins parts until as many are left as the caption wants, where there is a reason to: a part lies
    within another, else touches it, else one of another colour, in front, touches both."""
    groups, touches = list(groups), None
    while len(groups) > 1:
        pair = first_pair(nesting(groups))
        if pair is None and len(groups) > wanted:
            # Between outlines lies a glow of mixed colours.
            touches = touches or Touches(groups, others, 5 if style.name == "neon" else 3)
            pair = first_pair(touches.each_other) or first_pair(touches.through_others())
        if pair is None:
            break
        i, j = pair
        groups[i] = Group(groups[i].colour, groups[i].mask | groups[j].mask)
        del groups[j]
        if touches:
            touches.join(i, j)
    return groups


class Touches:
    """Which grown parts meet each other [n, n] and which others they meet [n, m]. Counted once: the
    joined part meets what either part met."""

    def __init__(self, groups, others, radius):
        wide = torch.stack([group.grown(radius).flatten() for group in groups]).float()
        self.each_other = wide @ wide.T > 0
        masks = [other.mask.flatten() for other in others] or [torch.zeros(wide.shape[1], dtype=torch.bool)]
        self.others = wide @ torch.stack(masks).float().T > 0

    def through_others(self):
        return self.others.float() @ self.others.float().T > 0

    def join(self, i, j):
        keep = [index for index in range(len(self.others)) if index != j]
        self.others[i] |= self.others[j]
        self.each_other[i] |= self.each_other[j]
        self.each_other[:, i] |= self.each_other[:, j]
        self.others, self.each_other = self.others[keep], self.each_other[keep][:, keep]


def nesting(groups):
    """Whether one of two groups' boxes lies within the other's, [n, n]."""
    low, high = torch.tensor([group.box for group in groups]).split(2, dim=1)
    within = ((low[:, None] >= low) & (high[:, None] <= high)).all(2)
    return within | within.T


def first_pair(related):
    """The first (i, j), i < j, of a symmetrical relation [n, n], or None."""
    at = torch.nonzero(related.triu(1))
    return tuple(at[0].tolist()) if len(at) else None


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
