"""Patterns: marks inside a shape, plain, striped or dotted.

The inside is given; finding it is the reader's. Example: ``name_pattern(style, pixels, group, inside)``.
"""

from .pixels import colour_distance, segment_distance
from .styles import SHAPE_RGB

def name_pattern(style, pixels, group, inside):
    """The pattern of a group, seen where ``inside`` holds: plain, striped, dotted, or marked where it is
    one of both; None where too little is seen, or under chalk's hatching."""
    if style.name == "chalk":
        return None
    if style.name == "neon":
        colour = SHAPE_RGB[group.colour]
        marks = ((pixels * colour[:, None, None]).sum(0) / (colour * colour).sum() - 0.3) / 0.25
        aside = colour_distance(pixels, (0.3 + 0.25 * marks) * colour[:, None, None])
        inside = inside & (aside < 25) & (marks < 1.6)
    else:
        bright, dark = style.bright[group.colour], style.dark[group.colour]
        shift = group.bright - bright
        near, along = segment_distance(pixels, (bright + shift)[None], (dark + shift)[None])
        inside = inside & (near[0] < 45)
        marks = along[0]
    if inside.sum() < 25:
        return None
    return pattern_of_marks(marks.clamp(0, 1), inside)


def pattern_fits(asked, found):
    """Whether a named pattern does not contradict the asked one."""
    return found in (None, asked) or (found == "marked" and asked != "plain")


def pattern_of_marks(marks, inside):
    """Names a map of marks in 0..1: stripes have one direction, dots have none."""
    values = marks[inside]
    if float(values.std()) < 0.17 or float((values > 0.5).float().mean()) < 0.05:
        return "plain"
    both = inside[:, 1:] & inside[:, :-1]
    both = both[:-1] & inside[1:, 1:] & inside[1:, :-1]
    if both.sum() < 30:
        return "marked"
    # Differences along the two diagonals, at the same point between four pixels.
    falling = (marks[1:, 1:] - marks[:-1, :-1])[both]
    rising = (marks[:-1, 1:] - marks[1:, :-1])[both]
    xx, yy, xy = (falling**2).sum(), (rising**2).sum(), (falling * rising).sum()
    coherence = ((xx - yy) ** 2 + 4 * xy**2).sqrt() / (xx + yy).clamp(min=1e-6)
    return "striped" if float(coherence) > 0.5 else "dotted"
