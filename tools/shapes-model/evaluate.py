"""Draws held-out captions with the exported model through diffusers, and judges the pictures.

    python evaluate.py MODEL OUT --count 500 --steps 20

OUT gets a PNG for each caption, captions.json, options.json, verdicts.json and table.md. ``--lora
neon`` draws with that LoRA and judges by its style; ``--against OUT`` tells on how many captions it
changed the style's property in comparison with pictures drawn before. Picture i starts from the
noise of seed i, so two models, or a model and its LoRA, can be compared picture by picture.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy
import torch
from diffusers import FluxPipeline
from PIL import Image

import judge
from scenes import held_out_scenes

SEED = 2026


def draw(pipe, captions, options, batch):
    """PIL images; the noise of each depends on its index alone."""
    pictures = []
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        generators = [torch.Generator("cpu").manual_seed(start + index) for index in range(len(part))]
        pictures += pipe(part, generator=generators, output_type="pil", **options).images
    return pictures


def open_pipeline(model, lora):
    """The pipeline in f32 with its defaults, and the LoRA that tintype.json names."""
    defaults = json.loads((model / "tintype.json").read_text(encoding="utf-8"))
    loras = defaults.pop("loras", {})
    pipe = FluxPipeline.from_pretrained(model, dtype=torch.float32)
    pipe = pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    if lora:
        pipe.load_lora_weights(model / loras[lora])
    return pipe, defaults


def read(folder, index):
    return numpy.asarray(Image.open(folder / f"{index:04}.png").convert("RGB"))


def judge_one(job):
    folder, index, scene, style, against = job
    torch.set_num_threads(1)
    picture = read(folder, index)
    verdict = judge.judge(picture, scene, style)
    changed = judge.style_changed(style, scene, read(against, index), picture)[0] if against else None
    return verdict, changed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=SEED, help="of the captions; other ones are for choosing settings")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--lora", choices=["neon", "chalk"])
    parser.add_argument("--against", type=Path)
    parser.add_argument("--batch", type=int, default=50)
    arguments = parser.parse_args()
    pipe, options = open_pipeline(arguments.model, arguments.lora)
    if arguments.steps:
        options["num_inference_steps"] = arguments.steps
    if arguments.guidance is not None:
        options["guidance_scale"] = arguments.guidance
    scenes, out = held_out_scenes(arguments.count, arguments.seed), arguments.out
    pictures = draw(pipe, [scene.caption for scene in scenes], options, arguments.batch)
    out.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        picture.save(out / f"{index:04}.png")
    described = [judge.scene_to_json(scene) for scene in scenes]
    (out / "captions.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    (out / "options.json").write_text(json.dumps({**options, "lora": arguments.lora}) + "\n", encoding="utf-8")
    style = arguments.lora or "plain"
    with ProcessPoolExecutor() as pool:
        judged = list(pool.map(judge_one, [(out, i, scene, style, arguments.against) for i, scene in enumerate(scenes)]))
    verdicts = [verdict for verdict, _ in judged]
    table = judge.table(verdicts)
    if arguments.against:
        share = 100 * sum(changed for _, changed in judged) / len(judged)
        table += f"\n\n{share:.1f} % of pictures changed as {style} should change them\n"
    (out / "verdicts.json").write_text(json.dumps([asdict(verdict) for verdict in verdicts]) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    print(out.name)
    print(table)


if __name__ == "__main__":
    main()
