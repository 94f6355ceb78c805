"""How long diffusers takes from one LoRA to another, and how fast it steps meanwhile.

Two random LoRAs lie on every linear layer of attention and of the feed-forward parts of a random
transformer (``flux_weights.py``). Their factors are in host memory before time is taken. Every result
is a line of JSON, printed as soon as it is known.

| way | a swap is |
|---|---|
| fuse | unfuse the one, fuse the other: weights are changed, steps cost nothing more |
| hotswap | ``enable_lora_hotswap``, then the other's factors are written over the one's |
| set_adapters | both are loaded and one is active: steps compute its products besides |

    python lora_swap.py --swaps 10
    python lora_swap.py --small            # the same on a small transformer, on a CPU too
"""

import argparse
import gc
import math
import statistics
import time

import flux_torch
import flux_weights
import torch

MODULES = (".attn.to_q", ".attn.to_k", ".attn.to_v", ".attn.to_out.0", ".attn.add_q_proj", ".attn.add_k_proj",
           ".attn.add_v_proj", ".attn.to_add_out", ".net.0.proj", ".net.2", ".proj_mlp", ".proj_out")


def factors(model, adapter, rank):
    """A LoRA in PEFT's names, as Tintype's section ``swap`` makes it."""
    state = {}
    for name, parameter in model.named_parameters():
        module = name.removesuffix(".weight")
        if "transformer_blocks." not in name or not name.endswith(".weight") or not module.endswith(MODULES):
            continue
        rows, columns = parameter.shape
        for factor, shape, width in (("lora_A", (rank, columns), columns), ("lora_B", (rows, rank), 100 * rank)):
            key = f"transformer.{module}.{factor}.weight"
            values = flux_weights.noise(f"{adapter}.{key}", shape, torch.float32) / math.sqrt(width)
            state[key.removeprefix("transformer.")] = values.to(torch.bfloat16)
    return state


def milliseconds(options, function, *arguments, **settings):
    flux_torch.synchronize(options.device)
    start = time.perf_counter()
    function(*arguments, **settings)
    flux_torch.synchronize(options.device)
    return (time.perf_counter() - start) * 1e3


def loaded(options, names, loras, hotswap=False):
    model = flux_weights.transformer(torch.bfloat16, options.device, options.small)
    if hotswap:
        model.enable_lora_hotswap(target_rank=options.rank)
    for name in names:
        model.load_lora_adapter(dict(loras[name]), adapter_name=name, prefix=None)
    return model


def fuse(options, loras, given):
    """Unfuses and fuses."""
    model = loaded(options, "ab", loras)

    def swap(name, is_first=False):
        if not is_first:
            model.unfuse_lora()
        model.set_adapters([name], [0.8])
        model.fuse_lora(adapter_names=[name])

    plain_times = {"first": milliseconds(options, swap, "a", True)}
    before = model(**given)[0].cpu()
    times = [milliseconds(options, swap, "ba"[count % 2]) for count in range(2 * (options.swaps // 2))]
    after = model(**given)[0].cpu()
    drift = flux_torch.relative(after, before)
    return model, times, {**plain_times, "is_same_after_swaps": bool(torch.equal(before, after)), "drift": drift}


def hotswap(options, loras, given):
    """Writes factors over factors."""
    model = loaded(options, "a", loras, hotswap=True)

    def swap(name):
        model.load_lora_adapter(dict(loras[name]), adapter_name="a", prefix=None, hotswap=True)

    return model, [milliseconds(options, swap, "ba"[count % 2]) for count in range(options.swaps)], {}


def set_adapters(options, loras, given):
    """Activates another one."""
    model = loaded(options, "ab", loras)

    def swap(name):
        model.set_adapters([name], [0.8])

    return model, [milliseconds(options, swap, "ba"[count % 2]) for count in range(options.swaps)], {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ways", default="set_adapters,hotswap,fuse")
    parser.add_argument("--swaps", type=int, default=6)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="height and width in pixels")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    ways = {"fuse": fuse, "hotswap": hotswap, "set_adapters": set_adapters}
    with torch.no_grad():
        given = flux_torch.inputs(options, 1, torch.bfloat16)
        model = flux_weights.transformer(torch.bfloat16, options.device, options.small)
        loras = {name: factors(model, name, options.rank) for name in "ab"}
        flux_torch.say(way="none", **flux_torch.timed(model, given, options), modules=len(loras["a"]) // 2,
                       versions=flux_torch.versions())
        del model
        for name in options.ways.split(","):
            model = None
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                model, times, more = ways[name](options, loras, given)
                peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else None
                flux_torch.say(way=name, swap_ms=statistics.median(times), swaps_ms=times, peak_bytes=peak, **more,
                               **flux_torch.timed(model, given, options))
            except Exception as error:
                flux_torch.say(way=name, failed=f"{type(error).__name__}: {str(error)[:500]}")


if __name__ == "__main__":
    main()
