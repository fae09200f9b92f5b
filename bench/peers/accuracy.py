"""The transformer of a checkpoint folder through PyTorch, in f32, in bf16 and with per-row fp8 linears, these with attention in bf16 and of e4m3 casts:
what `npm run bench -- accuracy` compares with.

    python3 bench/peers/accuracy.py FOLDER OUT [--rows 64] [--columns 64] [--text 512] [--draws 3] [--device cuda]

FOLDER holds transformer/diffusion_pytorch_model.safetensors in diffusers' names; the file is read here, without diffusers. For each draw OUT gets the
inputs (latents, text, pooled; f32 numbers that bf16 holds) and the noise predictions f32, bf16, fp8 and fp8_e4m3 at timestep 1 and guidance 3.5, as raw f32.
"""

import argparse
import json
import math
import os
from contextlib import nullcontext
from unittest.mock import patch

import torch
import torch.nn.functional as F

from torch.nn.attention import SDPBackend, sdpa_kernel

from flux import HEAD_DIM, Transformer

GUIDANCE, TIMESTEP = 3.5, 1.0
AXES, THETA = (16, 56, 56), 10000.0


def read_safetensors(path):
    size = os.path.getsize(path)
    data = torch.from_file(path, shared=False, size=size, dtype=torch.uint8)
    length = int.from_bytes(bytes(data[:8].tolist()), "little")
    header = json.loads(bytes(data[8 : 8 + length].tolist()))
    dtypes = {"BF16": torch.bfloat16, "F32": torch.float32}
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = data[begin:end].view(dtypes[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def state_of(tensors, doubles, singles):
    """The tensors under the names of flux.py, q, k, v (and the MLP's first layer) stacked."""
    state = {}

    def put(name, *stored):
        for part in ("weight", "bias"):
            state[f"{name}.{part}"] = torch.cat([tensors[f"{each}.{part}"] for each in stored])

    def norms(name, q, k):
        state[f"{name}.norm_q.weight"], state[f"{name}.norm_k.weight"] = tensors[f"{q}.weight"], tensors[f"{k}.weight"]

    for name, stored in [("x_embedder",) * 2, ("context_embedder",) * 2, ("norm_out", "norm_out.linear"), ("proj_out",) * 2]:
        put(name, stored)
    for i in range(doubles):
        block, attn = f"transformer_blocks.{i}", f"transformer_blocks.{i}.attn"
        for own, norm, qkv, norm_qk, out, mlp in [
            ("image", "norm1", "to_{}", "norm_{}", "to_out.0", "ff"),
            ("text", "norm1_context", "add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
        ]:
            stream = f"doubles.{i}.{own}"
            put(f"{stream}.modulation", f"{block}.{norm}.linear")
            put(f"{stream}.qkv", *(f"{attn}.{qkv.format(which)}" for which in "qkv"))
            norms(f"{stream}.heads", *(f"{attn}.{norm_qk.format(which)}" for which in "qk"))
            put(f"{stream}.out", f"{attn}.{out}")
            put(f"{stream}.up", f"{block}.{mlp}.net.0.proj")
            put(f"{stream}.down", f"{block}.{mlp}.net.2")
    for i in range(singles):
        block, attn = f"single_transformer_blocks.{i}", f"single_transformer_blocks.{i}.attn"
        put(f"singles.{i}.modulation", f"{block}.norm.linear")
        put(f"singles.{i}.projections", *(f"{attn}.to_{which}" for which in "qkv"), f"{block}.proj_mlp")
        norms(f"singles.{i}.heads", f"{attn}.norm_q", f"{attn}.norm_k")
        put(f"singles.{i}.out", f"{block}.proj_out")
    return state


def load(tensors, device, precision):
    doubles = len({name.split(".")[1] for name in tensors if name.startswith("transformer_blocks.")})
    singles = len({name.split(".")[1] for name in tensors if name.startswith("single_transformer_blocks.")})
    with torch.device("meta"):
        model = Transformer(doubles, singles)
    dtype = torch.float32 if precision == "f32" else torch.bfloat16
    state = {name: tensor.to(device, dtype) for name, tensor in state_of(tensors, doubles, singles).items()}
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False).eval()
    return model.quantise() if precision == "fp8" else model


def sinusoids(value, device):
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=device) / 128)
    angles = 1000 * value * frequencies
    return torch.cat([angles.cos(), angles.sin()])[None]


def conditioning(tensors, pooled, device, dtype):
    """temb = time + guidance + text, [1, 3072]."""

    def embed(name, x):
        first, second = (f"time_text_embed.{name}.linear_{i}" for i in (1, 2))
        layer = lambda at, y: F.linear(y, tensors[f"{at}.weight"].to(device, dtype), tensors[f"{at}.bias"].to(device, dtype))
        return layer(second, F.silu(layer(first, x.to(dtype))))

    time = embed("timestep_embedder", sinusoids(TIMESTEP, device))
    return time + embed("guidance_embedder", sinusoids(GUIDANCE, device)) + embed("text_embedder", pooled)


def rotary(rows, columns, text, device):
    ids = torch.zeros(text + rows * columns, 3, dtype=torch.float64, device=device)
    ids[text:, 1] = torch.arange(rows, device=device).repeat_interleave(columns)
    ids[text:, 2] = torch.arange(columns, device=device).repeat(rows)
    angles = [
        ids[:, axis, None] * THETA ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
        for axis, width in enumerate(AXES)
    ]
    angles = torch.cat(angles, dim=1)
    assert angles.shape[1] == HEAD_DIM // 2
    return angles.cos().float(), angles.sin().float()


def e4m3_attention(q, k, v):
    """FlashAttention-3's fp8 recipe in f32: q, k, v and 256·exp(s − max) cast to e4m3 without scales, sums of the exponentials before the cast."""

    def cast(x):
        return x.float().clamp(-448, 448).to(torch.float8_e4m3fn).float()

    def of_head(q, k, v):
        scores = cast(q) @ cast(k).mT / math.sqrt(q.shape[-1])
        weights = 256 * torch.exp(scores - scores.amax(dim=-1, keepdim=True))
        return cast(weights) @ cast(v) / weights.sum(dim=-1, keepdim=True)

    heads = [of_head(*(x[:, head] for x in (q, k, v))) for head in range(q.shape[1])]
    return torch.stack(heads, dim=1).to(q.dtype)


def attention_of(name, device):
    """f32 as PyTorch chooses; bf16 by cuDNN, as in the step that we compare our speed with."""
    if name == "fp8_e4m3":
        return patch.object(F, "scaled_dot_product_attention", e4m3_attention)
    return sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if name != "f32" and device != "cpu" else nullcontext()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("out")
    for name, value in [("rows", 64), ("columns", 64), ("text", 512), ("draws", 3)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    device = given.device
    tensors = read_safetensors(os.path.join(given.folder, "transformer/diffusion_pytorch_model.safetensors"))
    rope = rotary(given.rows, given.columns, given.text, device)

    def save(name, tensor):
        tensor.float().cpu().contiguous().numpy().tofile(os.path.join(given.out, f"{name}.f32"))

    def random(draw, *shape):
        generator = torch.Generator().manual_seed(100 * draw + len(shape) * 7 + shape[-1])
        return torch.randn(shape, generator=generator).bfloat16().float()

    for name in ("f32", "bf16", "fp8", "fp8_e4m3"):
        precision = name.split("_")[0]
        model = load(tensors, device, precision)
        dtype = torch.float32 if precision == "f32" else torch.bfloat16
        for draw in range(given.draws):
            latents = random(draw, 1, given.rows * given.columns, 64)
            text, pooled = random(draw, 1, given.text, 4096), random(draw, 1, 768)
            if precision == "f32":
                for part, tensor in [("latents", latents), ("text", text), ("pooled", pooled)]:
                    save(f"{part}.{draw}", tensor)
            temb = conditioning(tensors, pooled.to(device), device, dtype)
            with attention_of(name, device):
                save(f"{name}.{draw}", model(latents.to(device, dtype), text.to(device, dtype), temb, *rope))
        print(f"PyTorch {name}: done", flush=True)
        del model


if __name__ == "__main__":
    main()
