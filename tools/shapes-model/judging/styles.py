"""The styles: how each paints, and how far from that a pixel or a shape may be.

Measured limits only; drawing is ``render.py``'s. Example: ``make_style("neon").ground`` is the night's RGB.
"""

from dataclasses import dataclass

import torch

from spec import RGB, SHAPE_COLOURS, SPEC

SHAPE_RGB = torch.tensor([RGB[name] for name in SHAPE_COLOURS], dtype=torch.float32)


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


def make_style(name):
    """The style of that name: plain, neon or chalk."""
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
