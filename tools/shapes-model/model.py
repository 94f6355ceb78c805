"""The five parts of the model, as diffusers and transformers define them, only narrow.

``Parts.new()`` makes untrained ones; ``Parts.save(FOLDER)`` and ``Parts.load(FOLDER)`` keep the
trained ones in f32. ``velocity`` is the transformer with its text encoders, as FluxPipeline calls them.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from spec import CAPTION_TOKENS

GRID = 8
CLIP_TOKENS, T5_TOKENS = 714, 119
START_ID, END_ID = CLIP_TOKENS - 2, CLIP_TOKENS - 1


def new_vae():
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def new_clip():
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=CLIP_TOKENS,
            hidden_size=64,
            intermediate_size=256,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=1,
            max_position_embeddings=CAPTION_TOKENS,
            bos_token_id=START_ID,
            eos_token_id=END_ID,
            pad_token_id=END_ID,
        )
    )


def new_t5():
    return T5EncoderModel(
        T5Config(
            vocab_size=T5_TOKENS,
            d_model=128,
            d_kv=64,
            d_ff=256,
            num_layers=3,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            tie_word_embeddings=False,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def new_transformer():
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=3,
        attention_head_dim=128,
        num_attention_heads=2,
        joint_attention_dim=128,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )
    for name, module in transformer.named_modules():
        # Adaptive normalization starts as the identity, as in DiT.
        if name == "proj_out" or name.endswith(".linear") and "norm" in name:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def new_scheduler():
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=4096,
        max_shift=1.15,
        shift=3.0,
        use_dynamic_shifting=True,
    )


def pack(latents):
    """[n, 16, 16, 16] to the tokens of the transformer, [n, 64, 64], as FluxPipeline packs."""
    n, c, h, w = latents.shape
    latents = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(n, h * w // 4, 4 * c)


def unpack(tokens):
    """The inverse of ``pack``."""
    n, _, c = tokens.shape
    return tokens.view(n, GRID, GRID, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c // 4, 2 * GRID, 2 * GRID)


def couple(noise, shares, near=0.3, width=0.06):
    """Gives packed noise [n, 64, 64] the moves of its pictures: along each axis a mean of the noise,
    normal as before over all pictures, lies where ``shares`` [n, 4] (from, to) of the normal distribution lie.

    Rectified flow may couple noise and pictures in any way that keeps both distributions. So the
    noise alone says where the shapes go, and paths never cross between places. A part ``near`` of
    the pictures lies within ``width`` of the bound between two places, where the answer is hardest.
    """
    for channel, share in enumerate(shares.view(-1, 2, 2).unbind(1)):
        low, high = share.unbind(1)
        close = torch.rand_like(low) < near
        from_below = close & (low > 0)
        from_above = close & ~from_below & (high < 1)
        low, high = torch.where(from_above, high - width, low), torch.where(from_below, low + width, high)
        wanted = torch.special.ndtri((low + (high - low) * torch.rand_like(low)).clamp(1e-6, 1 - 1e-6))
        mean = noise[..., channel].sum(1) / GRID
        noise[..., channel] += ((wanted - mean) / GRID)[:, None]
    return noise


def image_ids(device):
    ids = torch.zeros(GRID, GRID, 3, device=device)
    ids[..., 1] = torch.arange(GRID, device=device)[:, None]
    ids[..., 2] = torch.arange(GRID, device=device)[None]
    return ids.reshape(-1, 3)


class Flow(nn.Module):
    """Transformer and text encoders: the velocity of noisy tokens, given token ids and guidance."""

    def __init__(self, transformer=None, clip=None, t5=None):
        super().__init__()
        self.transformer = transformer or new_transformer()
        self.clip = clip or new_clip()
        self.t5 = t5 or new_t5()

    def embed(self, clip_ids, t5_ids):
        """T5's states [n, length, 128] and CLIP's pooled state [n, 64]; pads are attended to, as in FLUX."""
        pooled = self.clip(input_ids=clip_ids.long()).pooler_output
        return self.t5(input_ids=t5_ids.long())[0], pooled

    def forward(self, tokens, t, guidance, states, pooled):
        """Velocity [n, 64, 64] at times ``t`` in 0..1 (1 is noise)."""
        return self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=t,
            guidance=guidance,
            img_ids=image_ids(tokens.device),
            txt_ids=torch.zeros(states.shape[1], 3, device=tokens.device),
            return_dict=False,
        )[0]


def save_parts(folder, **parts):
    """State dictionaries in f32, a file each."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        state = {key: value.detach().float().cpu().clone(memory_format=torch.contiguous_format) for key, value in part.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")


def load_parts(folder, **parts):
    for name, part in parts.items():
        part.load_state_dict(load_file(Path(folder) / f"{name}.safetensors"))


def flow_parts(flow):
    return {"transformer": flow.transformer, "text_encoder": flow.clip, "text_encoder_2": flow.t5}


def schedule(steps):
    """Noise levels of FluxPipeline for 64 image tokens, with the final 0."""
    import numpy

    scheduler = new_scheduler()
    config = scheduler.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu = GRID * GRID * slope + config.base_shift - slope * config.base_image_seq_len
    scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler.sigmas


@torch.no_grad()
def generate(flow, noise, clip_ids, t5_ids, guidance, steps, empty=None):
    """Euler's method as the pipeline runs it. ``empty`` (token ids of "") asks for
    classifier-free guidance with ``guidance``; else the model gets it as its input."""
    states, pooled = flow.embed(clip_ids, t5_ids)
    inner = guidance
    if empty is not None:
        none_states, none_pooled = flow.embed(*(ids.expand(len(noise), -1) for ids in empty))
        inner = torch.ones_like(guidance)
    tokens, sigmas = noise, schedule(steps).to(noise.device)
    for now, after in zip(sigmas, sigmas[1:]):
        t = now.expand(len(noise))
        velocity = flow(tokens, t, inner, states, pooled).float()
        if empty is not None:
            without = flow(tokens, t, inner, none_states, none_pooled).float()
            velocity = without + guidance[:, None, None] * (velocity - without)
        tokens = tokens + (after - now) * velocity
    return tokens


if __name__ == "__main__":
    flow, vae = Flow(), new_vae()
    for name, part in {**flow_parts(flow), "vae": vae}.items():
        print(f"{name}: {sum(p.numel() for p in part.parameters()):,}")
    states, pooled = flow.embed(torch.full((2, CAPTION_TOKENS), END_ID), torch.ones(2, CAPTION_TOKENS))
    print(flow(torch.randn(2, 64, 64), torch.rand(2), torch.ones(2), states, pooled).shape)
