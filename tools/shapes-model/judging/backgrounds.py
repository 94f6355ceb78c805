"""The background: plain, halved or graded, and of which colours.

Fitted to the frame first, then to all pixels that agree. Example:
``read_background(make_style("plain"), as_planes(picture), scene.background)``.
"""

import torch

from spec import BACKGROUNDS, CANVAS, COLOURS, RGB

from .pixels import FRAME, colour_distance

BACKGROUND_TOLERANCE = 45.0
ALL_RGB = torch.tensor([RGB[name] for name in COLOURS], dtype=torch.float32)


def mixes():
    """For each form, how much of colour b a pixel [h, w] shows."""
    along = torch.arange(CANVAS, dtype=torch.float32)
    result = []
    for form in BACKGROUNDS:
        ramp = torch.zeros(CANVAS)
        if form.startswith("halves"):
            ramp = (along + 1 - CANVAS / 2).clamp(0, 1)
        elif form.startswith("gradient"):
            ramp = along / (CANVAS - 1)
        line = ramp[None, :] if form.endswith("left") else ramp[:, None]
        result.append(line.expand(CANVAS, CANVAS).contiguous())
    return torch.stack(result)


MIXES = mixes()


def fit_mix(picture, mix, weights):
    """Colours (a, b) of least squares for picture = a (1 - mix) + b mix."""
    basis = torch.stack([1 - mix, mix])[:, weights > 0]
    values, weight = picture[:, weights > 0], weights[weights > 0]
    left = (basis * weight) @ basis.T + 1e-3 * torch.eye(2)
    return torch.linalg.solve(left, (basis * weight) @ values.T)


def blend(colours, mix):
    """The picture [3, h, w] of two colours [2, 3] and how much of the second each pixel shows."""
    return colours[0][:, None, None] * (1 - mix) + colours[1][:, None, None] * mix


def fit_background(picture):
    """The best (form, a, b) for a picture [3, h, w], its colours [2, 3], its picture, its misfit in levels."""
    best = None
    sample = picture[:, ::2, ::2].contiguous()
    for index, form in enumerate(BACKGROUNDS):
        mix, weights = MIXES[index, ::2, ::2], FRAME[::2, ::2].float()
        for _ in range(4):
            colours = fit_mix(sample, mix, weights)
            away = colour_distance(sample, blend(colours, mix))
            weights = 1.0 / (1.0 + (away / 25.0) ** 4) + 1e-4
        # A richer form must earn itself: on a plain background all forms fit alike.
        misfit = float(away.clamp(max=80).mean()) + (0.0 if form == "plain" else 1.0)
        if best is None or misfit < best[0]:
            colours = colours if form != "plain" else colours[:1].expand(2, 3)
            best = (misfit, form, colours)
    misfit, form, colours = best
    ground = blend(colours, MIXES[BACKGROUNDS.index(form)])
    names = [COLOURS[int((ALL_RGB - colour).square().sum(1).sqrt().argmin())] for colour in colours]
    return {"form": form, "a": names[0], "b": "" if form == "plain" else names[1], "misfit": misfit}, colours, ground


def background_right(found, colours, picture, ground, asked):
    """Whether form and colours are the asked ones and nearly all of the frame shows them."""
    if found["form"] != asked.form or found["a"] != asked.a or found["b"] != asked.b:
        return False
    wanted = torch.tensor([RGB[asked.a], RGB[asked.b or asked.a]], dtype=torch.float32)
    near = (colours - wanted).square().sum(1).sqrt().max() <= BACKGROUND_TOLERANCE
    return bool(near) and bool((colour_distance(picture, ground)[FRAME] < 50).float().mean() > 0.9)


def read_background(style, pixels, asked):
    """What the background is, as a dict, its picture [3, h, w], and whether it is the asked one.
    Styles with a ground of their own have it whatever was asked."""
    if style.ground is None:
        found, colours, ground = fit_background(pixels)
        return found, ground, background_right(found, colours, pixels, ground, asked)
    frame = pixels[:, FRAME]
    colour = frame.median(1).values
    ground = colour[:, None, None].expand_as(pixels)
    even = (colour_distance(frame, colour[:, None]) < 40).float().mean() > 0.9
    right = (colour - style.ground).norm() < 30 and even
    return {"form": style.name, "colour": colour.tolist()}, ground, bool(right)
