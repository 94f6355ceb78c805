"""How many significant bits the stored weights keep, and the rounding to so many.

The package of the crate is compressed, and bits that say nothing would fill it. ``guide`` and
``lora`` train with rounded weights (``Rounded``), so that nothing is lost at the export.
"""

import torch

BITS, FEW_BITS = 5, 4
FEW = ("norm", "ff.", "ff_context.", "proj_mlp")


def bits_of(name, tensor):
    """Significant bits of a weight, fewer for modulations and feed-forward layers; none of a vector, which stays."""
    if tensor.ndim < 2:
        return None
    is_few = any(part in name for part in FEW) or "blocks" in name and "proj_out" in name
    return FEW_BITS if is_few else BITS


def rounded(tensors, bits):
    """f32 tensors to the nearest values of so many significant bits, by Veltkamp's splitting."""
    split = torch._foreach_mul(tensors, 2.0 ** (24 - bits) + 1)
    return torch._foreach_sub(split, torch._foreach_sub(split, tensors))


class Rounded:
    """Inside the context the named parameters are rounded, after it they are what they were.

    Gradients that were found at the rounded weights belong to the whole ones (straight through).
    """

    def __init__(self, named, bits_of=bits_of):
        self.groups = {}
        for name, parameter in named:
            bits = bits_of(name, parameter)
            if bits is not None:
                self.groups.setdefault(bits, []).append(parameter)

    @torch.no_grad()
    def __enter__(self):
        self.whole = {bits: [parameter.clone() for parameter in group] for bits, group in self.groups.items()}
        self.apply()

    @torch.no_grad()
    def apply(self):
        """Rounds them for good."""
        for bits, group in self.groups.items():
            torch._foreach_copy_(group, rounded(group, bits))

    @torch.no_grad()
    def __exit__(self, *_):
        for bits, group in self.groups.items():
            torch._foreach_copy_(group, self.whole[bits])
