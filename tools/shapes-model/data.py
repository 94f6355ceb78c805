"""Training data: scenes drawn by many processes, their captions as token ids, their pictures as latents.

``build_scenes(count, seed, FOLDER)`` depends on its seed alone, whatever the number of processes.
"""

import os
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy
import torch
from transformers import CLIPTokenizer, T5TokenizerFast

from model import pack
from render import Renderer
from scenes import sample, to_row
from spec import CAPTION_TOKENS

CHUNK = 2000


def start_worker(folder):
    global tokenizers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizers = Tokenizers(folder)


def scene_chunk(seed):
    """One chunk of scenes: renderer rows and both encoders' token ids."""
    rng = random.Random(seed)
    scenes = [sample(rng) for _ in range(CHUNK)]
    rows = numpy.array([to_row(scene) for scene in scenes], dtype=numpy.float32)
    return rows, *(ids.numpy() for ids in tokenizers([scene.caption for scene in scenes]))


class Tokenizers:
    def __init__(self, folder):
        self.clip = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
        self.t5 = T5TokenizerFast.from_pretrained(f"{folder}/tokenizer_2")

    def __call__(self, captions):
        """Token ids as FluxPipeline makes them: (CLIP's, T5's), int16."""
        ids = []
        for tokenizer in (self.clip, self.t5):
            rows = tokenizer(captions, padding="max_length", max_length=CAPTION_TOKENS, truncation=True).input_ids
            ids.append(torch.tensor(rows, dtype=torch.int16))
        return ids


def build_scenes(count, seed, folder):
    """Rows for the renderer and token ids of ``count`` scenes, with the tokenizers in ``folder``."""
    seeds = [seed * 1_000_003 + index for index in range(-(-count // CHUNK))]
    with ProcessPoolExecutor(os.cpu_count(), get_context("fork"), start_worker, (folder,)) as pool:
        chunks = list(pool.map(scene_chunk, seeds))
    return tuple(torch.from_numpy(numpy.concatenate(parts)[:count]) for parts in zip(*chunks))


@torch.no_grad()
def encode(rows, vae, device, style="plain", seed=5):
    """Packed latents [n, 64, 64] in bf16 of the pictures of rows, scaled as the pipeline scales them."""
    renderer, generator = Renderer(device), torch.Generator(device).manual_seed(seed)
    batch = 512 if device.type == "cuda" else 16
    latents = torch.empty(len(rows), 64, 64, dtype=torch.bfloat16, device=device)
    for start in range(0, len(rows), batch):
        pictures = renderer(rows[start : start + batch], style, generator)
        pictures = pictures.to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            mean = vae.encode(pictures).latent_dist.mean
        scaled = (mean.float() - vae.config.shift_factor) * vae.config.scaling_factor
        latents[start : start + batch] = pack(scaled).to(torch.bfloat16)
    return latents
