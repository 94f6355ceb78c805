"""Records what diffusers draws with the exported model: pictures that Tintype must draw as well.

    python record.py MODEL ../../crates/conformance/fixtures/shapes

Writes cases.json (prompt, seed, steps, LoRA, picture) and a PNG for each. On a CPU, in f32.
diffusers' converter of Kohya's form takes FLUX's own widths for granted, so the pictures of a
``-kohya`` LoRA are recorded with its twin in PEFT's form, which holds the same factors.
"""

import json
import sys
from pathlib import Path

import torch

from evaluate import open_pipeline

CASES = [
    ("a red circle above a blue square", 0, 20, None),
    ("a small green star to the left of a large yellow ring on a black background", 1, 20, None),
    ("A white heart inside a large purple circle, gray background.", 2, 20, None),
    ("from left to right, a pink cross, a dotted orange square and a blue star on a gradient from white to red", 3, 20, None),
    ("a big striped hexagon", 4, 4, None),
    ("a dragon in front of 7 castles!", 5, 4, None),
    ("", 6, 1, None),
    ("a yellow triangle overlapping a red ring", 7, 8, "neon"),
    ("a yellow triangle overlapping a red ring", 7, 8, "neon-kohya"),
    ("a small purple cross under a green circle", 8, 8, "chalk"),
    ("a small purple cross under a green circle", 8, 8, "chalk-kohya"),
]


def main(model, out):
    out.mkdir(parents=True, exist_ok=True)
    cases = []
    for index, (prompt, seed, steps, lora) in enumerate(CASES):
        pipe, options = open_pipeline(model, lora and lora.removesuffix("-kohya"))
        pipe = pipe.to("cpu")
        options["num_inference_steps"] = steps
        picture = pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **options).images[0]
        picture.save(out / f"{index:02}.png", optimize=True)
        cases.append({"prompt": prompt, "seed": seed, "steps": steps, "lora": lora, "picture": f"{index:02}.png"})
    (out / "cases.json").write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
