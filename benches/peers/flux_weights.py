"""Weights and inputs of FLUX that every program computes for itself, and models filled with them.

The numbers are those of ``crates/conformance/src/program/full/random.rs`` to the bit: a hash of a
name and an index, spread evenly, with the deviation 1/sqrt(columns) for matrices, around 1 for the
gains of norms and around 0 for biases. They say nothing of pictures: a random model paints noise.

    python flux_weights.py --check                          # sums of a few tensors, for the test in Rust
    python flux_weights.py --make DIR --tokenizers PIPELINE  # a whole pipeline at FLUX.1-dev's size, 34 GB

``--tokenizers`` names a pipeline whose tokenizers (and scheduler) are taken; any small one does,
since texts are padded to FLUX's lengths.
"""

import argparse
import json
import math
import shutil
import struct
import time
from pathlib import Path

import numpy
import torch

MASK = 0xFFFFFFFF
PIECE = 1 << 24


def key_of(name):
    """FNV-1a of the name, 32 bits."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = ((value ^ byte) * 0x01000193) & MASK
    return value


def mixed(bits):
    """A one-to-one mixing of 32 bits, in the low half of int64."""
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & MASK
    bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & MASK
    return bits ^ (bits >> 16)


def numbers(name, shape, middle, deviation, dtype, device):
    """A tensor of evenly spread numbers of this deviation around ``middle``."""
    count = math.prod(shape)
    factor = float(numpy.float32(deviation * math.sqrt(3.0) / (1 << 23)))
    key = key_of(name)
    result = torch.empty(count, dtype=dtype, device=device)
    for start in range(0, count, PIECE):
        end = min(start + PIECE, count)
        bits = torch.arange(start, end, dtype=torch.int64, device=device) ^ key
        spread = ((mixed(bits) >> 8) - (1 << 23)).to(torch.float32)
        values = spread * torch.tensor(factor, dtype=torch.float32, device=device)
        if middle:
            values = values + middle
        result[start:end] = values.to(dtype)
    return result.reshape(shape)


def weight(name, shape, dtype, device="cpu"):
    """A parameter of a model: a matrix, a gain near 1, or a bias near 0."""
    shape = tuple(shape)
    if len(shape) < 2:
        if "norm" in name and name.endswith(".weight"):
            return numbers(name, shape, 1.0, 0.1, dtype, device)
        return numbers(name, shape, 0.0, 0.02, dtype, device)
    return numbers(name, shape, 0.0, 1.0 / math.sqrt(math.prod(shape[1:])), dtype, device)


def noise(name, shape, dtype, device="cpu"):
    """Numbers around 0 with the deviation 1."""
    return numbers(name, tuple(shape), 0.0, 1.0, dtype, device)


def fill(model, dtype, device, as_dtype=None):
    """Gives a model on the meta device its weights; rounded to ``as_dtype`` first if that is given."""
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, parameter.shape, as_dtype or dtype, device))
    return model


TRANSFORMER = dict(
    patch_size=1,
    in_channels=64,
    num_layers=19,
    num_single_layers=38,
    attention_head_dim=128,
    num_attention_heads=24,
    joint_attention_dim=4096,
    pooled_projection_dim=768,
    guidance_embeds=True,
    axes_dims_rope=(16, 56, 56),
)

# The size that tests use: the same code in seconds on a CPU.
SMALL = dict(TRANSFORMER, num_layers=2, num_single_layers=2, num_attention_heads=2, joint_attention_dim=64,
             pooled_projection_dim=32)


def transformer_config(small=False, layers=None):
    """FLUX.1-dev's, with fewer blocks if ``layers`` says ``(double, single)``."""
    config = dict(SMALL if small else TRANSFORMER)
    if layers:
        config["num_layers"], config["num_single_layers"] = layers
    return config


def transformer(dtype, device, small=False, layers=None, as_dtype=None):
    """A transformer with its weights."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(**transformer_config(small, layers))
    return fill(model, dtype, device, as_dtype)


def text_and_image_models(small=False):
    """CLIP, T5 and the autoencoder of FLUX.1-dev on the meta device, by their folders."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip = dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                projection_dim=768)
    t5 = dict(vocab_size=32128, d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24)
    channels = [128, 256, 512, 512]
    if small:
        clip.update(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, projection_dim=32)
        t5.update(d_model=64, d_ff=128, d_kv=16, num_heads=4, num_layers=2)
        channels = [32, 32, 64, 64]
    clip = CLIPTextConfig(hidden_act="quick_gelu", max_position_embeddings=77, bos_token_id=0, eos_token_id=2,
                          pad_token_id=1, **clip)
    t5 = T5Config(num_decoder_layers=t5["num_layers"], feed_forward_proj="gated-gelu", tie_word_embeddings=False, **t5)
    with torch.device("meta"):
        return {
            "text_encoder": CLIPTextModel(clip),
            "text_encoder_2": T5EncoderModel(t5),
            "vae": AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4,
                block_out_channels=channels,
                layers_per_block=2,
                latent_channels=16,
                norm_num_groups=32,
                sample_size=1024,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
        }


def write_safetensors(path, parameters, dtype, device):
    """Writes parameters one after another, so that one at a time lies in memory."""
    name_of = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}[dtype]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in parameters:
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": name_of, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in parameters:
            values = weight(name, shape, dtype, device).flatten()
            file.write(values.view(torch.uint8).cpu().numpy())


def make(folder, tokenizers, small, dtype=torch.bfloat16, device="cpu"):
    """Writes a pipeline in diffusers' layout."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        models = {"transformer": FluxTransformer2DModel(**transformer_config(small))}
    models.update(text_and_image_models(small))
    for name, model in models.items():
        start = time.perf_counter()
        part = folder / name
        part.mkdir(parents=True, exist_ok=True)
        if hasattr(model.config, "to_json_file"):
            model.config.to_json_file(part / "config.json")
        else:
            model.save_config(part)
        file = "diffusion_pytorch_model.safetensors" if name in ("transformer", "vae") else "model.safetensors"
        parameters = [(key, tuple(value.shape)) for key, value in model.named_parameters()]
        write_safetensors(part / file, parameters, dtype, device)
        size = (part / file).stat().st_size / 1e9
        print(f"{name}: {size:.2f} GB in {time.perf_counter() - start:.1f} s", flush=True)
    for part in ("tokenizer", "tokenizer_2", "scheduler"):
        shutil.copytree(tokenizers / part, folder / part, dirs_exist_ok=True)
    shutil.copy(tokenizers / "model_index.json", folder / "model_index.json")


def check():
    """Sums of the bytes of a few tensors."""
    cases = [
        ("a.weight", (96, 40), torch.bfloat16),
        ("a.weight", (96, 40), torch.float16),
        ("a.weight", (96, 40), torch.float32),
        ("a.norm_q.weight", (128,), torch.bfloat16),
        ("a.bias", (3072,), torch.bfloat16),
        ("conv.weight", (8, 4, 3, 3), torch.bfloat16),
    ]
    for name, shape, dtype in cases:
        value = 0x811C9DC5
        for byte in weight(name, shape, dtype).flatten().view(torch.uint8).tolist():
            value = ((value ^ byte) * 0x01000193) & MASK
        print(f'"{value:08x}",')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--make", type=Path, metavar="DIR")
    parser.add_argument("--tokenizers", type=Path, metavar="PIPELINE")
    parser.add_argument("--small", action="store_true", help="the same in small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.check:
        check()
    if arguments.make:
        make(arguments.make, arguments.tokenizers, arguments.small, device=arguments.device)


if __name__ == "__main__":
    main()
