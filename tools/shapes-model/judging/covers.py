"""How much of each pixel a group covers: what shapes are fitted to.

A mask says yes or no; a cover keeps the soft edges that give places to a tenth of a pixel. Example:
``[(cover, sure), …] = covers_of(style, pixels, ground, groups)``.
"""

import torch
import torch.nn.functional as F

from .pixels import colour_distance, segment_distance

def covers_of(style, pixels, ground, groups):
    """For each group how much of each pixel it covers, [h, w] in 0..1, and how sure that is."""
    if style.name == "neon":
        covers = [outline_cover(pixels, group) for group in groups]
        covers = [(cover, torch.ones_like(cover)) for cover in covers]
    else:
        covers = flat_covers(style, pixels, ground, groups)
    return [(limited(style, cover, group, groups), sure) for (cover, sure), group in zip(covers, groups)]


def flat_covers(style, pixels, ground, groups):
    """By how much nearer a pixel's colour is to the group's than to the background's and the other groups'."""
    paints = [segment_distance(pixels, group.bright[None], group.dark[None])[0][0] for group in groups]
    from_ground = colour_distance(pixels, ground)
    result = []
    for group, own in zip(groups, paints):
        if style.name == "chalk":
            dark = style.ground + 0.3 * (group.bright - style.ground)
            own = segment_distance(pixels, group.bright[None], dark[None])[0][0]
        else_ = from_ground
        for other, near in zip(groups, paints):
            if other.colour != group.colour:
                else_ = torch.where(other.grown(3), torch.minimum(else_, near), else_)
        own, else_ = (own - 8).clamp(min=0), (else_ - 8).clamp(min=0)
        result.append((else_ / (own + else_).clamp(min=1), ((own + else_) / 50).clamp(0, 1)))
    return result


def limited(style, cover, group, groups):
    """A group's cover only where the group is, and no other of its colour; under chalk with gaps closed."""
    cover = cover * group.grown(3)
    for other in groups:
        if other.colour == group.colour and other is not group:
            cover = cover * ~(other.grown(2) & ~group.mask)
    if style.name == "chalk":
        wide = F.max_pool2d(cover[None, None], 3, 1, 1)
        cover = torch.maximum(cover, -F.max_pool2d(-wide, 3, 1, 1)[0, 0])
    return cover


def outline_cover(pixels, group):
    """For neon: how much of a pixel is outline, by brightness and hue."""
    scale = (pixels * group.bright[:, None, None]).sum(0) / (group.bright * group.bright).sum()
    aside = colour_distance(pixels, scale * group.bright[:, None, None])
    top = scale[group.mask].quantile(0.7).clamp(0.6, 1.2)
    return ((scale / top - 0.6) / 0.25).clamp(0, 1) * (1.6 - aside / 45).clamp(0, 1)
