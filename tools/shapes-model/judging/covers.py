"""How much of each pixel a group covers: what shapes are fitted to.

A mask says yes or no; a cover keeps the soft edges that give places to a tenth of a pixel. Example:
``cover, sure = cover_of(style, pixels, ground, group, groups)``.
"""

import torch
import torch.nn.functional as F

from .pixels import colour_distance, grow, segment_distance

def cover_of(style, pixels, ground, group, groups):
    """How much of each pixel the group covers, [h, w] in 0..1, and how sure that is."""
    others = [other for other in groups if other.colour != group.colour]
    same = [other.mask for other in groups if other.colour == group.colour and other is not group]
    if style.name == "neon":
        cover = outline_cover(pixels, group)
        sure = torch.ones_like(cover)
    else:
        dark = group.dark
        if style.name == "chalk":
            dark = style.ground + 0.3 * (group.bright - style.ground)
        own = (segment_distance(pixels, group.bright[None], dark[None])[0][0] - 8).clamp(min=0)
        else_ = colour_distance(pixels, ground)
        for other in others:
            near = segment_distance(pixels, other.bright[None], other.dark[None])[0][0]
            else_ = torch.where(grow(other.mask, 3), torch.minimum(else_, near), else_)
        else_ = (else_ - 8).clamp(min=0)
        cover = else_ / (own + else_).clamp(min=1)
        sure = ((own + else_) / 50).clamp(0, 1)
    cover = cover * grow(group.mask, 3)
    for mask in same:
        cover = cover * ~(grow(mask, 2) & ~group.mask)
    if style.name == "chalk":
        wide = F.max_pool2d(cover[None, None], 3, 1, 1)
        cover = torch.maximum(cover, -F.max_pool2d(-wide, 3, 1, 1)[0, 0])
    return cover, sure


def outline_cover(pixels, group):
    """The same for neon: how much of a pixel is outline, by brightness and hue."""
    scale = (pixels * group.bright[:, None, None]).sum(0) / (group.bright * group.bright).sum()
    aside = colour_distance(pixels, scale * group.bright[:, None, None])
    top = scale[group.mask].quantile(0.7).clamp(0.6, 1.2)
    return ((scale / top - 0.6) / 0.25).clamp(0, 1) * (1.6 - aside / 45).clamp(0, 1)
