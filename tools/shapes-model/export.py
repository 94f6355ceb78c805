"""Writes the trained model as a folder in diffusers' layout, with tintype.json and the LoRAs.

    python export.py WORK OUT

Weights are stored in bf16, rounded to fewer significant bits than bf16 has (``rounding.py``), as they
were trained.
"""

import json
import shutil
import sys
import tarfile
from pathlib import Path

import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer, T5TokenizerFast

import lora as lora_files
from model import Flow, flow_parts, load_parts, new_scheduler, new_vae
from rounding import BITS, FEW_BITS, Rounded, rounded

DEFAULTS = {
    "height": 128,
    "width": 128,
    "num_inference_steps": 20,
    "guidance_scale": 1.0,
    "max_sequence_length": 48,
}
# Chalk drawn a little weaker than trained keeps more shapes: of 160 captions with another seed 80.6 % at 1,
# 84.4 % at 0.92, 85.6 % at 0.88, 86.2 % at 0.8, 80.0 % at 0.72.
STRENGTHS = {"neon": 1.0, "chalk": 0.85}


def round_file(path):
    state = load_file(path)
    Rounded(state.items()).apply()
    save_file({name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()}, path, {"format": "pt"})


def pipeline(work, weights="guided"):
    """The trained parts as a FluxPipeline in f32."""
    flow, vae = Flow(), new_vae()
    load_parts(work / weights, **flow_parts(flow))
    load_parts(work, vae=vae)
    vae.register_to_config(**json.loads((work / "scale.json").read_text()))
    return FluxPipeline(
        scheduler=new_scheduler(),
        vae=vae,
        text_encoder=flow.clip,
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        text_encoder_2=flow.t5,
        tokenizer_2=T5TokenizerFast.from_pretrained(work / "tokenizer_2"),
        transformer=flow.transformer,
    )


def export(work, out, weights="guided"):
    shutil.rmtree(out, ignore_errors=True)
    pipe = pipeline(work, weights)
    pipe.save_pretrained(out)
    for name in ("tokenizer", "tokenizer_2"):
        # As trained: transformers writes its own fields beside them.
        shutil.rmtree(out / name)
        shutil.copytree(work / name, out / name)
    for path in sorted(out.glob("*/*.safetensors")):
        round_file(path)
    defaults = dict(DEFAULTS)
    loras = export_loras(work, out / "loras")
    if loras:
        defaults["loras"] = loras
    (out / "tintype.json").write_text(json.dumps(defaults, indent=2) + "\n", encoding="utf-8")
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def export_loras(work, out):
    """Both forms of each trained LoRA; their names with paths from the model's folder."""
    found = {}
    for style in STRENGTHS:
        source = work / f"{style}.safetensors"
        if not source.exists():
            continue
        out.mkdir(parents=True, exist_ok=True)
        factors = {
            name: tuple(part.to(torch.bfloat16) for part in weakened(rounded(pair, FEW_BITS), STRENGTHS[style]))
            for name, pair in lora_files.load_factors(source).items()
        }
        save_file(lora_files.peft_state(factors), out / f"{style}.safetensors", {"format": "pt"})
        save_file(lora_files.kohya_state(factors), out / f"{style}-kohya.safetensors")
        found[style] = f"loras/{style}.safetensors"
        found[f"{style}-kohya"] = f"loras/{style}-kohya.safetensors"
    return found


def weakened(pair, strength):
    """A change times ``strength``; what is not a power of two needs more bits."""
    down, up = pair
    return (down, up) if strength == 1 else (down, rounded([up * strength], BITS + 1)[0])


def packed_size(folder):
    """Bytes of the folder as cargo would pack it."""
    import io

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=9) as archive:
        archive.add(folder, arcname="model")
    return len(packed.getvalue())


if __name__ == "__main__":
    work, out = Path(sys.argv[1]), Path(sys.argv[2])
    export(work, out, *sys.argv[3:])
    print(f"{packed_size(out) / 1e6:.2f} MB packed")
