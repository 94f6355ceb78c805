"""The training steps, each bounded by a time and resumable from what the one before left.

    python train.py vae    OUT --minutes 3
    python train.py text   OUT --minutes 0.5
    python train.py base   OUT --minutes 8
    python train.py guide  OUT --minutes 2.5
    python train.py lora   OUT --style neon --minutes 2

``text`` teaches the text encoders to read: what is said of each noun (``reading.py``).
``base`` learns the rectified flow from captions to pictures, all parts together, dropping one caption
in ten. Noise and pictures are coupled: the noise decides to which side a composition is moved.
``guide`` lets that teacher draw with classifier-free guidance of a random strength, and teaches
the model those very noise-picture pairs with the strength as its input: guidance is distilled, and
the paths from noise to picture become straight, so that few steps suffice. From here on weights are
rounded as they will be stored.
``lora`` learns a style by low-rank changes of the transformer. Each step reads and writes f32
safetensors in OUT; starting again from averaged weights needs no optimizer state.
"""

import argparse
import copy
import json
import random
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

import lora as lora_files
from data import Tokenizers, build_scenes, encode
from model import Flow, couple, flow_parts, generate, load_parts, new_vae, save_parts, unpack
from optimizer import ADAM_RATE, MUON_RATE, WARM_UP, Average, Captured, Optimizer
from reading import Reader, kind_tokens
from render import Renderer, sheet
from rounding import FEW_BITS, Rounded
from scenes import held_out_scenes, to_row
from spec import BACKGROUNDS, CANVAS

STYLES = ("plain", "neon", "chalk")
CROP, CROPPED = 64, 0.65
LATENT_NOISE = 0.1
# Single shapes first: between these parts of the time, scenes of two and three come in.
WIDENING = (0.08, 0.3)
DROPPED = 0.1
GUIDANCE = (1.0, 3.0)


class Run:
    """What all steps share: device, clock, log, folder."""

    def __init__(self, arguments):
        self.out = Path(arguments.out)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.minutes, self.batch, self.smoke = arguments.minutes, arguments.batch, arguments.smoke
        self.scenes = arguments.scenes
        self.log = open(self.out / f"{arguments.step}{arguments.style or ''}.log", "a", encoding="utf-8")
        self.born = time.time()
        torch.manual_seed(arguments.seed)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        # cuDNN's attention, as torch 2.11 calls it, reads beyond its inputs in the backward pass at these sizes.
        torch.backends.cuda.enable_cudnn_sdp(False)

    def say(self, **fields):
        line = json.dumps({"seconds": round(time.time() - self.born, 1), **fields})
        print(line, flush=True)
        print(line, file=self.log, flush=True)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def loop(self, one_step, optimizer, average, keep=lambda: None, before=lambda progress: None, every=500):
        """Runs ``one_step()`` until the minutes are over; the rates follow the clock, as what ``before`` does.

        The clock starts after the steps in which kernels are compiled and chosen; their rates are 0.
        ``keep`` saves the averaged weights, every two minutes and at the end.
        """
        start, count, total, kept = time.time(), 0, 0.0, time.time()
        while True:
            if count == WARM_UP + 1 and not self.smoke:
                self.wait()
                self.say(warmed_up=round(time.time() - start, 1))
                start = time.time()
            warm = count > WARM_UP or self.smoke
            progress = (time.time() - start) / (60 * self.minutes) if warm else 0.0
            if progress >= 1 or (self.smoke and count >= self.smoke):
                break
            optimizer.at(progress)
            before(progress)
            total = total + one_step()
            average.update()
            count += 1
            if count % 8 == 0:
                self.wait()  # Else the clock would run ahead of the captured steps.
            if time.time() - kept > 120:
                with average.in_place():
                    keep()
                kept = time.time()
            if count % every == 0 or self.smoke:
                self.say(step=count, loss=round(float(total) / (1 if self.smoke else every), 5))
                total = 0.0
        self.say(steps=count, training_seconds=round(time.time() - start, 1))
        average.copy_to_live()
        keep()

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def pool(self, count, seed):
        """Scenes on the device (rows, CLIP's ids, T5's ids), and the ids of an empty caption."""
        count = self.smoke * 8 if self.smoke else self.scenes or count
        scenes = [part.to(self.device) for part in build_scenes(count, seed, self.out)]
        self.say(scenes=count)
        return scenes, [ids.to(self.device) for ids in Tokenizers(self.out)([""])]

    def vae(self):
        vae = new_vae()
        load_parts(self.out, vae=vae)
        scale = json.loads((self.out / "scale.json").read_text())
        vae.register_to_config(**scale)
        norms_in_half(vae)
        return vae.to(self.device, memory_format=torch.channels_last).eval()


def sample_times(n, device):
    """Times in 0..1: mostly logit-normal, some uniform.

    What a caption asks is settled above 0.7, so most times lie there.
    """
    normal = torch.sigmoid(1.0 + torch.randn(n, device=device))
    return torch.where(torch.rand(n, device=device) < 0.4, torch.rand(n, device=device), normal)


def train_vae(run):
    """Reconstruction of plain, neon and chalk pictures; a little noise in the latents makes the decoder sturdy."""
    (rows, _, _), _ = run.pool(200_000, seed=21)
    renderer = Renderer(run.device)
    vae = new_vae().to(run.device, memory_format=torch.channels_last)
    norms_in_half(vae)
    optimizer = Optimizer(vae, adam_rate=2e-3, muon=False, fall=0.7)
    average = Average(vae, 0.999)

    def step(size):
        picks = rows[torch.randint(len(rows), (run.batch,), device=run.device)]
        corner = near_a_shape(picks, size) if size < CANVAS else None
        pictures = torch.cat(
            [renderer(picks[part], style, None, corner if corner is None else corner[part], size)
             for style, part in styles_of(run.batch).items()]
        )
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with run.autocast():
            back, divergence = reconstruct(vae, pictures)
        error = (back.float() - pictures) * detail(pictures)
        loss = error.abs().mean() + 2.0 * error.square().mean() + 0.5 * edges(error) + 1e-3 * divergence.float()
        loss.backward()
        optimizer.step()
        return loss.detach()

    crops = Captured(lambda: step(CROP), run.device)
    whole = Captured(lambda: step(CANVAS), run.device)
    run.loop(lambda: crops() if optimizer.progress < CROPPED else whole(), optimizer, average)
    vae.eval()
    measure_vae(run, vae, rows, renderer)
    save_parts(run.out, vae=vae)


def styles_of(count):
    """Which part of a batch is drawn in which style: half of it plainly."""
    quarter = count // 4
    return {"plain": slice(0, 2 * quarter), "neon": slice(2 * quarter, 3 * quarter), "chalk": slice(3 * quarter, count)}


def near_a_shape(rows, size):
    """First pixels [n, 2] of crops that show some part of a random shape, on the autoencoder's grid."""
    shown = (rows[:, 0:18:6] >= 0).sum(1)
    pick = (torch.rand(len(rows), device=rows.device) * shown).long()
    centre = torch.stack([rows.gather(1, 6 * pick[:, None] + column)[:, 0] for column in (3, 4)], dim=1)
    corner = centre - size * (0.15 + 0.7 * torch.rand_like(centre))
    return (corner / 8).round().clamp(0, (CANVAS - size) // 8) * 8


def norms_in_half(module):
    """Lets group norms stay in the dtype of their input under autocast: half the memory traffic."""

    def forward(norm, x):
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, norm.num_groups, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)

    for norm in module.modules():
        if isinstance(norm, torch.nn.GroupNorm):
            norm.forward = partial(forward, norm)


def reconstruct(vae, pictures):
    """Pictures through a noisy latent, and the divergence of latents from the unit normal, per value."""
    latents = vae.encode(pictures).latent_dist
    divergence = 0.5 * (latents.mean.square() + latents.var - 1 - latents.logvar).mean()
    spread = (latents.var + LATENT_NOISE**2).sqrt()
    sampled = latents.mean + spread * torch.randn_like(latents.mean)
    return vae.decode(sampled).sample, divergence


def detail(pictures):
    """Weights [n, 1, h, w] of 1 on flat ground, up to 4 near edges and textures."""
    contrast = F.max_pool2d(pictures, 9, 1, 4) + F.max_pool2d(-pictures, 9, 1, 4)
    return 1 + 3 * (2 * contrast.amax(dim=1, keepdim=True)).clamp(0, 1)


def edges(error):
    """The mean absolute difference between neighbouring errors: blurred edges cost more than flat ones."""
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


@torch.no_grad()
def measure_vae(run, vae, rows, renderer):
    """Scale and shift of the latents, and how well each style comes back."""
    count = min(2048, len(rows))
    latents, report, shown = [], {}, []
    for style in STYLES:
        errors = []
        for start in range(0, count, 256):
            pictures = renderer(rows[start : min(start + 256, count)], style)
            mean = vae.encode(pictures).latent_dist.mean
            if style == "plain":
                latents.append(mean)
            back = vae.decode(mean).sample.clamp(-1, 1)
            errors.append((back - pictures).square().mean(dim=(1, 2, 3)) / 4)
        shown += [pictures[:6], back[:6]]
        report[f"psnr_{style}"] = round(float((-10 * torch.cat(errors).log10()).mean()), 2)
    sheet(torch.cat(shown)).save(run.out / "vae.png")
    latents = torch.cat(latents)
    deviations = latents.std(dim=(0, 2, 3))
    scale = {"shift_factor": float(latents.mean()), "scaling_factor": float(1 / latents.std())}
    (run.out / "scale.json").write_text(json.dumps(scale) + "\n")
    run.say(**report, **scale, deviations=[round(float(d), 2) for d in deviations])


def train_text(run):
    (rows, clip_ids, t5_ids), _ = run.pool(200_000, seed=71)
    flow = Flow()
    reader = Reader(flow.clip, flow.t5, kind_tokens(Tokenizers(run.out).t5)).to(run.device)
    optimizer, average = Optimizer(reader), Average(reader, 0.998)

    def step():
        picks = torch.randint(len(rows), (run.batch,), device=run.device)
        with run.autocast():
            loss, _ = reader(rows[picks], clip_ids[picks], t5_ids[picks])
        loss.backward()
        optimizer.step()
        return loss.detach()

    run.loop(Captured(step, run.device), optimizer, average, every=200)
    save_parts(run.out, text_encoder=flow.clip, text_encoder_2=flow.t5)
    with torch.no_grad():
        unseen = encode_scenes(held_out_scenes(1000, seed=72), run)
        _, right = reader(*unseen)
    run.say(held_out={name: round(float(share), 4) for name, share in right.items()})


def encode_scenes(scenes, run):
    """Rows and token ids on the device."""
    rows = torch.tensor([to_row(scene) for scene in scenes])
    return [part.to(run.device) for part in (rows, *Tokenizers(run.out)([scene.caption for scene in scenes]))]


def flow_loss(flow, clean, noise, t, guidance, clip_ids, t5_ids):
    """The mean squared error of the velocity, noise - clean."""
    mixed = torch.lerp(clean, noise, t[:, None, None])
    states, pooled = flow.embed(clip_ids, t5_ids)
    velocity = flow(mixed, t, guidance, states, pooled)
    return F.mse_loss(velocity.float(), noise - clean)


def rms_norm_in_kind(norm, x):
    """The norm in the dtype of its input: under autocast, weights in f32 would cost the fused kernel."""
    return F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)


def fuse_norms(flow):
    """Lets RMS norms be one kernel each. (Compiled layers cannot be captured in torch 2.11.)"""
    for norm in flow.transformer.modules():
        if isinstance(norm, torch.nn.RMSNorm):
            norm.forward = partial(rms_norm_in_kind, norm)


def hard_twice_more(rows):
    """Indices of rows: those of touching shapes or a background in halves occur three times."""
    shapes = rows[:, :18].view(-1, 3, 6)
    kind, radius, centre = shapes[..., 0], shapes[..., 2], shapes[..., 3:5]
    gap = torch.cdist(centre, centre) - radius[:, :, None] - radius[:, None]
    shown = kind >= 0
    pairs = shown[:, :, None] & shown[:, None] & ~torch.eye(3, dtype=torch.bool, device=rows.device)
    touching = ((gap < 0) & pairs).flatten(1).any(1)
    halves = (rows[:, 18] == BACKGROUNDS.index("halves top")) | (rows[:, 18] == BACKGROUNDS.index("halves left"))
    hard = (touching | halves).nonzero()[:, 0]
    return torch.cat([torch.arange(len(rows), device=rows.device), hard, hard])


def by_count(rows, clip_ids, t5_ids):
    """Scenes in the order of how many shapes they show, and how many show one."""
    counts = (rows[:, 0:18:6] >= 0).sum(1)
    order = counts.argsort(stable=True)
    return rows[order], clip_ids[order], t5_ids[order], int((counts == 1).sum())


def train_base(run):
    scenes, empty = run.pool(400_000, seed=31)
    rows, clip_ids, t5_ids, singles = by_count(*scenes)
    latents = encode(rows, run.vae(), run.device)
    run.say(encoded=len(latents), mean=float(latents.float().mean()), std=float(latents.float().std()))
    flow = Flow()
    resumed = (run.out / "base" / "transformer.safetensors").exists()
    if resumed:
        load_parts(run.out / "base", **flow_parts(flow))
        singles = len(rows)
        run.say(resumed=True)
    elif (run.out / "text_encoder.safetensors").exists():
        load_parts(run.out, text_encoder=flow.clip, text_encoder_2=flow.t5)
    flow.to(run.device)
    fuse_norms(flow)
    share = 0.7 if resumed else 1.0
    optimizer, average = Optimizer(flow, share * MUON_RATE, share * ADAM_RATE), Average(flow, 0.999)
    ones = torch.ones(run.batch, device=run.device)
    spread = hard_twice_more(rows)
    within = torch.zeros((), device=run.device)

    def keep():
        save_parts(run.out / "base", **flow_parts(flow))

    def widen(progress):
        low, high = WIDENING
        share = min(1.0, max(0.0, (progress - low) / (high - low)))
        within.fill_(singles + share * (len(spread) - singles))

    def step():
        picks = spread[(torch.rand(run.batch, device=run.device) * within).long().clamp(max=len(spread) - 1)]
        dropped = torch.rand(run.batch, 1, device=run.device) < DROPPED
        clip, t5 = (torch.where(dropped, none, ids[picks]) for none, ids in zip(empty, (clip_ids, t5_ids)))
        clean = latents[picks].float()
        noise = couple(torch.randn_like(clean), rows[picks, -4:])
        with run.autocast():
            t = sample_times(run.batch, run.device)
            loss = flow_loss(flow, clean, noise, t, ones, clip, t5)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run.loop(Captured(step, run.device), optimizer, average, keep=keep, before=widen)
    show(run, flow, "base", empty)


@torch.no_grad()
def show(run, flow, name, empty=None):
    """A sheet of pictures of held-out captions, at guidance 3 and 20 steps."""
    scenes = held_out_scenes(36, seed=7)
    ids = [part.to(run.device) for part in Tokenizers(run.out)([scene.caption for scene in scenes])]
    noise = torch.randn(len(scenes), 64, 64, device=run.device)
    guidance = torch.full((len(scenes),), 3.0, device=run.device)
    tokens = generate(flow, noise, *ids, guidance, 2 if run.smoke else 20, empty)
    vae = run.vae()
    latents = unpack(tokens) / vae.config.scaling_factor + vae.config.shift_factor
    sheet(vae.decode(latents).sample, columns=9).save(run.out / f"{name}.png")
    (run.out / f"{name}.txt").write_text("\n".join(scene.caption for scene in scenes) + "\n", encoding="utf-8")


def draw_pairs(run, teacher, clip_ids, t5_ids, empty, batch):
    """The teacher's pictures for given captions, with the noise and guidance that gave them."""
    noise = torch.randn(len(clip_ids), 64, 64, device=run.device, dtype=torch.bfloat16)
    guidance = torch.empty(len(clip_ids), device=run.device).uniform_(*GUIDANCE)
    clean = torch.empty_like(noise)
    for start in range(0, len(noise), batch):
        part = slice(start, start + batch)
        with run.autocast():
            clean[part] = generate(
                teacher, noise[part].float(), clip_ids[part], t5_ids[part], guidance[part], 4 if run.smoke else 20, empty
            )
    return noise, guidance, clean


def train_guide(run, seconds_for_pairs=20):
    (rows, clip_ids, t5_ids), empty = run.pool(150_000, seed=41)
    latents = encode(rows, run.vae(), run.device)
    flow = Flow().to(run.device)
    load_parts(run.out / "base", **flow_parts(flow))
    teacher = copy.deepcopy(flow).eval()
    pairs, start, batch = [], time.time(), 16 if run.smoke else 4096
    for first in range(0, len(clip_ids) - batch + 1, batch):
        part = slice(first, first + batch)
        pairs.append(draw_pairs(run, teacher, clip_ids[part], t5_ids[part], empty, batch))
        run.wait()
        if time.time() - start > seconds_for_pairs or (run.smoke and len(pairs) == 2):
            break
    noises, guidances, cleans = (torch.cat(part) for part in zip(*pairs))
    run.say(pairs=len(noises), std=float(cleans.float().std()))
    fuse_norms(flow)
    optimizer, average = Optimizer(flow, 0.5 * MUON_RATE, 0.5 * ADAM_RATE), Average(flow, 0.998)
    drawn, spread = run.batch // 4, hard_twice_more(rows)
    as_stored = Rounded(flow.named_parameters())

    def step():
        """A quarter of the batch is what the teacher drew, the rest are true pictures, at any guidance."""
        old = torch.randint(len(noises), (drawn,), device=run.device)
        new = spread[torch.randint(len(spread), (run.batch - drawn,), device=run.device)]
        picks, true = torch.cat([old, new]), latents[new].float()
        clean = torch.cat([cleans[old].float(), true])
        noise = torch.cat([noises[old].float(), couple(torch.randn_like(true), rows[new, -4:])])
        strength = torch.cat([guidances[old], torch.empty(len(new), device=run.device).uniform_(*GUIDANCE)])
        t = torch.cat([torch.rand(drawn, device=run.device), sample_times(len(new), run.device)])
        with as_stored:
            with run.autocast():
                loss = flow_loss(flow, clean, noise, t, strength, clip_ids[picks], t5_ids[picks])
            loss.backward()
        optimizer.step()
        return loss.detach()

    run.loop(
        Captured(step, run.device),
        optimizer,
        average,
        keep=lambda: save_parts(run.out / "guided", **flow_parts(flow)),
    )
    show(run, flow, "guided")


def train_lora(run, style):
    (rows, clip_ids, t5_ids), _ = run.pool(100_000, seed=51)
    latents = encode(rows, run.vae(), run.device, style)
    spread = hard_twice_more(rows)
    flow = Flow().to(run.device).requires_grad_(False)
    load_parts(run.out / "guided", **flow_parts(flow))
    Rounded(flow.named_parameters()).apply()
    factors = lora_files.attach(flow.transformer)
    as_stored = Rounded(enumerate(factors), lambda *_: FEW_BITS)
    path = run.out / f"{style}.safetensors"
    resumed = path.exists()
    if resumed:
        lora_files.continue_from(flow.transformer, path)
        run.say(resumed=True)
    optimizer = Optimizer(torch.nn.ParameterList(factors), adam_rate=1.5e-3 if resumed else 3e-3, muon=False)
    average = Average(torch.nn.ParameterList(factors), 0.998)

    def step():
        picks = spread[torch.randint(len(spread), (run.batch,), device=run.device)]
        clean = latents[picks].float()
        guidance = torch.empty(run.batch, device=run.device).uniform_(*GUIDANCE)
        t = sample_times(run.batch, run.device)
        noise = couple(torch.randn_like(clean), rows[picks, -4:])
        with as_stored:
            with run.autocast():
                loss = flow_loss(flow, clean, noise, t, guidance, clip_ids[picks], t5_ids[picks])
            loss.backward()
        optimizer.step()
        return loss.detach()

    run.loop(Captured(step, run.device), optimizer, average)
    lora_files.save_factors(flow.transformer, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["vae", "text", "base", "guide", "lora"])
    parser.add_argument("out")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--style", choices=STYLES[1:])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", type=int, default=0, metavar="STEPS", help="few steps on little data, for a CPU")
    parser.add_argument("--scenes", type=int, help="how many scenes to draw, in place of the step's own number")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    run = Run(arguments)
    if arguments.step == "lora":
        train_lora(run, arguments.style)
    else:
        {"vae": train_vae, "text": train_text, "base": train_base, "guide": train_guide}[arguments.step](run)


if __name__ == "__main__":
    main()
