"""Trains style adapters on the frozen model: the same captions, with pictures drawn in another style.

    python3 train_lora.py --model ../models/tiny --state DIR --out ../models/tiny-loras [--seconds 15]

Trained at guidance 1, where the model is the plain flow: what guidance adds at other scales then stays.
Each style has its own rank and target modules. Three are saved with diffusers' keys (transformer.….lora_A.weight), one
with kohya's (lora_unet_….lora_down.weight and alpha), trained as kohya trains: one down matrix for each fused projection.
"""
import argparse
import os
import random
import re
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

import tensor_file
from data.captions import describe
from data.pool import make_pool
from data.scenes import sample_scene
from evaluate import load_average
from flow import pack, sample_sigmas, velocity
from graphed import GraphedStep, make_adamw, set_rate
from images import contact_sheet, to_uint8
from latent_store import encode_scenes
from pipeline import TinyFlux
from schedule import ramp

DOUBLE_ATTENTION = r"transformer_blocks\.0\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
SINGLE_ATTENTION = r"single_transformer_blocks\.\d+\.attn\.to_[qkv]"
SINGLE_MLP = r"single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
DOUBLE_MLP = r"transformer_blocks\.0\.ff(_context)?\.net\.(0\.proj|2)"

# style -> rank, alpha (None: as rank, not stored), targets, file format
ADAPTERS = {
    "outline": (16, None, [DOUBLE_ATTENTION, DOUBLE_MLP, SINGLE_ATTENTION, SINGLE_MLP], "peft"),
    "pixel": (8, None, [SINGLE_ATTENTION, SINGLE_MLP, r"proj_out"], "peft"),
    "sticker": (12, None, [DOUBLE_ATTENTION, SINGLE_ATTENTION, SINGLE_MLP], "peft"),
    "night": (6, 3.0, [DOUBLE_MLP, SINGLE_ATTENTION, SINGLE_MLP, r"single_transformer_blocks\.\d+\.norm\.linear"], "kohya"),
}
LIMIT = 1_000_000  # bytes of one adapter


def kohya_name(group):
    """The fused BFL module's kohya name for a group of diffusers modules."""
    first = group[0]
    block = re.search(r"transformer_blocks\.(\d+)", first).group(1)
    if first.startswith("single"):
        part = "linear1" if len(group) > 1 else "linear2" if first.endswith("proj_out") else "modulation_lin"
        return f"lora_unet_single_blocks_{block}_{part}"
    stream = "txt" if "ff_context" in first else "img"
    return f"lora_unet_double_blocks_{block}_{stream}_mlp_{'0' if first.endswith('proj') else '2'}"


def target_groups(transformer, patterns, fused):
    """Lists of linear layers that share one down matrix; with `fused`, a single block's q, k, v and MLP-up do."""
    names = [n for n, m in transformer.named_modules() if isinstance(m, nn.Linear) and any(re.fullmatch(p, n) for p in patterns)]
    if not fused:
        return [[name] for name in names]
    groups = {}
    for name in names:
        inner = re.fullmatch(r"(single_transformer_blocks\.\d+)\.(attn\.to_[qkv]|proj_mlp)", name)
        groups.setdefault(inner.group(1) if inner else name, []).append(name)
    order = ("to_q", "to_k", "to_v", "proj_mlp")
    rank_of = lambda name: next((i for i, part in enumerate(order) if name.endswith(part)), 0)
    return [sorted(group, key=rank_of) for group in groups.values()]


class Adapter(nn.Module):
    """Low-rank updates of linear layers, added by forward hooks: y + (alpha / rank) up(down(x))."""

    def __init__(self, transformer, rank, alpha, patterns, fused):
        super().__init__()
        modules = dict(transformer.named_modules())
        self.groups = target_groups(transformer, patterns, fused)
        self.rank, self.alpha = rank, alpha or float(rank)
        self.down, self.up, self.hooks, self.strength = nn.ParameterList(), nn.ParameterList(), [], 1.0
        for group in self.groups:
            down = nn.Parameter(torch.randn(rank, modules[group[0]].in_features) * modules[group[0]].in_features ** -0.5)
            self.down.append(down)
            for name in group:
                up = nn.Parameter(torch.zeros(modules[name].out_features, rank))
                self.up.append(up)
                self.hooks.append(modules[name].register_forward_hook(self.make_hook(down, up)))

    def make_hook(self, down, up):
        return lambda module, inputs, output: output + self.strength * self.alpha / self.rank * F.linear(
            F.linear(inputs[0], down.to(inputs[0].dtype)), up.to(inputs[0].dtype)
        )

    def remove(self):
        for hook in self.hooks:
            hook.remove()

    def tensors(self, form):
        """The adapter's tensors in bf16, named as diffusers ("peft") or kohya names them."""
        out, ups = {}, iter(self.up)
        for group, down in zip(self.groups, self.down):
            parts = [next(ups) for _ in group]
            if form == "kohya":
                name = kohya_name(group)
                out[f"{name}.lora_down.weight"] = down
                out[f"{name}.lora_up.weight"] = torch.cat(list(parts))
                out[f"{name}.alpha"] = torch.tensor(self.alpha)
            else:
                out[f"transformer.{group[0]}.lora_A.weight"] = down
                out[f"transformer.{group[0]}.lora_B.weight"] = parts[0]
        return {name: tensor.detach().to(torch.bfloat16) for name, tensor in out.items()}


def adapter_loss(model, latents, clip, t5, device):
    x0 = pack(latents.float())
    noise = torch.randn_like(x0)
    sigma = sample_sigmas(len(x0), x0.shape[1], device)
    x = x0 + sigma[:, None, None] * (noise - x0)
    guidance = torch.ones(len(x0), device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        with torch.no_grad():
            conditions = model.encode_ids(clip, t5)
        v = velocity(model.transformer, x, conditions, sigma, (16, 16), guidance)
    return F.mse_loss(v.float(), noise - x0)


def train_style(model, style, pool, options, device):
    rank, alpha, patterns, form = ADAPTERS[style]
    torch.manual_seed(options.seed)
    rows, clip, t5, _ = pool
    latents = encode_scenes(model, rows, 256, 256, style)
    adapter = Adapter(model.transformer, rank, alpha, patterns, form == "kohya").to(device)
    parameters = list(adapter.parameters())
    optimizer = make_adamw(parameters, options.rate, device, weight_decay=0.0)

    def body(_):
        chosen = torch.randint(len(latents), (options.batch,), device=device)
        loss = adapter_loss(model, latents[chosen], clip[chosen].long(), t5[chosen].long(), device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.detach()

    training_step, step, start, total = GraphedStep(body, device.type == "cuda"), 0, time.time(), 0.0
    while time.time() - start < options.seconds:
        set_rate(optimizer, options.rate * ramp(step, 20, (time.time() - start) / options.seconds, flat=0.3))
        total, step = total + training_step(style), step + 1
        if step % 100 == 0:
            print(f"{style} step {step} {time.time() - start:.0f}s flow {total.item() / 100:.4f}", flush=True)
            total = 0.0
    path = Path(options.out) / f"{style}.safetensors"
    tensor_file.save(path, adapter.tensors(form))
    size = path.stat().st_size
    print(f"{style}: rank {rank}, {len(adapter.groups)} modules, {form}, {step} steps, {size} bytes", flush=True)
    if size > LIMIT:
        raise SystemExit(f"{path} exceeds {LIMIT} bytes")
    return adapter


def train(options):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = TinyFlux(options.model).to(device)
    model.load_vae(options.state, device)
    load_average(model, options.state, "student", device)
    model.requires_grad_(False)
    pool = [t.to(device) for t in make_pool(Path(options.model), options.scenes, options.seed, options.processes)]
    Path(options.out).mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    captions = [describe(rng, sample_scene(rng, held=True)) for _ in range(8)]
    shown = [model.draw(captions, 9, device)]
    for style in options.styles:
        adapter = train_style(model, style, pool, options, device)
        shown.append(model.draw(captions, 9, device))
        adapter.remove()
    contact_sheet(to_uint8(torch.cat(shown)), 8, Path(options.state) / "loras.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder with tokenizer/ and tokenizer_2/")
    parser.add_argument("--state", required=True, help="folder of checkpoints")
    parser.add_argument("--out", required=True, help="folder for the adapters")
    parser.add_argument("--styles", nargs="+", default=list(ADAPTERS), choices=list(ADAPTERS))
    parser.add_argument("--seconds", type=float, default=15, help="for each style")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    train(parser.parse_args())
