"""FLUX.1's transformer in plain PyTorch at full size with random weights: the peer that `npm run bench -- image` measures beside.

One residual stream as in diffusers' FluxTransformer2DModel (double blocks, then single blocks; q, k, v and the MLP's first
layer as one product where they read the same rows, which is the faster form). `quantise` makes the blocks' linears e4m3 with a
scale a row and a scale a channel, multiplied by torch._scaled_mm.
"""

import torch
import torch.nn.functional as F
from torch import nn

HEADS, HEAD_DIM = 24, 128
WIDTH = HEADS * HEAD_DIM


class Float8Linear(nn.Module):
    """y = x·Wᵀ + b: per-row dynamic e4m3 activations, per-channel e4m3 weights, fast accumulation."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1, keepdim=True) / 448.0
        self.weight = nn.Buffer((weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn))
        self.scale = nn.Buffer(scale.t().contiguous())
        self.bias = nn.Buffer(linear.bias.detach())

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / 448.0
        codes = (rows.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        y = torch._scaled_mm(
            codes, self.weight.t(), scale_a=scale, scale_b=self.scale, bias=self.bias,
            out_dtype=torch.bfloat16, use_fast_accum=True,
        )
        return y.reshape(*x.shape[:-1], -1)


def modulated(x, shift, scale):
    return F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift


def gelu(x):
    """The form with tanh. Compiled as x·sigmoid(2u), which is the same: Triton's tanh takes 3 ms more of a step."""
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    y = x.float()
    return (y * torch.sigmoid(1.5957691216057308 * (y + 0.044715 * y * y * y))).to(x.dtype)


def rotate(x, cos, sin):
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


class Heads(nn.Module):
    """q, k, v of one stream from its projection: normalised, [B, H, T, 128]."""

    def __init__(self):
        super().__init__()
        self.norm_q = nn.RMSNorm(HEAD_DIM, eps=1e-6)
        self.norm_k = nn.RMSNorm(HEAD_DIM, eps=1e-6)

    def forward(self, qkv):
        q, k, v = qkv.unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        return self.norm_q(q), self.norm_k(k), v


def attention(q, k, v, rope):
    y = F.scaled_dot_product_attention(rotate(q, *rope), rotate(k, *rope), v)
    return y.transpose(1, 2).flatten(2)


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.heads = Heads()
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def vectors(self, temb):
        return self.modulation(F.silu(temb)).unsqueeze(1).chunk(6, dim=-1)

    def finish(self, x, attended, vectors):
        _, _, gate, shift, scale, gate_mlp = vectors
        x = x + gate * self.out(attended)
        up = gelu(self.up(modulated(x, shift, scale)))
        return x + gate_mlp * self.down(up)


class DoubleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.text, self.image = Stream(), Stream()

    def forward(self, text, image, temb, cos, sin):
        of_text, of_image = self.text.vectors(temb), self.image.vectors(temb)
        from_text = self.text.heads(self.text.qkv(modulated(text, *of_text[:2])))
        from_image = self.image.heads(self.image.qkv(modulated(image, *of_image[:2])))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(from_text, from_image, strict=True))
        y = attention(q, k, v, (cos, sin))
        tokens = text.shape[1]
        return self.text.finish(text, y[:, :tokens], of_text), self.image.finish(image, y[:, tokens:], of_image)


class SingleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.modulation = nn.Linear(WIDTH, 3 * WIDTH)
        self.projections = nn.Linear(WIDTH, 7 * WIDTH)
        self.heads = Heads()
        self.out = nn.Linear(5 * WIDTH, WIDTH)

    def forward(self, x, temb, cos, sin):
        shift, scale, gate = self.modulation(F.silu(temb)).unsqueeze(1).chunk(3, dim=-1)
        qkv, mlp = self.projections(modulated(x, shift, scale)).split((3 * WIDTH, 4 * WIDTH), dim=-1)
        y = attention(*self.heads(qkv), (cos, sin))
        return x + gate * self.out(torch.cat([y, gelu(mlp)], dim=-1))


class Transformer(nn.Module):
    def __init__(self, doubles=19, singles=38):
        super().__init__()
        self.x_embedder = nn.Linear(64, WIDTH)
        self.context_embedder = nn.Linear(4096, WIDTH)
        self.doubles = nn.ModuleList(DoubleBlock() for _ in range(doubles))
        self.singles = nn.ModuleList(SingleBlock() for _ in range(singles))
        self.norm_out = nn.Linear(WIDTH, 2 * WIDTH)
        self.proj_out = nn.Linear(WIDTH, 64)

    def quantise(self):
        for block in [*self.doubles, *self.singles]:
            for module in [m for m in block.modules() if not isinstance(m, nn.ModuleList)]:
                for name in ("qkv", "out", "up", "down", "projections"):
                    if isinstance(getattr(module, name, None), nn.Linear):
                        setattr(module, name, Float8Linear(getattr(module, name)))
        return self

    def forward(self, latents, text, temb, cos, sin, double=DoubleBlock.forward, single=SingleBlock.forward):
        x, text = self.x_embedder(latents), self.context_embedder(text)
        for block in self.doubles:
            text, x = double(block, text, x, temb, cos, sin)
        tokens = text.shape[1]
        x = torch.cat([text, x], dim=1)
        for block in self.singles:
            x = single(block, x, temb, cos, sin)
        scale, shift = self.norm_out(F.silu(temb)).unsqueeze(1).chunk(2, dim=-1)
        return self.proj_out(modulated(x[:, tokens:], shift, scale))


def compiled_blocks(options=None):
    """What `forward` takes for its blocks: compiled once for all of a kind, and for each size by itself, which serves best."""
    kinds = {"double": DoubleBlock, "single": SingleBlock}
    return {name: torch.compile(kind.forward, fullgraph=True, dynamic=False, options=options) for name, kind in kinds.items()}


def random_transformer(precision):
    """On the GPU, bf16 or fp8, weights that keep activations finite."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = Transformer().requires_grad_(False).eval()
        torch.set_default_dtype(torch.float32)
    return model.quantise() if precision == "fp8" else model


def inputs(image_tokens, text_tokens):
    def random(*shape):
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    angles = torch.rand(image_tokens + text_tokens, HEAD_DIM // 2, device="cuda") * 6.28
    return random(1, image_tokens, 64), random(1, text_tokens, 4096), random(1, WIDTH), angles.cos(), angles.sin()
