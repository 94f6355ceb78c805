"""Tests of the judge: it accepts true pictures, also worn ones, and refuses wrong ones.

Deterministic; prints its tables. ``python test_judge.py`` runs all (some minutes on one core),
``python test_judge.py wrong 100`` one test by its name, with fewer pictures.
"""

import copy
import json
import random
import sys
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F

from judge import Judge, board_distance, glow, scene_from_json, scene_to_json, share, style_changed, table
from layouts import compose, scatter
from render import Renderer
from scenes import sample, to_row
from spec import CANVAS, KINDS
from spoil import WRONGS, wrong_form, wrong_pattern

RENDERER = Renderer()


def draw(scene, style="plain", seed=0, worn=False):
    """A picture of a scene, uint8 [128, 128, 3]; worn: blurred, off in colour and noisy."""
    generator = torch.Generator().manual_seed(seed)
    picture = RENDERER(torch.tensor([to_row(scene)]), style, generator)
    if worn:
        picture = wear(picture, generator)
    return ((picture[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def wear(picture, generator, sigma=0.7, shift=12, noise=4):
    """Gaussian blur in pixels, an offset per channel and noise, both in levels of 255."""
    kernel = torch.exp(-(torch.arange(-3, 4).float() ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    picture = F.pad(picture, (3, 3, 3, 3), mode="replicate")
    picture = F.conv2d(picture, kernel[None, None, None].expand(3, 1, 1, 7), groups=3)
    picture = F.conv2d(picture, kernel[None, None, :, None].expand(3, 1, 7, 1), groups=3)
    offset = (torch.rand(1, 3, 1, 1, generator=generator) * 2 - 1) * shift
    return picture + (offset + noise * torch.randn(picture.shape, generator=generator)) / 127.5


def scenes(count, seed):
    """Scenes as trained and placed at will; every second one shows a held-out combination."""
    rng = random.Random(seed)
    return [sample(rng, index % 2 == 1, (compose, scatter)[index // 2 % 2]) for index in range(count)]


def explain(scene, verdict, why):
    places = [(s.kind, s.colour, s.size, s.pattern, round(s.x), round(s.y)) for s in scene.shapes]
    print(f"  {why}: {scene.caption} {places} {scene.background}")
    for found in verdict.details["found"]:
        print(f"      {found}")
    print(f"      {verdict.details['background']} unexplained {verdict.details['unexplained_pixels']}")


def truth(style, worn, count, floors):
    """Judges true pictures; floors in percent for shapes, position, background, sizes, patterns."""
    judge, verdicts = Judge(style), []
    columns = ["shapes_right", "position_right", "background_right", "sizes_right", "patterns_right"]
    for index, scene in enumerate(scenes(count, 77)):
        verdict = judge.judge(draw(scene, style, index, worn), scene)
        verdicts.append(verdict)
        failed = [column for column in columns if getattr(verdict, column) is False]
        if failed:
            explain(scene, verdict, f"{style}{' worn' if worn else ''} {index} not {failed}")
    print(f"\n{style}{', worn' if worn else ''}\n{table(verdicts)}\n", flush=True)
    for column, floor in zip(columns, floors):
        values = [getattr(verdict, column) for verdict in verdicts]
        values = [value for value in values if value is not None]
        assert 100 * sum(values) / len(values) >= floor, f"{style} {column}: expected {floor} %, found {share(values)}"


def test_truth(count):
    truth("plain", False, count, [99, 99, 99, 99, 98])


def test_worn(count):
    truth("plain", True, count, [98, 98, 98, 98, 96])


def test_neon(count):
    truth("neon", False, count, [97, 97, 97, 97, 95])


def test_chalk(count):
    truth("chalk", False, count, [97, 97, 97, 97, 97])


# --- wrong pictures ---------------------------------------------------------------------------


def differ(a, b):
    """Whether two pictures differ to the eye: in a dozen pixels by 40 levels."""
    return (np.abs(a.astype(int) - b.astype(int)).max(2) > 40).sum() >= 12


def refused(spoil, style, worn, count, seed):
    """How many of count spoiled pictures are refused."""
    rng, judge, right, done = random.Random(seed), Judge(style), 0, 0
    while done < count:
        scene = sample(rng, rng.random() < 0.5, rng.choice((compose, scatter)))
        drawn = copy.deepcopy(scene)
        column = spoil(rng, drawn)
        if column is None or (column == "background_right" and style != "plain"):
            continue
        if column == "position_right" and scene.layout == "two_without_relation":
            continue
        picture = draw(drawn, style, done, worn)
        if style == "plain" and not differ(draw(scene), draw(drawn)):
            continue
        verdict = judge.judge(picture, scene)
        done += 1
        if getattr(verdict, column):
            explain(scene, verdict, f"{style} {spoil.__name__} {done - 1} passed as {column}, drawn {drawn.shapes}")
        else:
            right += 1
    return right


def test_wrong(count, style="plain", worn=False, floor=0.99):
    count = max(10, count // 8)
    total = 0
    print(f"\n| wrong pictures, {style}{', worn' if worn else ''} | refused of {count} |\n|---|---|")
    spoils = [spoil for spoil in WRONGS if style == "plain" or "background" not in spoil.__name__ and spoil is not wrong_form]
    if style == "chalk":
        spoils.remove(wrong_pattern)
    for index, spoil in enumerate(spoils):
        right = refused(spoil, style, worn, count, 1000 + index)
        print(f"| {spoil.__name__} | {right} |", flush=True)
        total += right
    refusals = total / (count * len(spoils))
    print(f"| all | {100 * refusals:.2f} % |", flush=True)
    assert refusals >= floor, f"wrong pictures refused, {style}: expected {floor}, found {refusals}"


def test_wrong_worn(count):
    test_wrong(count // 2, worn=True, floor=0.985)


def test_wrong_neon(count):
    test_wrong(count // 2, "neon", floor=0.97)


def test_wrong_chalk(count):
    test_wrong(count // 2, "chalk", floor=0.97)


def test_kinds(count, worn=False):
    """Every ordered pair of kinds: one is asked and the other drawn. None may pass; prints what was seen."""
    judge, rng, each = Judge(), random.Random(5), max(2, count // 50)
    confusion, passed = Counter(), 0
    for asked in KINDS:
        for drawn in KINDS:
            for _ in range(each):
                scene = sample(rng)
                scene.shapes = scene.shapes[:1]
                scene.relations, scene.layout = [], "one"
                scene.shapes[0].kind = drawn
                picture = draw(scene, worn=worn, seed=rng.randrange(10**6))
                scene.shapes[0].kind = asked
                verdict = judge.judge(picture, scene)
                found = verdict.details["found"]
                confusion[drawn, found[0]["kind"] if len(found) == 1 else "none"] += 1
                passed += verdict.shapes_right != (asked == drawn)
    print(f"\n| drawn{' worn' if worn else ''} | " + " | ".join(KINDS + ["none"]) + " |\n" + "|---" * (len(KINDS) + 2) + "|")
    for drawn in KINDS:
        print(f"| {drawn} | " + " | ".join(str(confusion[drawn, kind]) for kind in KINDS + ["none"]) + " |")
    total = each * len(KINDS) ** 2
    print(f"{passed} of {total} judged wrongly", flush=True)
    assert passed <= 0.01 * total, f"ordered pairs of kinds: {passed} of {total} judged wrongly"


def test_kinds_worn(count):
    test_kinds(count, worn=True)


def test_properties(count):
    """Each style's property tells its pictures from plain ones of the same scene, worn alike."""
    count = max(20, count // 2)
    for style in ("neon", "chalk"):
        changed, unchanged, befores, afters = 0, 0, [], []
        for index, scene in enumerate(scenes(count, 9)):
            plain, again = draw(scene, "plain", index, True), draw(scene, "plain", index + 1, True)
            yes, before, after = style_changed(style, scene, plain, draw(scene, style, index, True))
            changed += yes
            # A LoRA that does nothing leaves a plain picture.
            unchanged += not style_changed(style, scene, plain, again)[0]
            befores.append(before)
            afters.append(after)
            if not yes:
                print(f"  {style} property not changed: {scene.caption} {before:.3f} {after:.3f}")
        print(
            f"\n{style}: changed {changed} of {count}, unchanged by wear {unchanged}; "
            f"before at most {max(befores):.3f} least {min(befores):.3f}, after {min(afters):.3f} to {max(afters):.3f}",
            flush=True,
        )
        assert changed >= 0.99 * count and unchanged >= 0.99 * count, f"property of {style}"


def test_empty(count):
    """A picture of nothing, of noise, or of the wrong size is refused, not a crash."""
    judge = Judge()
    scene = scenes(1, 3)[0]
    noise = np.random.default_rng(0).integers(0, 256, (CANVAS, CANVAS, 3)).astype(np.uint8)
    for picture in (np.zeros((CANVAS, CANVAS, 3), np.uint8), np.full((CANVAS, CANVAS, 3), 250, np.uint8), noise):
        assert not judge.judge(picture, scene).shapes_right
    try:
        judge.judge(np.zeros((64, 64, 3), np.uint8), scene)
    except ValueError:
        return
    raise AssertionError("a picture of the wrong size was judged")


def hostile_pictures(rng, base):
    """What a badly trained model may draw: noise, blurred blobs, one colour, and a picture with random patches."""
    shape = (3, CANVAS, CANVAS)
    noise = torch.from_numpy(rng.uniform(-1, 1, shape)).float()[None]
    blobs = F.interpolate(noise[..., :: rng.integers(6, 16), :: rng.integers(6, 16)], shape[1:], mode="bicubic")
    dim = blobs * rng.uniform(0.1, 1) + torch.from_numpy(rng.uniform(-1, 1, (1, 3, 1, 1))).float()
    flat = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 1, 1))).float().expand(1, *shape)
    patched = torch.from_numpy(base.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    for _ in range(4):
        (left, top), (right, bottom) = (corner := rng.integers(0, CANVAS - 8, 2)), corner + rng.integers(4, 60, 2)
        source = (noise, blobs, dim, flat)[rng.integers(4)]
        patched[..., top:bottom, left:right] = source[..., top:bottom, left:right]
    for picture in (noise, blobs, dim, flat, patched):
        yield ((picture[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def test_smears_that_are_nowhere_paint_do_not_crash(count):
    """A group that covers no pixel has no shape to fit: once a crash on a badly trained model's pictures."""
    rng = np.random.default_rng(7)
    for index, scene in enumerate(scenes(max(6, count // 20), 13)):
        style = ("plain", "neon", "chalk")[index % 3]
        for picture in hostile_pictures(rng, draw(scene, style, index, True)):
            verdict = Judge(style).judge(picture, scene)
            json.dumps(verdict.details, allow_nan=False)
            assert np.isfinite(glow(picture, scene)) and np.isfinite(board_distance(picture, scene))


def test_json(count):
    for scene in scenes(20, 5):
        assert scene_from_json(json.loads(json.dumps(scene_to_json(scene)))) == scene


def main():
    torch.set_num_threads(1)
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    names = [name for name in sys.argv[1:] if name in tests] or list(tests)
    counts = [int(word) for word in sys.argv[1:] if word.isdigit()]
    failed = []
    for name in names:
        try:
            tests[name](counts[0] if counts else 400)
        except AssertionError as error:
            failed.append(f"{name}: {error}")
    print("\n".join(failed) or "all passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
