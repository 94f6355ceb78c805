"""Spoils scenes: what is drawn then is not what the caption asks, and the judge must see it.

Each function changes a scene in place and names the verdict's field that must turn false, or gives
None where the scene cannot be spoiled so. Example: ``wrong_kind(random.Random(1), scene)``.
"""

from layouts import apart, place_uniformly
from scenes import Shape, distance, stands_out
from spec import BACKGROUNDS, CANVAS, COLOURS, KINDS, MARGIN, PATTERNS, SHAPE_COLOURS, SPEC


def fresh_colour(rng, scene, not_colours=()):
    """A shape colour that is seen on the background and beside all shapes."""
    used = {shape.colour for shape in scene.shapes}
    fitting = [c for c in SHAPE_COLOURS if stands_out(c, scene.background) and c not in used and c not in not_colours]
    fitting = [c for c in fitting if all(distance(c, other) >= 100 for other in used)]
    return rng.choice(fitting) if fitting else None


def wrong_kind(rng, scene):
    shape = rng.choice(scene.shapes)
    shape.kind = rng.choice([kind for kind in KINDS if kind != shape.kind])
    return "shapes_right"


def wrong_colour(rng, scene):
    colour = fresh_colour(rng, scene)
    if colour is None:
        return None
    rng.choice(scene.shapes).colour = colour
    return "shapes_right"


def missing(rng, scene):
    if len(scene.shapes) < 2:
        return None
    del scene.shapes[rng.randrange(len(scene.shapes))]
    return "shapes_right"


def extra(rng, scene):
    """One more shape: often of a colour that is already there."""
    if len(scene.shapes) == 3:
        return None
    colour = rng.choice(scene.shapes).colour if rng.random() < 0.5 else fresh_colour(rng, scene)
    for _ in range(100):
        shape = Shape(rng.choice(KINDS), colour, rng.choice(["small", "medium"]), "plain")
        place_uniformly(rng, shape)
        if colour and all(apart(shape, other) for other in scene.shapes):
            scene.shapes.append(shape)
            return "shapes_right"
    return None


def exchanged_colours(rng, scene):
    if len({(s.kind, s.colour) for s in scene.shapes}) < 2:
        return None
    a, b = scene.shapes[0], scene.shapes[1]
    if a.kind == b.kind or a.colour == b.colour:
        return None
    a.colour, b.colour = b.colour, a.colour
    return "shapes_right"


def mirrored(rng, scene):
    directions = {relation for _, relation, _ in scene.relations} - {"inside", "overlapping"}
    if not directions:
        return None
    across = rng.choice(sorted(directions)) in ("left of", "right of")
    for shape in scene.shapes:
        if across:
            shape.x = CANVAS - shape.x
        else:
            shape.y = CANVAS - shape.y
    return "position_right"


def turned(rng, scene):
    """What should be beside is above, and so on."""
    if not {relation for _, relation, _ in scene.relations} - {"inside", "overlapping"}:
        return None
    for shape in scene.shapes:
        shape.x, shape.y = shape.y, shape.x
    return "position_right"


def taken_apart(rng, scene):
    """Inside and overlapping shapes lie side by side."""
    if not scene.relations or scene.relations[0][1] not in ("inside", "overlapping"):
        return None
    for _ in range(300):
        place_uniformly(rng, scene.shapes[0])
        if apart(scene.shapes[0], scene.shapes[1]):
            return "position_right"
    return None


def behind(rng, scene):
    """The shape that should overlap the other is behind it."""
    if not scene.relations or scene.relations[0][1] != "overlapping":
        return None
    scene.shapes.reverse()
    return "position_right"


def inside_for_overlapping(rng, scene):
    a, b = scene.shapes[0], scene.shapes[-1]
    if not scene.relations or scene.relations[0][1] != "overlapping" or b.kind not in SPEC["outer_kinds"]:
        return None
    a.size, b.size = "small", "large"
    low, high = MARGIN + b.radius, CANVAS - MARGIN - b.radius
    b.x, b.y = rng.uniform(low, high), rng.uniform(low, high)
    a.x, a.y = b.x, b.y
    return "position_right"


def wrong_background(rng, scene):
    background, used = scene.background, [shape.colour for shape in scene.shapes]
    for _ in range(100):
        which = rng.choice(["a", "b"] if background.b else ["a"])
        old = getattr(background, which)
        setattr(background, which, rng.choice([colour for colour in COLOURS if colour != old]))
        fits = not background.b or distance(background.a, background.b) >= SPEC["background_contrast"]
        if fits and all(stands_out(colour, background) for colour in used):
            return "background_right"
        setattr(background, which, old)
    return None


def wrong_form(rng, scene):
    background, used = scene.background, [shape.colour for shape in scene.shapes]
    for _ in range(200):
        b = background.b or rng.choice(COLOURS)
        form = rng.choice([form for form in BACKGROUNDS if form != background.form])
        changed = type(background)(form, background.a, "" if form == "plain" else b)
        if form != "plain" and distance(background.a, b) < SPEC["background_contrast"]:
            continue
        if all(stands_out(colour, changed) for colour in used):
            scene.background = changed
            return "background_right"
    return None


def reversed_background(rng, scene):
    background = scene.background
    background.a, background.b = background.b, background.a
    return "background_right" if background.a else None


def wrong_size(rng, scene):
    """Only where nothing else is changed by it: shapes apart, one size further."""
    if any(relation in ("inside", "overlapping") for _, relation, _ in scene.relations):
        return None
    shape = rng.choice(scene.shapes)
    shape.size = {"small": "medium", "medium": "small", "large": "medium"}[shape.size]
    return "sizes_right"


def wrong_pattern(rng, scene):
    shape = rng.choice(scene.shapes)
    shape.pattern = rng.choice([pattern for pattern in PATTERNS if pattern != shape.pattern])
    hidden = any(relation in ("inside", "overlapping") for _, relation, _ in scene.relations)
    return None if hidden else "patterns_right"


WRONGS = [
    wrong_kind,
    wrong_colour,
    missing,
    extra,
    exchanged_colours,
    mirrored,
    turned,
    taken_apart,
    behind,
    inside_for_overlapping,
    wrong_background,
    wrong_form,
    reversed_background,
    wrong_size,
    wrong_pattern,
]
