"""What the text encoders learn before the transformer: to tell, at each noun, all that is said of it.

``Reader`` holds the encoders with linear heads. At the token of a shape's kind T5's state must give
the shape's colour, size, pattern and place; T5's state at the end of the text, and CLIP's pooled
state, give the background. The heads are thrown away afterwards; the transformer then finds
adjectives bound to their nouns, and nouns to their places.
"""

import torch
import torch.nn.functional as F
from torch import nn

from spec import BACKGROUNDS, CANVAS, COLOURS, KINDS, PATTERNS, SIZES, SPEC

T5_END = 1
SAID_OF_A_SHAPE = {"colour": len(COLOURS), "size": len(SIZES), "pattern": len(PATTERNS), "place": 2}
SAID_OF_THE_GROUND = {"form": len(BACKGROUNDS), "a": len(COLOURS), "b": len(COLOURS)}


def kind_tokens(tokenizer):
    """T5's token of each kind: every word of the grammar is one."""
    ids = tokenizer([f"a {kind}" for kind in KINDS], add_special_tokens=False).input_ids
    assert all(len(words) == len(ids[0]) for words in ids), f"kinds are not single tokens: {ids}"
    return torch.tensor([words[-1] for words in ids])


class Reader(nn.Module):
    """``reader(rows, clip_ids, t5_ids)``: the loss, and how often each thing is read rightly."""

    def __init__(self, clip, t5, kinds):
        super().__init__()
        self.clip, self.t5 = clip, t5
        self.register_buffer("kinds", kinds)
        self.register_buffer("radii", torch.tensor([float(SPEC["sizes"][size]) for size in SIZES]))
        width, pooled = t5.config.d_model, clip.config.hidden_size
        self.noun_heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in SAID_OF_A_SHAPE.items()})
        self.end_heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in SAID_OF_THE_GROUND.items()})
        self.pooled_heads = nn.ModuleDict({name: nn.Linear(pooled, n) for name, n in SAID_OF_THE_GROUND.items()})

    def of_nouns(self, rows, t5_ids):
        """For each token: whether it is a shape's noun [n, l], and that shape's row [n, l, 6].

        Captions name shapes in the order opposite to the drawing order of rows.
        """
        nouns = torch.isin(t5_ids, self.kinds)
        shapes = rows[:, :18].view(-1, 3, 6)
        shown = (shapes[..., 0] >= 0).sum(1, keepdim=True)
        slot = (shown - nouns.cumsum(1)).clamp(0, 2)
        return nouns, shapes.gather(1, slot[..., None].expand(-1, -1, 6))

    def forward(self, rows, clip_ids, t5_ids):
        states = self.t5(input_ids=t5_ids.long())[0].float()
        pooled = self.clip(input_ids=clip_ids.long()).pooler_output.float()
        nouns, shapes = self.of_nouns(rows, t5_ids)
        weight = nouns.float() / nouns.sum()
        wanted = {
            "colour": shapes[..., 1].long(),
            "size": (shapes[..., 2:3] - self.radii).abs().argmin(-1),
            "pattern": shapes[..., 5].long(),
        }
        loss, right = 0.0, {}
        for name, answer in wanted.items():
            logits = self.noun_heads[name](states)
            loss = loss + (F.cross_entropy(logits.transpose(1, 2), answer, reduction="none") * weight).sum()
            right[name] = ((logits.argmax(-1) == answer) * weight).sum()
        place = (shapes[..., 3:5] - CANVAS / 2) / (CANVAS / 4)
        off = (self.noun_heads["place"](states) - place).square().mean(-1)
        loss = loss + 2.0 * (off * weight).sum()
        right["place_off"] = (off * weight).sum()
        ends = (t5_ids == T5_END).float()
        end = (states * (ends / ends.sum(1, keepdim=True))[..., None]).sum(1)
        for column, name in enumerate(SAID_OF_THE_GROUND):
            answer = rows[:, 18 + column].long()
            for kind, heads, state in (("end", self.end_heads, end), ("pooled", self.pooled_heads, pooled)):
                logits = heads[name](state)
                loss = loss + F.cross_entropy(logits, answer)
                right[f"{kind}_{name}"] = (logits.argmax(-1) == answer).float().mean()
        return loss, right
