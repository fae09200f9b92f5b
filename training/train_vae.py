"""Trains the autoencoder on rendered scenes, plain and in every style.

    python3 train_vae.py --model ../models/tiny --state DIR [--seconds 150] [--stop-after S] [--batch 96]

Most of the time on windows of 128x128 pixels, which are cheap; the last part on whole pictures, so that the norms' and
the attention's statistics are those of use.
Loss: L1 on pixels, L1 on their differences at three scales (edges), and a small KL term that keeps latents smooth and the
decoder tolerant of small errors. Progress is measured in seconds of training; a checkpoint in DIR is resumed.
"""
import argparse
import os
import random
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
from schedule import Muon, ramp

SIZES = ((256, 256),) * 4 + ((192, 320), (320, 192), (224, 288), (320, 320), (192, 192))
KL_WEIGHT = 8e-4
WINDOW = 128
WHOLE_FROM = 0.7  # share of the time after which whole pictures are drawn


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
    return pixels + edges + KL_WEIGHT * kl, (pixels.detach(), edges.detach(), kl.detach())


def draw_batch(rows, rng, batch, whole):
    """A batch of windows or, fewer, whole pictures: three in four batches plain, the others in one style."""
    style = rng.choice(STYLES[1:]) if rng.random() < 0.25 else "plain"
    height, width = (256, 256) if whole else rng.choice(SIZES)
    window = None if whole else (rng.randint(0, height - WINDOW), rng.randint(0, width - WINDOW), WINDOW, WINDOW)
    chosen = rows[torch.randint(len(rows), (max(1, batch // 3) if whole else batch,), device=rows.device)]
    return render(chosen, height, width, style, window).contiguous(memory_format=torch.channels_last)


def make_optimizers(vae, options):
    """Muon for the inner convolutions and projections, AdamW for the rest."""
    matrices, others = [], []
    for name, parameter in vae.named_parameters():
        inner = parameter.dim() > 1 and "conv_in" not in name and "conv_out" not in name
        (matrices if inner else others).append(parameter)
    return Muon(matrices), torch.optim.AdamW(others, lr=options.rate, betas=(0.9, 0.98), weight_decay=1e-4)


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
    error = (decoded.clamp(-1, 1) - images).abs().mean().item() * 127.5
    print(f"mean absolute error {error:.3f} of 255")
    pairs = torch.cat([torch.cat([a, b]) for a, b in zip(images.split(8), decoded.split(8))])
    contact_sheet(to_uint8(pairs), 8, path)
    return error


def update_average(average, vae, step):
    decay = min(0.998, (step + 1) / (step + 10))
    torch._foreach_mul_(list(average.values()), decay)
    torch._foreach_add_(list(average.values()), list(vae.state_dict().values()), alpha=1 - decay)


def train(options):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    rows = make_pool(Path(options.model), options.scenes, options.seed, options.processes)[0].to(device)
    vae = AutoencoderKL(VAE).to(device).to(memory_format=torch.channels_last)
    optimizers, rates = make_optimizers(vae, options), (options.muon_rate, options.rate)
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    step, spent = 0, 0.0
    state = checkpoint.load(options.state, "vae", device)
    if state:
        vae.load_state_dict(state["weights"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        average, step, spent = state["average"], state["step"], state["spent"]
    rng, start, before, totals = random.Random(options.seed + step), time.time(), spent, torch.zeros(3)
    while spent < options.seconds and spent - before < options.stop_after:
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = rate * ramp(step, 100, spent / options.seconds, flat=0.4)
        images = draw_batch(rows, rng, options.batch, spent > WHOLE_FROM * options.seconds)
        loss, parts = loss_of(vae, images, device)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            update_average(average, vae, step)
        step, spent, totals = step + 1, before + time.time() - start, totals + torch.stack(parts).cpu()
        if step % 200 == 0:
            pixels, edges, kl = (totals / 200).tolist()
            print(f"step {step} {spent:.0f}s pixels {pixels:.4f} edges {edges:.4f} kl {kl:.3f}", flush=True)
            totals = torch.zeros(3)
    training_weights = {k: v.clone() for k, v in vae.state_dict().items()}
    vae.load_state_dict(average)
    shift, scale = latent_statistics(vae, rows)
    Path(options.state).mkdir(parents=True, exist_ok=True)
    print(f"steps {step}, seconds {spent:.0f}, shift {shift:.4f}, scale {scale:.4f}")
    error = show(vae, rows, Path(options.state) / "vae.png")
    saved = {"weights": training_weights, "average": average, "optimizers": checkpoint.halve([o.state_dict() for o in optimizers])}
    checkpoint.save(options.state, "vae", {**saved, "step": step, "spent": spent, "shift": shift, "scale": scale})
    if error > options.accept:
        raise SystemExit(f"the autoencoder's error exceeds {options.accept}: do not train on its latents")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder with tokenizer/ and tokenizer_2/")
    parser.add_argument("--state", required=True, help="folder of checkpoints")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--stop-after", type=float, default=float("inf"))
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rate", type=float, default=2e-3, help="AdamW's rate")
    parser.add_argument("--scenes", type=int, default=64000)
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--accept", type=float, default=5.0, help="largest mean absolute error, of 255, to succeed with")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    train(parser.parse_args())
