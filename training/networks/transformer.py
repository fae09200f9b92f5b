"""FLUX's transformer: double blocks with separate text and image weights, then single blocks over the joint sequence.

Joint sequence: text, then image. Rotary embedding over (index, row, column) with interleaved pairs; queries and keys
are RMS-normalised per head. Modulation order of a block: shift, scale, gate; of the last norm: scale, shift.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def sinusoidal_embedding(values, width=256, max_period=10000.0):
    """(B,) -> (B, width): cosines first, then sines."""
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=values.device).float() / half)
    angles = values.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_table(ids, axes, theta=10000.0):
    """ids (L, 3) -> unit complex numbers (L, head_dim / 2), one for every pair of channels. In float64 inside."""
    angles = []
    for axis, width in enumerate(axes):
        frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float64, device=ids.device) / width)
        angles.append(ids[:, axis].double()[:, None] * frequencies[None])
    angles = torch.cat(angles, dim=-1)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def rotate(x, rope):
    """x (B, heads, L, head_dim): every pair (a, b), taken as a + ib, is multiplied by its unit complex number."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rope).flatten(3)


def attend(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v)
    return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1) @ v


class HeadNorm(nn.Module):
    """RMS norm over a head's channels."""

    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        if hasattr(F, "rms_norm"):
            return F.rms_norm(x.float(), x.shape[-1:], self.weight, self.eps)
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def normalise(x, shift, scale):
    """LayerNorm without affine parameters, then modulation. x (B, L, C); shift and scale (B, C).

    The result has shift's type: bf16 under autocast, so that it is cast once for all projections that read it.
    """
    h = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6).to(shift.dtype)
    return torch.addcmul(shift[:, None], h, 1 + scale[:, None])


class Modulation(nn.Module):
    def __init__(self, width, parts):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding):
        return self.linear(F.silu(embedding)).chunk(self.parts, dim=-1)


class GeluProjection(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x):
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.ModuleList([GeluProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class Attention(nn.Module):
    """q, k, v of one stream; with `joint`, of a second (text) stream too, and both output projections."""

    def __init__(self, width, head_dim, joint):
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q = HeadNorm(head_dim)
        self.norm_k = HeadNorm(head_dim)
        if joint:
            self.add_q_proj = nn.Linear(width, width)
            self.add_k_proj = nn.Linear(width, width)
            self.add_v_proj = nn.Linear(width, width)
            self.norm_added_q = HeadNorm(head_dim)
            self.norm_added_k = HeadNorm(head_dim)
            self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])
            self.to_add_out = nn.Linear(width, width)

    def heads(self, x):
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def image_qkv(self, x):
        v = self.heads(self.to_v(x))
        return self.norm_q(self.heads(self.to_q(x))), self.norm_k(self.heads(self.to_k(x))), v

    def text_qkv(self, x):
        v = self.heads(self.add_v_proj(x))
        return self.norm_added_q(self.heads(self.add_q_proj(x))), self.norm_added_k(self.heads(self.add_k_proj(x))), v

    @staticmethod
    def mix(q, k, v, rope):
        q, k = rotate(q, rope).to(v.dtype), rotate(k, rope).to(v.dtype)
        return attend(q, k, v).transpose(1, 2).flatten(2)


class DoubleBlock(nn.Module):
    def __init__(self, width, head_dim):
        super().__init__()
        self.norm1 = Modulation(width, 6)
        self.norm1_context = Modulation(width, 6)
        self.attn = Attention(width, head_dim, joint=True)
        self.ff = FeedForward(width)
        self.ff_context = FeedForward(width)

    def forward(self, text, image, embedding, rope):
        i_shift, i_scale, i_gate, i_mlp_shift, i_mlp_scale, i_mlp_gate = self.norm1(embedding)
        t_shift, t_scale, t_gate, t_mlp_shift, t_mlp_scale, t_mlp_gate = self.norm1_context(embedding)
        image_qkv = self.attn.image_qkv(normalise(image, i_shift, i_scale))
        text_qkv = self.attn.text_qkv(normalise(text, t_shift, t_scale))
        mixed = self.attn.mix(*(torch.cat(pair, dim=2) for pair in zip(text_qkv, image_qkv)), rope)
        text_out, image_out = mixed.split([text.shape[1], image.shape[1]], dim=1)
        image = image + i_gate[:, None] * self.attn.to_out[0](image_out)
        image = image + i_mlp_gate[:, None] * self.ff(normalise(image, i_mlp_shift, i_mlp_scale))
        text = text + t_gate[:, None] * self.attn.to_add_out(text_out)
        text = text + t_mlp_gate[:, None] * self.ff_context(normalise(text, t_mlp_shift, t_mlp_scale))
        return text, image


class SingleBlock(nn.Module):
    def __init__(self, width, head_dim):
        super().__init__()
        self.norm = Modulation(width, 3)
        self.attn = Attention(width, head_dim, joint=False)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.proj_out = nn.Linear(5 * width, width)

    def forward(self, x, embedding, rope):
        shift, scale, gate = self.norm(embedding)
        h = normalise(x, shift, scale)
        mixed = self.attn.mix(*self.attn.image_qkv(h), rope)
        mlp = F.gelu(self.proj_mlp(h), approximate="tanh")
        return x + gate[:, None] * self.proj_out(torch.cat([mixed, mlp], dim=-1))


class Embedder(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeTextEmbedding(nn.Module):
    def __init__(self, width, pooled, guidance):
        super().__init__()
        self.timestep_embedder = Embedder(256, width)
        if guidance:
            self.guidance_embedder = Embedder(256, width)
        self.text_embedder = Embedder(pooled, width)

    def forward(self, timestep, guidance, pooled):
        embedding = self.timestep_embedder(sinusoidal_embedding(1000 * timestep)) + self.text_embedder(pooled)
        if hasattr(self, "guidance_embedder"):
            embedding = embedding + self.guidance_embedder(sinusoidal_embedding(1000 * guidance))
        return embedding


class FluxTransformer(nn.Module):
    """`config` is transformer/config.json."""

    def __init__(self, config):
        super().__init__()
        head_dim = config["attention_head_dim"]
        width = config["num_attention_heads"] * head_dim
        self.axes = config["axes_dims_rope"]
        outputs = config["out_channels"] or config["in_channels"]
        self.x_embedder = nn.Linear(config["in_channels"], width)
        self.context_embedder = nn.Linear(config["joint_attention_dim"], width)
        self.time_text_embed = TimeTextEmbedding(width, config["pooled_projection_dim"], config["guidance_embeds"])
        self.transformer_blocks = nn.ModuleList([DoubleBlock(width, head_dim) for _ in range(config["num_layers"])])
        self.single_transformer_blocks = nn.ModuleList(
            [SingleBlock(width, head_dim) for _ in range(config["num_single_layers"])]
        )
        self.norm_out = Modulation(width, 2)
        self.proj_out = nn.Linear(width, outputs)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, latents, text, pooled, timestep, image_ids, text_ids, guidance=None):
        """Velocity (B, N, 64) of packed latents (B, N, 64).

        text (B, L, joint_attention_dim), pooled (B, pooled_projection_dim), timestep (B,) in [0, 1], image_ids (N, 3),
        text_ids (L, 3), guidance (B,) where the model has a guidance embedding.
        """
        rope = rotary_table(torch.cat([text_ids, image_ids]), self.axes)
        embedding = self.time_text_embed(timestep, guidance, pooled)
        image, text = self.x_embedder(latents), self.context_embedder(text)
        for block in self.transformer_blocks:
            text, image = block(text, image, embedding, rope)
        x = torch.cat([text, image], dim=1)
        for block in self.single_transformer_blocks:
            x = block(x, embedding, rope)
        scale, shift = self.norm_out(embedding)
        return self.proj_out(normalise(x[:, text.shape[1] :], shift, scale))
