"""Where a shape of each kind would best lie, and how badly it would fit.

Sees a cover only: no colours, no styles but whether shapes are outlines. Example:
``Fitter(outlined=False).fit(cover, sure).kind``.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from render import EXTENT, TABLE, Renderer
from spec import CANVAS, KINDS

from .pixels import box

RADII = [10.5, 13.0, 15.5, 18.0, 21.5, 25.0, 28.5]
RADIUS_LIMITS = (9.5, 30.0)
# From how many places of each kind the fine search starts.
STARTS = 2


@dataclass
class Fit:
    """The best placement of each kind: ``cost`` [8], ``misfit`` [8] (share of area), ``place`` [8, 3]
    as (x, y, radius), and the share of the best silhouette that is not hidden. ``outlines`` keeps
    signed distances [128, 128] by kind, once they were asked for."""

    cost: torch.Tensor
    misfit: torch.Tensor
    place: torch.Tensor
    visible: float = 1.0
    outlines: dict = field(default_factory=dict)

    @property
    def kind(self):
        return int(self.cost.argmin())


class Fitter:
    """Fits all kinds to a map of how much of each pixel a shape covers.

    A coarse search over all centres and seven radii by Fourier transforms at half resolution,
    then Gauss-Newton on (x, y, radius) at full resolution.
    """

    def __init__(self, outlined):
        self.outlined = outlined
        tables = Renderer().tables.reshape(len(KINDS), TABLE, TABLE)
        step = 2 * EXTENT / (TABLE - 1)
        down, right = torch.gradient(tables, spacing=step, dim=(1, 2))
        self.tables = torch.stack([tables, right, down], 1)
        # Kept, for gathering tables at each step would cost more than reading them.
        self.doubled = self.tables.repeat_interleave(STARTS, 0)
        self.pixel = torch.arange(CANVAS) + 0.5
        self.templates, self.squares = self.make_templates()

    def distance(self, kind, place):
        """Signed distances [128, 128] in pixels to a shape at a place [3]."""
        return self.distances(self.tables[kind : kind + 1], place[None])[0][0]

    def distances(self, tables, place, window=(0, 0, CANVAS, CANVAS)):
        """Signed distances [n, h, w] in pixels and their slopes [n, 3, h, w] in (x, y, radius), by tables [n, 3, 256, 256]."""
        left, top, right, bottom = window
        radius = place[:, 2, None, None]
        u = (self.pixel[None, None, left:right] - place[:, 0, None, None]) / radius
        v = (self.pixel[None, top:bottom, None] - place[:, 1, None, None]) / radius
        grid = torch.stack(torch.broadcast_tensors(u / EXTENT, v / EXTENT), -1)
        read = F.grid_sample(tables, grid, padding_mode="border", align_corners=True)
        unit, along_x, along_y = read.unbind(1)
        slopes = torch.stack([-along_x, -along_y, unit - u * along_x - v * along_y], 1)
        return unit * radius, slopes

    def profile(self, distance, edge):
        """Coverage for a distance, with an edge that many pixels wide, and its slope."""
        if self.outlined:
            raw = (1.4 + 0.5 * edge - distance.abs()) / edge
            slope = -distance.sign() / edge
        else:
            raw = 0.5 - distance / edge
            slope = torch.full_like(distance, -1.0 / edge)
        return raw.clamp(0, 1), slope * ((raw > 0) & (raw < 1))

    def make_templates(self):
        """The conjugate spectra [56, 64, 33] of each kind and radius, and of their squares."""
        kinds = torch.arange(len(KINDS)).repeat_interleave(len(RADII))
        radii = torch.tensor(RADII).repeat(len(KINDS))
        centre = torch.full_like(radii, CANVAS / 2)
        distance, _ = self.distances(self.tables[kinds], torch.stack([centre, centre, radii], 1))
        cover = F.avg_pool2d(self.profile(distance, 1.6)[0][:, None], 2)[:, 0]
        cover = torch.roll(cover, (-CANVAS // 4, -CANVAS // 4), (1, 2))
        return torch.fft.rfft2(cover).conj(), torch.fft.rfft2(cover * cover).conj()

    def coarse(self, amount, weight):
        """The best ``STARTS`` radii of every kind with their centres: places [n, 3], in order of kinds."""
        halve = lambda plane: F.avg_pool2d(plane[None, None], 2)[0, 0]
        target, weights = halve(amount * weight), halve(weight)
        spectrum = torch.fft.rfft2(weights) * self.squares - 2 * torch.fft.rfft2(target) * self.templates
        cost = torch.fft.irfft2(spectrum, s=(CANVAS // 2, CANVAS // 2)).flatten(1)
        least, at = cost.min(1)
        rank = least.reshape(len(KINDS), len(RADII)).topk(STARTS, dim=1, largest=False).indices
        flat = (rank + torch.arange(len(KINDS))[:, None] * len(RADII)).flatten()
        # A template's centre lies on the corner that four half-resolution pixels share.
        x, y = (at[flat] % (CANVAS // 2)) * 2.0, torch.div(at[flat], CANVAS // 2, rounding_mode="floor") * 2.0
        radii = torch.tensor(RADII)[rank.flatten()]
        return torch.stack([x, y, radii], 1)

    def step(self, tables, place, target, weights, window, edge):
        """One step of Gauss-Newton with edges that many pixels wide: the error [n, h, w] and new places."""
        distance, slopes = self.distances(tables, place, window)
        cover, slope = self.profile(distance, edge)
        error = cover - target
        jacobian = (slope[:, None] * slopes).flatten(2)
        weighted = jacobian * weights.flatten()
        square = weighted @ jacobian.transpose(1, 2) + 0.5 * torch.eye(3)
        move = torch.linalg.solve(square, (weighted @ error.flatten(1)[:, :, None])[:, :, 0])
        moved = place - move.clamp(-3, 3)
        moved[:, 2].clamp_(*RADIUS_LIMITS)
        return cover, error, moved

    def refine(self, place, target, weights, window):
        """From several places of each kind, in order of kinds, to the best one of each kind."""
        for edge in (4.0, 4.0, 3.0):
            _, error, moved = self.step(self.doubled, place, target, weights, window, edge)
            cost = (weights * error * error).sum((1, 2))
            place = moved
        place = place[cost.reshape(len(KINDS), STARTS).argmin(1) + torch.arange(len(KINDS)) * STARTS]
        best = Fit(torch.full((len(KINDS),), float("inf")), torch.ones(len(KINDS)), place)
        for _ in range(4):
            cover, error, moved = self.step(self.tables, place, target, weights, window, 1.6)
            cost = (weights * error * error).sum((1, 2))
            union = (weights * torch.maximum(cover, target)).sum((1, 2)).clamp(min=1)
            better = cost < best.cost
            best.misfit = torch.where(better, (weights * error.abs()).sum((1, 2)) / union, best.misfit)
            best.place = torch.where(better[:, None], place, best.place)
            best.cost = torch.where(better, cost, best.cost)
            place = moved
        return best

    def fit(self, amount, weight):
        """The best placement of each kind for coverage [h, w] in 0..1, weighted by [h, w]."""
        # What is hidden costs a trifle, so that nothing is imagined without need.
        weight = weight.clamp(min=0.005)
        left, top, right, bottom = box(amount > 0.3)
        window = (max(0, left - 20), max(0, top - 20), min(CANVAS, right + 20), min(CANVAS, bottom + 20))
        place = self.coarse(amount, weight)
        crop = (slice(window[1], window[3]), slice(window[0], window[2]))
        return self.refine(place, amount[crop], weight[crop], window)
