"""Where the shapes of a scene lie, after spec.json's ``places``.

``compose`` gives each composition one place on the canvas, then moves all of it to one of two sides
of that place along each axis: a caption leaves so little open that a small model can learn it.
``scatter`` gives any placement in which the relations hold; the judge is tested on those too.
"""

import math

from spec import CANVAS, GAP, GRID, MARGIN, OPPOSITE, SPEC

PLACES = SPEC["places"]
MIDDLE = CANVAS // 2


def apart(a, b):
    """Whether the boxes of two shapes leave a gap."""
    reach = a.radius + b.radius + GAP
    return abs(a.x - b.x) >= reach or abs(a.y - b.y) >= reach


def holds(a, relation, b):
    """Whether two placed shapes stand in a relation, as the sampler means it."""
    right, down = b.x - a.x, b.y - a.y
    reach = a.radius + b.radius + GAP
    if relation == "left of":
        return right >= reach and abs(down) <= 0.6 * right
    if relation == "above":
        return down >= reach and abs(right) <= 0.6 * down
    if relation in ("right of", "below"):
        return holds(b, OPPOSITE[relation], a)
    between = math.hypot(right, down)
    nearest, farthest = (0.0, 0.0) if relation == "inside" else overlap_distances(a, b)
    return nearest <= between <= farthest


def overlap_distances(front, behind):
    """Between which distances of centres one shape covers a part of another, but never most of it."""
    both = front.radius + behind.radius
    nearest = max(0.4 * both, front.radius - 0.1 * behind.radius)
    return nearest, max(0.65 * both, nearest + 4.0)


def span(shape):
    """The least and the greatest coordinate of a shape's centre."""
    return MARGIN + shape.radius, CANVAS - MARGIN - shape.radius


def inside_canvas(shape):
    low, high = span(shape)
    return low <= shape.x <= high and low <= shape.y <= high


# --- one place for each composition -------------------------------------------------------------


def along_row(shapes):
    """Coordinates of three shapes in a row, in their order; None if they do not fit."""
    large = [index for index, shape in enumerate(shapes) if shape.size == "large"]
    if not large:
        return PLACES["row"]
    if len(large) == 1 and all(shape.size == "small" for index, shape in enumerate(shapes) if index != large[0]):
        return PLACES["row_with_a_large"][large[0]]
    return None


def put_row(shapes, horizontal):
    coordinates = along_row(shapes)
    for shape, along in zip(shapes, coordinates or ()):
        shape.x, shape.y = (along, MIDDLE) if horizontal else (MIDDLE, along)
    return coordinates is not None


def put_pair(a, relation, b):
    """Two shapes on either side of the middle, one inside or in front of the other."""
    first, second = PLACES["pair"]
    if relation == "inside":
        a.x = a.y = b.x = b.y = MIDDLE
    elif relation == "overlapping":
        b.x = b.y = PLACES["behind"]
        a.x = a.y = b.x + round(sum(overlap_distances(a, b)) / 2 / math.sqrt(2))
    elif relation in ("left of", "above"):
        (a.x, a.y), (b.x, b.y) = ((first, MIDDLE), (second, MIDDLE)) if relation == "left of" else ((MIDDLE, first), (MIDDLE, second))
    else:
        return put_pair(b, OPPOSITE[relation], a)
    return True


def put_three(a, relation, b, relation2, c):
    """Three shapes by the relations of the first to the others: a row, a corner, or one beside two."""
    sideways = [word in ("left of", "right of") for word in (relation, relation2)]
    if relation2 == OPPOSITE[relation]:
        ahead = relation in ("left of", "above")
        return put_row([c, a, b] if ahead else [b, a, c], sideways[0])
    first, second = PLACES["pair"]
    own = {"left of": first, "above": first, "right of": second, "below": second}
    other = {word: PLACES["pair"][1 - PLACES["pair"].index(place)] for word, place in own.items()}
    if relation == relation2:
        for shape, along, across in ((a, own[relation], MIDDLE), (b, other[relation], first), (c, other[relation], second)):
            shape.x, shape.y = (along, across) if sideways[0] else (across, along)
        return True
    horizontal, vertical = (relation, relation2) if sideways[0] else (relation2, relation)
    beside, beyond = (b, c) if sideways[0] else (c, b)
    a.x, a.y = own[horizontal], own[vertical]
    beside.x, beside.y = other[horizontal], a.y
    beyond.x, beyond.y = a.x, other[vertical]
    return True


def compose(rng, scene):
    """Gives a scene its place; False if its shapes do not fit."""
    shapes, layout = scene.shapes, scene.layout
    if layout == "one":
        shapes[0].x = shapes[0].y = MIDDLE
        fits = True
    elif len(shapes) == 2:
        relation = scene.relations[0][1] if scene.relations else "left of"
        fits = put_pair(shapes[0], relation, shapes[1])
    elif layout == "three":
        fits = put_three(shapes[0], scene.relations[0][1], shapes[1], scene.relations[1][1], shapes[2])
    else:
        fits = put_row(shapes, layout != "column")
    if fits:
        scene.share = tuple(move(rng, shapes, axis) for axis in ("x", "y"))
    return fits


def move(rng, shapes, axis):
    """Moves all shapes together along an axis, if the canvas allows.

    The result is the share of all pictures in 0..1, as (from, to), that is moved like this one.
    """
    spans = [(getattr(shape, axis), *span(shape)) for shape in shapes]
    fitting = [move for move in PLACES["moves"] if all(low <= at + move <= high for at, low, high in spans)] or [0]
    chosen = rng.randrange(len(fitting))
    for shape in shapes:
        setattr(shape, axis, getattr(shape, axis) + fitting[chosen])
    return chosen / len(fitting), (chosen + 1) / len(fitting)


# --- any placement ------------------------------------------------------------------------------


def snap(value):
    """Centres lie on a grid of the autoencoder's cell."""
    return GRID * round(value / GRID)


def place_uniformly(rng, shape):
    low, high = span(shape)
    shape.x, shape.y = snap(rng.uniform(low, high)), snap(rng.uniform(low, high))
    return inside_canvas(shape)


def place_related(rng, a, relation, b):
    """Places ``b`` so that ``a`` stands in the relation to it; False where the canvas leaves no room."""
    low, high = span(b)
    if relation == "inside":
        b.x, b.y = a.x, a.y
    elif relation == "overlapping":
        between, turn = rng.uniform(*overlap_distances(a, b)), rng.uniform(0, 2 * math.pi)
        b.x, b.y = a.x + between * math.cos(turn), a.y + between * math.sin(turn)
    else:
        sign = 1 if relation in ("left of", "above") else -1
        sideways = relation in ("left of", "right of")
        along, across = (a.x, a.y) if sideways else (a.y, a.x)
        room = high - along if sign > 0 else along - low
        reach = a.radius + b.radius + GAP
        if room < reach:
            return False
        step = rng.uniform(reach, room)
        along, across = along + sign * step, across + rng.uniform(-0.6, 0.6) * step
        b.x, b.y = (along, across) if sideways else (across, along)
    b.x, b.y = snap(b.x), snap(b.y)
    return inside_canvas(b) and holds(a, relation, b)


def scatter(rng, scene, attempts=60):
    """Centres that fulfil all relations; False if none were found."""
    shapes = scene.shapes
    anchors = {second: (first, relation) for first, relation, second in scene.relations}
    related = {frozenset((first, second)) for first, _, second in scene.relations}
    pairs = [(i, j) for i in range(len(shapes)) for j in range(i) if frozenset((i, j)) not in related]
    for _ in range(attempts):
        for index, shape in enumerate(shapes):
            first, relation = anchors.get(index, (None, None))
            if not (place_related(rng, shapes[first], relation, shape) if relation else place_uniformly(rng, shape)):
                break
        else:
            if all(apart(shapes[i], shapes[j]) for i, j in pairs):
                return True
    return False
