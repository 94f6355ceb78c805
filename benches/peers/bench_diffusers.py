"""Times diffusers on the CPU, to be run side by side with Tintype on the same machine.

``--make DIR`` writes a random FLUX pipeline (width 512, 4 double and 8 single blocks, small text
encoders) that both programs can load. ``--run DIR`` loads it and prints one line of JSON: seconds,
peak resident memory, versions. Peak memory is that of the whole process, so each run measures one thing.
Not a quality check: the pictures are noise.

Examples, with the Python of tools/fixtures/requirements.txt:
    python bench_diffusers.py --make target/width512
    python bench_diffusers.py --run target/width512 --what pipeline --steps 4
    python bench_diffusers.py --run target/width512 --what transformer
    tintype generate "a red fox" --model target/width512 --height 512 --width 512 --steps 4 --dtype f32 --json
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/fixtures"))
PROMPT = "a photo of a red fox sitting in the snow"


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--make", type=Path, metavar="DIR", help="write the random pipeline")
    action.add_argument("--run", type=Path, metavar="DIR", help="time the pipeline at this path")
    parser.add_argument("--what", choices=("transformer", "pipeline"), default="pipeline")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--max-sequence-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs after one that is not counted")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--heads", type=int, default=4, help="with --make: width is 128 times this")
    parser.add_argument("--layers", type=int, default=4, help="with --make")
    parser.add_argument("--single-layers", type=int, default=8, help="with --make")
    return parser.parse_args()


def load(options, what):
    """The pipeline, or the transformer alone, in the dtype asked for; and how long that took."""
    import torch
    from diffusers import FluxPipeline, FluxTransformer2DModel

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    start = time.perf_counter()
    if what == "transformer":
        model = FluxTransformer2DModel.from_pretrained(options.run / "transformer", torch_dtype=dtype)
    else:
        model = FluxPipeline.from_pretrained(options.run, torch_dtype=dtype)
        model.set_progress_bar_config(disable=True)
    return model, time.perf_counter() - start


def transformer_inputs(transformer, options):
    """Random inputs of one forward: (size / 16)² image tokens and the full count of text tokens."""
    import torch
    from diffusers import FluxPipeline

    side = options.size // 16
    config = transformer.config
    generator = torch.Generator().manual_seed(0)
    noise = lambda *shape: torch.randn(*shape, generator=generator).to(transformer.dtype)
    return {
        "hidden_states": noise(1, side * side, config.in_channels),
        "encoder_hidden_states": noise(1, options.max_sequence_length, config.joint_attention_dim),
        "pooled_projections": noise(1, config.pooled_projection_dim),
        "timestep": torch.tensor([0.75]),
        "guidance": torch.tensor([3.5]),
        "img_ids": FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", transformer.dtype),
        "txt_ids": torch.zeros(options.max_sequence_length, 3),
    }


def time_transformer(options):
    """Seconds of single forwards."""
    transformer, loading = load(options, "transformer")
    inputs = transformer_inputs(transformer, options)
    seconds = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        transformer(**inputs, return_dict=False)
        seconds.append(time.perf_counter() - start)
    return {"load_seconds": loading, "seconds": seconds[1:], "warm_up_seconds": seconds[0]}


def time_pipeline(options):
    """Seconds of whole generations, and of the steps within them (the first step of each left out)."""
    import torch

    pipeline, loading = load(options, "pipeline")
    seconds, steps = [], []
    for _ in range(options.repeats + 1):
        marks = []

        def mark(pipeline, step, timestep, tensors):
            marks.append(time.perf_counter())
            return tensors

        start = time.perf_counter()
        pipeline(
            PROMPT,
            height=options.size,
            width=options.size,
            num_inference_steps=options.steps,
            max_sequence_length=options.max_sequence_length,
            generator=torch.Generator().manual_seed(0),
            callback_on_step_end=mark,
        )
        seconds.append(time.perf_counter() - start)
        steps.append([after - before for before, after in zip(marks, marks[1:])])
    timed = [step for run in steps[1:] for step in run]
    return {
        "load_seconds": loading,
        "seconds": seconds[1:],
        "warm_up_seconds": seconds[0],
        "step_seconds_median": statistics.median(timed) if timed else None,
    }


def processor():
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def run(options):
    """Measures and prints one line."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import diffusers
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        measured = (time_transformer if options.what == "transformer" else time_pipeline)(options)
    report = {
        "program": "diffusers",
        "what": options.what,
        "dtype": options.dtype,
        "size": options.size,
        "steps": options.steps if options.what == "pipeline" else 1,
        "text_tokens": options.max_sequence_length,
        "threads": options.threads,
        "seconds_median": statistics.median(measured["seconds"]),
        **measured,
        # Linux counts in KiB.
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "processor": processor(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
    }
    print(json.dumps(report))


if __name__ == "__main__":
    parsed = parse_arguments()
    if parsed.make:
        import random_pipeline

        random_pipeline.make(parsed.make, parsed.heads, parsed.layers, parsed.single_layers)
    else:
        run(parsed)
