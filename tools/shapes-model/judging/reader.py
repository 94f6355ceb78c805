"""Reads a picture: its background, its shapes, what is left over.

Says what is there, never whether it was asked. Example:

    reader = reader_of("plain")
    groups, covers, fits = reader.read(pixels, ground, scene)
"""

import functools

import torch

from spec import KINDS, SHAPE_COLOURS

from .covers import covers_of
from .fitting import Fitter
from .groups import find_groups
from .patterns import name_pattern
from .pixels import colour_distance, nested, shrink, within
from .styles import make_style

class Reader:
    """Reads pictures of one style: plain, neon or chalk."""

    def __init__(self, style):
        self.style = make_style(style)
        self.fitter = Fitter(outlined=style == "neon")

    def read(self, pixels, ground, scene):
        """The groups of a picture's pixels, what each covers, and its fits. The scene counts colours only."""
        groups = find_groups(self.style, pixels, ground, scene)
        covers = covers_of(self.style, pixels, ground, groups)
        # A smear that is nowhere paint has no shape; it counts among the unexplained.
        solid = [index for index, (cover, _) in enumerate(covers) if bool((cover > 0.3).any())]
        groups, covers = [groups[index] for index in solid], [covers[index] for index in solid]
        return groups, covers, self.fit_groups(groups, covers)


    def fit_groups(self, groups, covers):
        """A fit of every group; one that another cuts is fitted again without what is hidden."""
        fits = [self.fitter.fit(cover, sure) for cover, sure in covers]
        front = [float(fit.misfit[fit.kind]) for fit in fits]
        for index in range(len(groups)):
            touching = [
                other
                for other in range(len(groups))
                if other != index
                and groups[other].colour != groups[index].colour
                and before(groups[other], groups[index], front[other], front[index])
                and self.touch(groups[index], groups[other], fits[other])
            ]
            if not touching or front[index] < 0.02:
                continue
            cover, sure = covers[index]
            hidden = torch.zeros_like(groups[index].mask)
            for other in touching:
                hidden |= self.silhouette(fits[other], 2.4 if self.style.name == "neon" else 1.2)
            again = self.fitter.fit(cover, sure * ~hidden)
            shape = self.silhouette(again, 0.0)
            again.visible = float((shape & ~hidden).sum() / shape.sum().clamp(min=1))
            fits[index] = again
        return fits


    def touch(self, group, other, fit):
        """Whether a group lies at another one or at the shape fitted to that."""
        return bool((group.grown(2) & (other.grown(1) | self.silhouette(fit, 2.0))).any())


    def silhouette(self, fit, margin):
        """The mask of the best shape, grown by a margin in pixels."""
        return self.distance(fit, fit.kind) < margin

    def distance(self, fit, kind):
        """Signed distances [128, 128] in pixels to a kind of shape where it fits best."""
        if kind not in fit.outlines:
            fit.outlines[kind] = self.fitter.distance(kind, fit.place[kind])
        return fit.outlines[kind]


    def unexplained(self, pixels, ground, groups, fits):
        """Pixels of blobs that are neither background nor any fitted shape."""
        away = colour_distance(pixels, ground) > (150 if self.style.name == "neon" else 60)
        for fit in fits:
            away &= ~self.silhouette(fit, 3.5)
        for group in groups:
            away &= ~group.grown(1)
        return int(away.sum()) if shrink(away, 1).sum() >= 4 else 0


    def describe(self, pixels, group, fit):
        """What a person would want to know of one found shape, for the verdict's details."""
        kind = fit.kind
        margin = -3.0 if self.style.name == "neon" else -1.7
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
            "pattern": name_pattern(self.style, pixels, group, self.silhouette(fit, margin)),
        }


def before(group, other, misfit, other_misfit):
    """Whether one group is the one in front: it lies within the other, or looks more like a whole shape."""
    if nested(group.box, other.box):
        return within(group.box, other.box)
    return misfit < other_misfit


@functools.cache
def reader_of(style):
    """The reader of a style, made once: its templates take a while."""
    return Reader(style)
