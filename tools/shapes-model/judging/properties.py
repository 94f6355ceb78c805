"""What the LoRA of a style changes in a picture, as one number.

The picture is compared with itself without the LoRA; no shape need be right. Example:
``changed, before, after = style_changed("neon", scene, without, with_lora)``.
"""

import numpy as np
import torch

from spec import SPEC

from .backgrounds import read_background
from .pixels import FRAME, as_planes, colour_distance
from .reader import reader_of

def glow(picture, scene):
    """Neon's property: how much of the shapes' colour there is 3 to 6 pixels outside them, as a mean
    share of the way from the background to the colour. Flat shapes have about 0, glowing ones 0.1.
    The picture is read as flat shapes and as outlines, and what fits better counts. Without shapes it is 0."""
    return min(glow_as(picture, scene, style) for style in ("plain", "neon"))[1]


def glow_as(picture, scene, style):
    """The mean misfit of the shapes read in a style, and the glow about them."""
    reader = reader_of(style)
    pixels = as_planes(picture)
    _, ground, _ = read_background(reader.style, pixels, scene.background)
    groups, _, fits = reader.read(pixels, ground, scene)
    if not groups:
        return float("inf"), 0.0
    covered = torch.stack([reader.silhouette(fit, 3.0) for fit in fits]).any(0)
    shares = []
    for group, fit in zip(groups, fits):
        halo = reader.silhouette(fit, 6.0) & ~covered
        way = group.bright[:, None, None] - ground
        along = ((pixels - ground) * way).sum(0) / way.square().sum(0).clamp(min=1)
        shares.append(along[halo])
    every = torch.cat(shares)
    misfit = sum(float(fit.misfit[fit.kind]) for fit in fits) / len(fits)
    return misfit, float(every.mean()) if len(every) else 0.0


def board_distance(picture, scene):
    """Chalk's property: the distance in RGB (0 to 442) of the picture's frame, 2 pixels wide, from
    the board's colour: the median over its pixels."""
    return float(colour_distance(as_planes(picture)[:, FRAME], torch.tensor(SPEC["board"])[:, None]).median())


# Per style: the property and the least change, with the LoRA less without, that counts.
PROPERTIES = {"neon": (glow, 0.06), "chalk": (board_distance, -25.0)}


def style_changed(style, scene, without, with_lora):
    """Whether a LoRA changed its style's property in the style's direction, and both values."""
    measure, least = PROPERTIES[style]
    before, after = measure(without, scene), measure(with_lora, scene)
    return bool((after - before) * np.sign(least) >= abs(least)), before, after
