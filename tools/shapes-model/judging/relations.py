"""Relations of two placed shapes.

A placed shape is a dict of ``kind`` (an index), ``place`` (x, y, radius), and planes [128, 128]:
``distance`` to its outline, ``profile`` it should cover, ``cover`` it is seen to cover. Example:
``relation_holds(a, "left of", b)``.
"""

import torch

from spec import CANVAS, KINDS, OPPOSITE

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
