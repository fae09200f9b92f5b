"""Trains the autoencoder on rendered scenes, plain and in every style.

    python3 train_vae.py --model ../models/tiny --state DIR [--seconds 200] [--stop-after S] [--batch 64]

Loss: L1 on pixels, L1 on their differences at three scales (edges), and a small KL term that keeps latents smooth and the
decoder tolerant of small errors. Progress is measured in seconds of training; a checkpoint in DIR is resumed.
"""
import argparse
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import checkpoint
from configs import VAE
from data.pool import make_pool
from data.render import STYLES, render
from images import contact_sheet, to_uint8
from networks import AutoencoderKL
from schedule import ramp

SIZES = ((256, 256),) * 4 + ((192, 320), (320, 192), (224, 288), (320, 320), (192, 192))
KL_WEIGHT = 3e-4


def edge_loss(a, b):
    total = 0.0
    for _ in range(3):
        total = total + ((a[..., 1:] - a[..., :-1]) - (b[..., 1:] - b[..., :-1])).abs().mean()
        total = total + ((a[:, :, 1:] - a[:, :, :-1]) - (b[:, :, 1:] - b[:, :, :-1])).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


def loss_of(vae, images, device):
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        mean, logvar = vae.encode(images)
        mean, logvar = mean.float(), logvar.float()
        decoded = vae.decode(mean + torch.randn_like(mean) * (0.5 * logvar).exp()).float()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    pixels = (decoded - images).abs().mean()
    edges = edge_loss(decoded, images)
    return pixels + edges + KL_WEIGHT * kl, (pixels.item(), edges.item(), kl.item())


def draw_batch(rows, step, batch, device):
    """A batch of images of one size: three in four batches plain, the others in one style."""
    height, width = SIZES[step % len(SIZES)]
    style = STYLES[1 + step // 4 % (len(STYLES) - 1)] if step % 4 == 3 else "plain"
    chosen = rows[torch.randint(len(rows), (batch,), device=device)]
    return render(chosen, height, width, style).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def latent_statistics(vae, rows, count=2048):
    """(shift, scale): mean and inverse standard deviation of latents over plain scenes."""
    means = [vae.encode(render(rows[i : i + 64], 256, 256))[0].float() for i in range(0, min(count, len(rows)), 64)]
    latents = torch.cat(means)
    return latents.mean().item(), 1 / latents.std().item()


@torch.no_grad()
def show(vae, rows, path):
    images = torch.cat([render(rows[i * 8 : i * 8 + 8], 256, 256, style) for i, style in enumerate(STYLES)])
    decoded = torch.cat([vae.decode(vae.encode(part)[0]) for part in images.split(8)]).float()
    print(f"mean absolute error {(decoded.clamp(-1, 1) - images).abs().mean().item() * 127.5:.3f} of 255")
    pairs = torch.cat([torch.cat([a, b]) for a, b in zip(images.split(8), decoded.split(8))])
    contact_sheet(to_uint8(pairs), 8, path)


def train(options):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    rows = make_pool(Path(options.model), options.scenes, options.seed, options.processes)[0].to(device)
    vae = AutoencoderKL(VAE).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=1e-4)
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    step, spent = 0, 0.0
    state = checkpoint.load(options.state, "vae", device)
    if state:
        vae.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, spent = state["average"], state["step"], state["spent"]
    start, before = time.time(), spent
    while spent < options.seconds and spent - before < options.stop_after:
        for group in optimizer.param_groups:
            group["lr"] = options.rate * ramp(step, 100, spent / options.seconds)
        loss, parts = loss_of(vae, draw_batch(rows, step, options.batch, device), device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(0.999, (step + 1) / (step + 10))
            weights = list(vae.state_dict().values())
            torch._foreach_mul_(list(average.values()), decay)
            torch._foreach_add_(list(average.values()), weights, alpha=1 - decay)
        step, spent = step + 1, before + time.time() - start
        if step % 250 == 0:
            print(f"step {step} {spent:.0f}s pixels {parts[0]:.4f} edges {parts[1]:.4f} kl {parts[2]:.3f}", flush=True)
    training_weights = {k: v.clone() for k, v in vae.state_dict().items()}
    vae.load_state_dict(average)
    shift, scale = latent_statistics(vae, rows)
    Path(options.state).mkdir(parents=True, exist_ok=True)
    print(f"steps {step}, seconds {spent:.0f}, shift {shift:.4f}, scale {scale:.4f}")
    show(vae, rows, Path(options.state) / "vae.png")
    saved = {"weights": training_weights, "average": average, "optimizer": optimizer.state_dict()}
    checkpoint.save(options.state, "vae", {**saved, "step": step, "spent": spent, "shift": shift, "scale": scale})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder with tokenizer/ and tokenizer_2/")
    parser.add_argument("--state", required=True, help="folder of checkpoints")
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--stop-after", type=float, default=float("inf"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--scenes", type=int, default=64000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    train(parser.parse_args())
