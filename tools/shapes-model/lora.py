"""Low-rank changes of the transformer: trained by hooks, written in PEFT's and in Kohya's form.

Every linear layer that pictures pass, but the modulations, gets a rank-12 change, scale 1.
"""

import torch
from safetensors.torch import load_file, save_file
from torch import nn

RANK = 12
TEXT_ONLY = ("norm", "add_", "ff_context")
OUTER = {"x_embedder": "img_in", "proj_out": "final_layer_linear"}


class LowRank(nn.Module):
    """A linear layer with a change: base(x) + up(down(x))."""

    def __init__(self, base, rank):
        super().__init__()
        self.base = base
        options = {"device": base.weight.device, "dtype": torch.float32}
        self.down = nn.Parameter(torch.randn(rank, base.in_features, **options) * base.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, **options))

    def forward(self, x):
        return self.base(x) + nn.functional.linear(nn.functional.linear(x, self.down), self.up)


def targets(transformer):
    """Names of the layers that are changed."""
    for name, module in transformer.named_modules():
        of_pictures = name in OUTER or "transformer_blocks" in name and not any(part in name for part in TEXT_ONLY)
        if isinstance(module, nn.Linear) and of_pictures:
            yield name


def attach(transformer, rank=RANK):
    """Wraps the target layers; returns the factors to train."""
    factors = []
    for name in list(targets(transformer)):
        parent_name, _, leaf = name.rpartition(".")
        parent = transformer.get_submodule(parent_name)
        change = LowRank(parent.get_submodule(leaf), rank)
        if isinstance(parent, (nn.ModuleList, nn.Sequential)):
            parent[int(leaf)] = change
        else:
            setattr(parent, leaf, change)
        factors += [change.down, change.up]
    return factors


def save_factors(transformer, path):
    """The factors in f32 by the layer's name, ``NAME.down`` and ``NAME.up``."""
    state = {}
    for name, module in transformer.named_modules():
        if isinstance(module, LowRank):
            state[f"{name}.down"] = module.down.detach().float().contiguous().cpu()
            state[f"{name}.up"] = module.up.detach().float().contiguous().cpu()
    save_file(state, path)


def load_factors(path):
    """Pairs (down, up) by layer name."""
    state = load_file(path)
    return {key[: -len(".down")]: (state[key], state[key[: -len(".down")] + ".up"]) for key in state if key.endswith(".down")}


def continue_from(transformer, path):
    """Gives an attached transformer the factors of an earlier run."""
    for name, (down, up) in load_factors(path).items():
        change = transformer.get_submodule(name)
        with torch.no_grad():
            change.down.copy_(down)
            change.up.copy_(up)


def peft_state(factors):
    """As diffusers' ``save_lora_weights`` writes it."""
    state = {}
    for name, (down, up) in factors.items():
        state[f"transformer.{name}.lora_A.weight"] = down
        state[f"transformer.{name}.lora_B.weight"] = up
    return state


DOUBLE = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn_proj": ("attn.to_out.0",),
    "txt_attn_proj": ("attn.to_add_out",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
}
SINGLE = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), "linear2": ("proj_out",)}


def stack(parts):
    """One change of the layers' outputs joined: downs above each other, ups along the diagonal."""
    return torch.cat([down for down, _ in parts]), torch.block_diag(*[up for _, up in parts])


def kohya_state(factors):
    """As Kohya's scripts write it for FLUX: the original layout's fused layers, with alpha = rank."""
    joined, blocks = {}, {}
    for name, factor in factors.items():
        if name in OUTER:
            joined[OUTER[name]] = factor
            continue
        kind, index, rest = name.split(".", 2)
        blocks.setdefault((kind, index), {})[rest] = factor
    for (kind, index), layers in blocks.items():
        double = kind == "transformer_blocks"
        for target, sources in (DOUBLE if double else SINGLE).items():
            if sources[0] in layers:
                name = f"{'double' if double else 'single'}_blocks_{index}_{target}"
                joined[name] = stack([layers[source] for source in sources])
    state = {}
    for name, (down, up) in joined.items():
        state[f"lora_unet_{name}.lora_down.weight"] = down.contiguous()
        state[f"lora_unet_{name}.lora_up.weight"] = up.contiguous()
        state[f"lora_unet_{name}.alpha"] = torch.tensor(float(len(down)))
    return state
