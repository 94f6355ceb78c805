"""The transformer of FLUX.1-dev in PyTorch and diffusers, timed and compared, beside Tintype's.

Weights and inputs are those of ``flux_weights.py``, which Tintype computes too. Every result is a line
of JSON, printed as soon as it is known, so that a run that is cut off leaves what it measured.

    python flux_torch.py steps --variants eager-fp16,eager-bf16,compile-bf16 --batches 1,2
    python flux_torch.py fidelity --ours samples.safetensors     # of the section fidelity
    python flux_torch.py picture --model DIR                     # of flux_weights.py --make

| variant | is |
|---|---|
| eager-fp16, eager-bf16 | diffusers as it comes, scaled_dot_product_attention |
| eager-cudnn-bf16 | the same with cuDNN's attention |
| compile-bf16 | repeated blocks by torch.compile, cuDNN's attention |
| compile-fused-bf16 | the same with one product for q, k and v |
| compile-max-bf16 | the same as compile-bf16 with mode max-autotune-no-cudagraphs |
| compile-fp8 | the same as compile-bf16 with torchao's dynamic FP8, a scale per tensor |
| compile-rows-fp8 | the same with a scale per row |

What torchao quantizes is what Tintype's recipe for FLUX multiplies in FP8: the linear layers of blocks but for
their modulations.

``--small`` runs all of it on a small transformer, on a CPU too.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers.utils import logging

import flux_weights

DTYPES = {"f32": torch.float32, "fp16": torch.float16, "f16": torch.float16, "bf16": torch.bfloat16}
# What is not quantized.
VALUES = dict(DTYPES, fp8=torch.bfloat16)
PROMPT = "a photo of a red fox sitting in the snow"


logging.set_verbosity_error()


def say(**values):
    print(json.dumps(values), flush=True)


def versions():
    """Of everything that decides a figure."""
    import diffusers
    import transformers

    found = {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__,
             "transformers": transformers.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def inputs(options, batch, dtype, seed=0):
    """What Tintype's sections give the transformer."""
    config = flux_weights.transformer_config(options.small)
    side, text = (8, 16) if options.small else (options.size // 16, 512)
    noise = lambda name, *shape: flux_weights.noise(f"{name}.{seed}", (batch, *shape), dtype, options.device)
    ids = torch.zeros(side, side, 3, device=options.device)
    ids[..., 1] += torch.arange(side, device=options.device)[:, None]
    ids[..., 2] += torch.arange(side, device=options.device)[None]
    return {
        "hidden_states": noise("hidden_states", side * side, 64),
        "encoder_hidden_states": noise("prompt_embeds", text, config["joint_attention_dim"]),
        "pooled_projections": noise("pooled", config["pooled_projection_dim"]),
        # Both are numbers of bf16 once they are multiplied by 1000.
        "timestep": torch.full((batch,), 0.5, device=options.device, dtype=dtype),
        "guidance": torch.full((batch,), 4.0, device=options.device, dtype=torch.float32),
        "img_ids": ids.reshape(-1, 3),
        "txt_ids": torch.zeros(text, 3, device=options.device),
        "return_dict": False,
    }


def timed(model, given, options):
    """Milliseconds of single forwards, and of many in a row divided by their number."""
    for _ in range(3):
        sample = model(**given)[0]
    synchronize(options.device)
    single, rows = [], []
    for _ in range(options.runs):
        start = time.perf_counter()
        model(**given)
        synchronize(options.device)
        single.append((time.perf_counter() - start) * 1e3)
    for _ in range(max(3, options.runs // 4)):
        start = time.perf_counter()
        for _ in range(options.steps):
            model(**given)
        synchronize(options.device)
        rows.append((time.perf_counter() - start) * 1e3 / options.steps)
    return {"single_ms": statistics.median(single), "step_ms": statistics.median(rows), "steps_ms": rows,
            "is_finite": bool(torch.isfinite(sample).all())}


def quantized(model, per_row):
    """Has torchao quantize the linear layers of blocks; says how."""
    import torchao
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, PerTensor, quantize_

    def is_wanted(module, name):
        return isinstance(module, torch.nn.Linear) and "transformer_blocks." in name and ".norm" not in name

    granularity = PerRow() if per_row else PerTensor()
    quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=granularity), filter_fn=is_wanted)
    return f", torchao {torchao.__version__} FP8 ({type(granularity).__name__})"


def prepared(variant, options):
    """A transformer in the form that a variant names, and what that form is."""
    name, _, dtype = variant.rpartition("-")
    model = flux_weights.transformer(VALUES[dtype], options.device, options.small, options.layers)
    form = "diffusers, eager"
    if name != "eager":
        try:
            model.set_attention_backend("_native_cudnn" if options.device == "cuda" else "native")
            form += ", cuDNN attention"
        except Exception as error:
            form += f", its usual attention ({error})"
    if "fused" in name:
        model.fuse_qkv_projections()
        form += ", fused projections"
    if dtype == "fp8":
        form += quantized(model, "rows" in name)
    if name.startswith("compile"):
        settings = {"fullgraph": True, "dynamic": False}
        if "max" in name:
            settings["mode"] = "max-autotune-no-cudagraphs"
        model.compile_repeated_blocks(**settings)
        form = form.replace("eager", f"compile_repeated_blocks({settings})")
    return model, VALUES[dtype], form


def steps(options):
    """Times every variant with every batch size."""
    begun = time.perf_counter()
    for variant in options.variants.split(","):
        model = None
        for batch in map(int, options.batches.split(",")):
            if time.perf_counter() - begun > options.limit:
                say(peer=variant, batch=batch, skipped=f"{options.limit} s are over")
                continue
            try:
                start = time.perf_counter()
                if model is None:
                    model, dtype, form = prepared(variant, options)
                if options.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                found = timed(model, inputs(options, batch, dtype), options)
                peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else None
                say(peer=variant, batch=batch, form=form, **found, peak_bytes=peak,
                    seconds=time.perf_counter() - start, versions=versions())
            except Exception as error:
                say(peer=variant, batch=batch, failed=f"{type(error).__name__}: {str(error)[:500]}")
        del model
        gc.collect()
        torch._dynamo.reset()
        if options.device == "cuda":
            torch.cuda.empty_cache()


def relative(found, expected):
    difference = (found.double() - expected.double()).norm()
    return float(difference / expected.double().norm())


def fidelity(options):
    """Errors of Tintype's samples and of PyTorch's in the same dtype, against PyTorch's f32."""
    from safetensors.torch import load_file
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    dtype = DTYPES[options.dtype]
    model = flux_weights.transformer(torch.float32, options.device, options.small, options.layers, as_dtype=dtype)
    given = [inputs(options, 1, dtype, seed) for seed in range(options.seeds)]
    as_f32 = lambda values: {key: value.float() if torch.is_tensor(value) else value for key, value in values.items()}
    # Other kernels for attention may compute f32 by TF32.
    with sdpa_kernel(SDPBackend.MATH):
        exact = [model(**as_f32(values))[0].float().cpu() for values in given]
    # In place: both models together do not fit.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.to(dtype)
    own = [model(**values)[0].float().cpu() for values in given]
    theirs = load_file(options.ours) if options.ours else {}
    rows = []
    for seed in range(options.seeds):
        row = {"seed": seed, "torch": relative(own[seed], exact[seed])}
        if theirs:
            row["tintype"] = relative(theirs[f"sample.{seed}"], exact[seed])
            row["ratio"] = row["tintype"] / row["torch"]
        rows.append(row)
        say(**row)
    say(fidelity=options.dtype, blocks=[model.config.num_layers, model.config.num_single_layers],
        median_torch=statistics.median(row["torch"] for row in rows),
        median_tintype=statistics.median(row["tintype"] for row in rows) if theirs else None,
        median_ratio=statistics.median(row["ratio"] for row in rows) if theirs else None, versions=versions())


def picture(options):
    """Seconds of whole pictures."""
    from diffusers import FluxPipeline

    start = time.perf_counter()
    pipeline = FluxPipeline.from_pretrained(options.model, torch_dtype=DTYPES[options.dtype]).to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    synchronize(options.device)
    loading = time.perf_counter() - start
    side = 64 if options.small else options.size
    seconds = []
    for _ in range(options.runs + 1):
        start = time.perf_counter()
        pixels = pipeline(PROMPT, height=side, width=side, num_inference_steps=options.steps, max_sequence_length=512,
                          num_images_per_prompt=int(options.batches.split(",")[0]), output_type="pt",
                          generator=torch.Generator().manual_seed(0)).images.float().cpu()
        synchronize(options.device)
        seconds.append(time.perf_counter() - start)
    say(picture=options.dtype, load_seconds=loading, seconds=statistics.median(seconds[1:]), runs=seconds,
        is_finite=bool(torch.isfinite(pixels).all()), versions=versions())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("steps", "fidelity", "picture"))
    parser.add_argument("--variants", default="eager-fp16,eager-bf16,compile-bf16")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--size", type=int, default=1024, help="height and width in pixels")
    parser.add_argument("--dtype", default="bf16", choices=sorted(DTYPES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--layers", type=lambda text: tuple(map(int, text.split(","))), metavar="DOUBLE,SINGLE")
    parser.add_argument("--ours", type=Path, metavar="FILE")
    parser.add_argument("--model", type=Path, metavar="DIR")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which steps begins no variant")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    with torch.no_grad():
        {"steps": steps, "fidelity": fidelity, "picture": picture}[options.what](options)


if __name__ == "__main__":
    main()
