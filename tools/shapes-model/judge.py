"""Measures pictures of shapes: what is there, where, and whether a caption asked for it.

It is no learned model and is never told where a shape was meant to be. It fits the background,
names pixels by colour, groups them, fits every kind of shape to each group by its signed
distance, and only then compares what it found with what the caption's content asks. Reading a
picture is ``judging/``; comparing is here.

    verdict = Judge().judge(picture, scene)          # picture: uint8 [128, 128, 3], RGB
    python judge.py FOLDER [STYLE]                   # captions.json and a PNG for each, in order of names
"""

import functools
import itertools
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from judging.backgrounds import read_background
from judging.patterns import pattern_fits
from judging.pixels import as_planes
from judging.properties import board_distance, glow, style_changed
from judging.reader import reader_of
from judging.relations import relation_holds
from judging.verdicts import Verdict, scene_from_json, scene_to_json, share, table
from spec import CANVAS, KINDS, SHAPE_COLOURS

__all__ = [
    "Judge",
    "Verdict",
    "board_distance",
    "glow",
    "judge",
    "scene_from_json",
    "scene_to_json",
    "share",
    "style_changed",
    "table",
]

SIZE_RANGES = {"small": (9.5, 15.5), "medium": (15.5, 21.5), "large": (21.5, 30.0)}


class Judge:
    """Judges pictures of one style: plain, neon or chalk."""

    def __init__(self, style="plain"):
        self.reader = reader_of(style)
        self.style = self.reader.style

    def judge(self, picture, scene):
        """The verdict on a picture, uint8 [128, 128, 3], for the content of a scene (not its places)."""
        array = np.asarray(picture)
        if array.shape != (CANVAS, CANVAS, 3):
            raise ValueError(f"picture: expected shape ({CANVAS}, {CANVAS}, 3), found {array.shape}")
        pixels = as_planes(array)
        found_ground, ground, ground_right = read_background(self.style, pixels, scene.background)
        groups, covers, fits = self.reader.read(pixels, ground, scene)
        found = [self.reader.describe(pixels, group, fit) for group, fit in zip(groups, fits)]
        extra = self.reader.unexplained(pixels, ground, groups, fits)
        match = self.match(scene, groups, fits)
        shapes_right = match is not None and not extra
        details = {"background": found_ground, "found": found, "unexplained_pixels": extra, "asked": scene_to_json(scene)}
        position = None if not scene.relations else False
        sizes = patterns = False
        if match is not None:
            placed = [self.placed(shape.kind, fits[j], covers[j]) for shape, j in zip(scene.shapes, match)]
            sizes = all(size_fits(shape.size, one["place"][2]) for shape, one in zip(scene.shapes, placed))
            patterns = all(pattern_fits(shape.pattern, found[j]["pattern"]) for shape, j in zip(scene.shapes, match))
            held = [relation_holds(placed[a], relation, placed[b]) for a, relation, b in scene.relations]
            details["relations"] = held
            position = all(held) if held else None
        return Verdict(shapes_right, position, ground_right, sizes, patterns, details)

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

    def accepts(self, fit, kind):
        """Whether the pixels show this kind: it fits best, or what little is seen cannot tell."""
        best = fit.kind
        if float(fit.misfit[kind]) > self.style.worst:
            return False
        if kind == best:
            return True
        return fit.visible < 0.6 and float(fit.cost[kind]) <= 1.15 * float(fit.cost[best]) + 3.0

    def colour_near(self, group):
        """Whether a group's own colour is still the one it was named by."""
        return float((group.bright - self.style.bright[group.colour]).norm()) < 55

    def placed(self, kind, fit, cover):
        """A shape as its relations need it: see ``judging/relations.py``."""
        kind = KINDS.index(kind)
        distance = self.reader.distance(fit, kind)
        profile, _ = self.reader.fitter.profile(distance, 1.6)
        return {"kind": kind, "place": fit.place[kind].tolist(), "distance": distance, "profile": profile, "cover": cover[0]}


def size_fits(size, radius):
    """Whether a radius in pixels is one of a size, with half a pixel to spare."""
    low, high = SIZE_RANGES[size]
    return low - 0.5 <= radius <= high + 0.5


@functools.cache
def judge_of(style):
    """The judge of a style, made once."""
    return Judge(style)


def judge(picture, scene, style="plain"):
    """``Judge(style).judge`` with a judge that is kept."""
    return judge_of(style).judge(picture, scene)


def main():
    from PIL import Image

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    style = sys.argv[2] if len(sys.argv) > 2 else "plain"
    scenes = [scene_from_json(data) for data in json.loads((folder / "captions.json").read_text(encoding="utf-8"))]
    pictures = sorted(folder.glob("*.png"))
    if len(pictures) != len(scenes):
        raise SystemExit(f"{folder}: expected {len(scenes)} pictures, found {len(pictures)}")
    verdicts = []
    for path, scene in zip(pictures, scenes):
        picture = np.asarray(Image.open(path).convert("RGB"))
        verdicts.append(judge(picture, scene, style))
    (folder / "verdicts.json").write_text(json.dumps([asdict(verdict) for verdict in verdicts]), encoding="utf-8")
    print(table(verdicts))


if __name__ == "__main__":
    main()
