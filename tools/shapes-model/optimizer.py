"""Muon for the matrices of hidden layers, AdamW for everything else, an average of the weights,
and a training step captured as a CUDA graph: at this size, launching kernels would cost more than running them.

Muon replaces the momentum of a matrix by its nearest orthogonal one (five Newton-Schulz
iterations, in bf16, all matrices of one shape at once).
"""

from contextlib import contextmanager

import torch

MUON_RATE, ADAM_RATE = 0.02, 1.5e-3
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

    def __init__(self, named, rate, momentum=0.95, decay=0.01):
        groups = {}
        for name, parameter in named:
            # T5 does not divide by the root of the head's width: its queries start small, and must stay so.
            share = 0.125 if "SelfAttention.q" in name else 1.0
            groups.setdefault((tuple(parameter.shape), share), []).append(parameter)
        self.groups = list(groups.values())
        self.shares = [share for _, share in groups]
        self.momenta = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups]
        self.rate, self.momentum, self.decay = rate, momentum, decay

    @torch.no_grad()
    def step(self, factor):
        """``factor`` is a scalar tensor, so that a captured step sees it change."""
        for group, momentum, share in zip(self.groups, self.momenta, self.shares):
            rate = self.rate * share * factor
            gradient = torch.stack([parameter.grad for parameter in group])
            momentum.lerp_(gradient, 1 - self.momentum)
            update = orthogonalize(gradient.lerp(momentum, self.momentum)).float()
            rows, columns = group[0].shape
            update *= rate * max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(group, 1 - rate * self.decay)
            torch._foreach_sub_(group, list(update.unbind(0)))


class Optimizer:
    """One schedule over both: a linear warm-up, then a linear fall to zero over the last part."""

    HIDDEN = ("attn.", "SelfAttention", "ff.", "ff_context.", "proj_mlp", "single_transformer_blocks", "mlp.", "DenseRelu")

    def __init__(self, module, muon_rate=MUON_RATE, adam_rate=ADAM_RATE, warm_up=0.03, fall=0.6, muon=True):
        matrices, others = [], []
        for name, parameter in module.named_parameters():
            hidden = any(part in name for part in self.HIDDEN) and "norm" not in name and "embed" not in name
            hidden = hidden and "relative_attention" not in name
            if muon and hidden and parameter.ndim == 2:
                matrices.append((name, parameter))
            else:
                others.append(parameter)
        self.muon = Muon(matrices, muon_rate)
        device = others[0].device
        on_gpu = device.type == "cuda"
        self.factor = torch.zeros((), device=device)
        self.adam = torch.optim.AdamW(
            others,
            torch.zeros((), device=device),
            betas=(0.9, 0.99),
            eps=1e-10,
            weight_decay=0.01,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.adam_rate, self.warm_up, self.fall = adam_rate, warm_up, fall

    def at(self, progress):
        """Sets the rates of a progress in 0..1."""
        self.progress = progress
        factor = max(0.0, min(1.0, progress / self.warm_up, (1.0 - progress) / self.fall))
        self.factor.fill_(factor)
        self.adam.param_groups[0]["lr"].fill_(self.adam_rate * factor)

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], 1.0)
        self.adam.step()
        self.muon.step(self.factor)
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

    @contextmanager
    def in_place(self):
        """The average in place of the live weights, for as long as the context lasts."""
        live = [parameter.detach().clone() for parameter in self.live]
        self.copy_to_live()
        yield
        with torch.no_grad():
            torch._foreach_copy_(self.live, live)

    @torch.no_grad()
    def copy_to_live(self):
        torch._foreach_copy_(self.live, self.kept)


# Steps that run as they are before a step is captured.
WARM_UP = 5


class Captured:
    """Runs ``step()`` a few times, then captures it in a CUDA graph and replays that. On a CPU it just runs."""

    def __init__(self, step, device):
        self.step, self.on_gpu = step, device.type == "cuda"
        self.count, self.graph, self.loss = 0, None, None

    def __call__(self):
        self.count += 1
        if not self.on_gpu:
            return self.step()
        if self.count <= WARM_UP:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                loss = self.step()
            torch.cuda.current_stream().wait_stream(stream)
            return loss
        if self.graph is None:
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = self.step()
        self.graph.replay()
        return self.loss
