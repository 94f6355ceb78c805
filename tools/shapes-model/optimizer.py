"""Muon for the matrices of hidden layers, AdamW for everything else, and an average of the weights.

Muon replaces the momentum of a matrix by its nearest orthogonal one (five Newton-Schulz
iterations, in bf16, all matrices of one shape at once).
"""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(stack):
    """Matrices [n, rows, columns] with singular values near 1."""
    a, b, c = COEFFICIENTS
    x = stack.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Muon with Nesterov momentum over matrices grouped by shape."""

    def __init__(self, parameters, rate, momentum=0.95, decay=0.01):
        groups = {}
        for parameter in parameters:
            groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = list(groups.values())
        self.momenta = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups]
        self.rate, self.momentum, self.decay = rate, momentum, decay

    @torch.no_grad()
    def step(self, factor):
        rate = self.rate * factor
        for group, momentum in zip(self.groups, self.momenta):
            gradient = torch.stack([parameter.grad for parameter in group])
            momentum.lerp_(gradient, 1 - self.momentum)
            update = orthogonalize(gradient.lerp(momentum, self.momentum)).float()
            rows, columns = group[0].shape
            update *= max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(group, 1 - rate * self.decay)
            torch._foreach_add_(group, list(update.unbind(0)), alpha=-rate)


class Optimizer:
    """One schedule over both: a linear warm-up, then a linear fall to zero over the last part."""

    HIDDEN = ("attn.", "SelfAttention", "ff.", "ff_context.", "proj_mlp", "single_transformer_blocks", "mlp.", "DenseRelu")

    def __init__(self, module, muon_rate=0.01, adam_rate=1.5e-3, warm_up=0.03, fall=0.6, muon=True):
        matrices, others = [], []
        for name, parameter in module.named_parameters():
            hidden = any(part in name for part in self.HIDDEN) and "norm" not in name and "embed" not in name
            hidden = hidden and "relative_attention" not in name
            (matrices if muon and hidden and parameter.ndim == 2 else others).append(parameter)
        self.muon = Muon(matrices, muon_rate)
        device = others[0].device
        self.adam = torch.optim.AdamW(
            others, adam_rate, betas=(0.9, 0.99), eps=1e-10, weight_decay=0.01, fused=device.type == "cuda"
        )
        self.adam_rate, self.warm_up, self.fall = adam_rate, warm_up, fall

    def factor(self, progress):
        """The rate's factor at a progress in 0..1."""
        return max(0.0, min(1.0, progress / self.warm_up, (1.0 - progress) / self.fall))

    def step(self, progress):
        factor = self.factor(progress)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * factor
        self.adam.step()
        self.muon.step(factor)
        self.adam.zero_grad(set_to_none=True)
        for group in self.muon.groups:
            for parameter in group:
                parameter.grad = None


class Average:
    """An exponential moving average of a module's parameters, short at first."""

    def __init__(self, module, decay=0.9995):
        self.live = list(module.parameters())
        self.kept = [parameter.detach().clone() for parameter in self.live]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.kept, self.live, 1 - decay)

    @torch.no_grad()
    def copy_to(self, module):
        for parameter, kept in zip(module.parameters(), self.kept):
            parameter.copy_(kept)
