"""Scenes of shapes and the captions that describe them, after spec.json.

A scene says what a caption says (kinds, colours, sizes, patterns, relations, background) and
where the shapes lie. ``sample(random.Random(7))`` draws one from the training distribution;
``sample(rng, held_out=True)`` draws one that shows a combination never trained on.
"""

import random
from dataclasses import dataclass, field

from layouts import compose
from spec import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    GRAMMAR,
    HELD_PAIRS,
    HELD_TRIPLES,
    KINDS,
    OPPOSITE,
    PATTERNS,
    RGB,
    SHAPE_COLOURS,
    SIZES,
    SPEC,
)


@dataclass
class Shape:
    """One shape: names as in spec.json, radius and centre in pixels (y down)."""

    kind: str
    colour: str
    size: str
    pattern: str
    x: float = 0.0
    y: float = 0.0

    @property
    def radius(self):
        return SPEC["sizes"][self.size]


@dataclass
class Background:
    """``form`` is a key of the grammar's backgrounds; ``b`` is empty for a plain one."""

    form: str
    a: str
    b: str = ""
    said: bool = True


@dataclass
class Scene:
    """``relations`` hold triples (index, relation, index); shapes are drawn in the order of ``order``."""

    shapes: list
    relations: list
    background: Background
    layout: str
    caption: str = ""
    # For each axis, the share of pictures that are moved like this one: see layouts.move.
    share: tuple = field(default=((0.0, 1.0), (0.0, 1.0)), compare=False)

    @property
    def order(self):
        """The first shape is the one inside of or in front of the others, so it is drawn last."""
        return list(reversed(range(len(self.shapes))))


def distance(a, b):
    """Euclidean distance of two colours by name, in RGB of 0 to 255."""
    return sum((p - q) ** 2 for p, q in zip(RGB[a], RGB[b])) ** 0.5


def distance_to_mix(colour, a, b):
    """The least distance of a colour to any mix of two others."""
    p, q, r = RGB[a], RGB[b], RGB[colour]
    span = [v - u for u, v in zip(p, q)]
    length = sum(s * s for s in span) or 1.0
    along = sum((w - u) * s for u, w, s in zip(p, r, span)) / length
    along = min(1.0, max(0.0, along))
    return sum((u + along * s - w) ** 2 for u, s, w in zip(p, span, r)) ** 0.5


def stands_out(colour, background):
    """Whether a shape of this colour is seen on this background."""
    if background.form.startswith("gradient"):
        return distance_to_mix(colour, background.a, background.b) >= SPEC["background_contrast"]
    sides = [background.a] + ([background.b] if background.b else [])
    return all(distance(colour, side) >= SPEC["background_contrast"] for side in sides)


def default_background(colours):
    """The background of a caption that names none."""
    rule = SPEC["default_background"]
    name = rule["plain_if_a_shape_is_white"] if "white" in colours else rule["plain"]
    return Background("plain", name, said=False)


def sample_background(rng, shapes):
    """A background on which every given shape stands out."""
    colours = [shape.colour for shape in shapes]
    default = default_background(colours)
    if rng.random() < 0.3:
        return default
    while True:
        form = rng.choices(BACKGROUNDS, [5, 1, 1, 1.4, 0.8])[0]
        a, b = rng.sample(COLOURS, 2)
        background = Background(form, a, "" if form == "plain" else b)
        if background.b and distance(a, b) < SPEC["background_contrast"]:
            continue
        if any(shape.pattern != "plain" and "gray" in (background.a, background.b) for shape in shapes):
            continue  # The shade of a white or pink shape is nearly gray.
        if all(stands_out(colour, background) for colour in colours):
            return background


def sample_shape(rng, crowd):
    """A shape; large ones are rarer in a crowd of three."""
    pattern = rng.choices(PATTERNS, list(SPEC["patterns"].values()))[0]
    size = rng.choices(SIZES, [0.3, 0.45, 0.25 if crowd < 3 else 0.1])[0]
    return Shape(rng.choice(KINDS), rng.choice(SHAPE_COLOURS), size, pattern)


def sample_layout(rng):
    """A layout's name and its relations among shapes 0, 1 and 2."""
    count = rng.choices([1, 2, 3], [0.25, 0.45, 0.3])[0]
    if count == 1:
        return 1, "one", []
    if count == 2:
        if rng.random() < 0.15:
            return 2, "two_without_relation", []
        relation = rng.choice(list(SPEC["relations"]))
        return 2, "two", [(0, relation, 1)]
    layout = rng.choices(["three", "row", "column", "three_without_relation"], [0.45, 0.2, 0.2, 0.15])[0]
    if layout == "row":
        return 3, layout, [(0, "left of", 1), (1, "left of", 2)]
    if layout == "column":
        return 3, layout, [(0, "above", 1), (1, "above", 2)]
    if layout == "three":
        return 3, layout, [(0, rng.choice(DIRECTIONS), 1), (0, rng.choice(DIRECTIONS), 2)]
    return 3, layout, []


def fit_relation(shapes, relations):
    """Sizes, and outer kinds, that a relation asks for. False where the shapes cannot be told apart."""
    for first, relation, second in relations:
        if relation == "inside":
            shapes[first].size = SPEC["sizes_when_inside"]["inner"]
            shapes[second].size = SPEC["sizes_when_inside"]["outer"]
            if shapes[second].kind not in SPEC["outer_kinds"]:
                return False
        if relation in ("inside", "overlapping") and distance(shapes[first].colour, shapes[second].colour) < 100:
            return False
    return len({(shape.kind, shape.colour) for shape in shapes}) == len(shapes)


def combinations(scene):
    """The held-out combinations that a scene shows."""
    pairs = {(shape.colour, shape.kind) for shape in scene.shapes} & HELD_PAIRS
    triples = set()
    for first, relation, second in scene.relations:
        a, b = scene.shapes[first].kind, scene.shapes[second].kind
        triples.add((a, relation, b))
        if relation in OPPOSITE:
            triples.add((b, OPPOSITE[relation], a))
    return pairs | (triples & HELD_TRIPLES)


def describe_shape(rng, shape, may_trail):
    """A noun phrase with its article. ``may_trail``: "with stripes" may follow the noun."""
    size = rng.choice(SPEC["size_words"][shape.size])
    forms = GRAMMAR["shape"][: 3 if may_trail and shape.pattern != "plain" else 2]
    colour = rng.choice(SPEC["colour_words"].get(shape.colour, [shape.colour]))
    phrase = rng.choice(forms).format(
        size=size,
        colour=colour,
        kind=shape.kind,
        pattern=rng.choice(GRAMMAR["pattern_words"][shape.pattern]),
        **{"with": GRAMMAR["pattern_with"].get(shape.pattern, "")},
    )
    phrase = " ".join(phrase.split())
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def describe_background(rng, background):
    if not background.said:
        return ""
    word = lambda name: rng.choice(SPEC["colour_words"].get(name, [name])) if name else ""
    text = rng.choice(GRAMMAR["backgrounds"][background.form])
    text = text.format(a=word(background.a), b=word(background.b))
    return text.replace(" a orange", " an orange")


def pick(rng, choices):
    return choices if isinstance(choices, str) else rng.choice(choices)


def describe(rng, scene):
    """One of the many captions of a scene."""
    last = len(scene.shapes) - 1
    phrases = [describe_shape(rng, shape, may_trail=index == last) for index, shape in enumerate(scene.shapes)]
    words = [rng.choice(SPEC["relations"][relation]) for _, relation, _ in scene.relations] + ["", ""]
    content = pick(rng, GRAMMAR[scene.layout]).format(*phrases, relation=words[0], relation2=words[1])
    opening = "" if content.startswith("from") else rng.choice(GRAMMAR["opening"])
    caption = opening + content + describe_background(rng, scene.background) + rng.choice(GRAMMAR["end"])
    if rng.random() < GRAMMAR["first_letter_upper"]:
        caption = caption[0].upper() + caption[1:]
    return caption


def sample(rng, held_out=False, place=compose):
    """A placed scene with its caption: held-out combinations are all absent, or at least one is present.

    ``place`` is ``compose``, as the model is trained, or ``scatter``.
    """
    count, layout, relations = sample_layout(rng)
    while True:
        shapes = [sample_shape(rng, count) for _ in range(count)]
        if held_out:
            plant(rng, shapes, relations)
        if not fit_relation(shapes, relations):
            continue
        scene = Scene(shapes, relations, None, layout)
        if bool(combinations(scene)) != held_out:
            continue
        scene.background = sample_background(rng, shapes)
        if place(rng, scene):
            scene.caption = describe(rng, scene)
            return scene


def plant(rng, shapes, relations):
    """Puts a held-out combination into a scene."""
    fitting = [triple for triple in HELD_TRIPLES if relations and triple[1] == relations[0][1]]
    if fitting and rng.random() < 0.5:
        first, _, second = relations[0]
        shapes[first].kind, _, shapes[second].kind = rng.choice(sorted(fitting))
    else:
        shape = rng.choice(shapes)
        shape.colour, shape.kind = rng.choice(sorted(HELD_PAIRS))


def held_out_scenes(count, seed):
    """Held-out scenes with distinct captions."""
    rng, scenes, seen = random.Random(seed), [], set()
    while len(scenes) < count:
        scene = sample(rng, held_out=True)
        if scene.caption not in seen:
            seen.add(scene.caption)
            scenes.append(scene)
    return scenes


def to_row(scene):
    """The numbers that the renderer needs: for each of three shapes in drawing order
    (kind, colour, radius, x, y, pattern), kind -1 where there is none, then (form, a, b); the shares
    of both axes follow."""
    row = []
    for index in scene.order:
        shape = scene.shapes[index]
        row += [
            KINDS.index(shape.kind),
            COLOURS.index(shape.colour),
            shape.radius,
            shape.x,
            shape.y,
            PATTERNS.index(shape.pattern),
        ]
    row += [-1.0, 0, 1, 0, 0, 0] * (3 - len(scene.shapes))
    background = scene.background
    b = background.b or background.a
    row += [BACKGROUNDS.index(background.form), COLOURS.index(background.a), COLOURS.index(b)]
    return row + [bound for share in scene.share for bound in share]


if __name__ == "__main__":
    import sys
    import time

    rng = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    for _ in range(30):
        print(sample(rng).caption)
    start = time.time()
    captions = [sample(rng).caption for _ in range(3000)]
    print(f"{(time.time() - start) / 3000 * 1e6:.0f} µs a scene, {len(set(captions))} distinct captions of 3000")
