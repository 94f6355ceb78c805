"""spec.json as names: the canvas, colours, kinds and grammar that every part of the recipe reads."""

import json
from pathlib import Path

SPEC = json.loads(Path(__file__).with_name("spec.json").read_text(encoding="utf-8"))
CANVAS = SPEC["canvas"]
CAPTION_TOKENS = SPEC["caption_tokens"]
KINDS = SPEC["kinds"]
SHAPE_COLOURS = list(SPEC["colours"])
RGB = {**SPEC["colours"], **SPEC["background_only_colours"]}
COLOURS = list(RGB)
PATTERNS = list(SPEC["patterns"])
SIZES = list(SPEC["sizes"])
BACKGROUNDS = list(SPEC["grammar"]["backgrounds"])
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
DIRECTIONS = list(OPPOSITE)
GRAMMAR = SPEC["grammar"]
HELD_PAIRS = {tuple(pair) for pair in SPEC["held_out"]["colour_and_kind"]}
HELD_TRIPLES = {tuple(triple) for triple in SPEC["held_out"]["kind_relation_kind"]}
MARGIN, GAP, GRID = SPEC["margin"], SPEC["gap"], SPEC["centre_grid"]
