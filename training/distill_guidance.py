"""Distils classifier-free guidance into the guidance embedding, and readies the model for few steps.

    python3 distill_guidance.py --model ../models/tiny --state DIR [--seconds 120] [--batch 256]

The teacher is the flow model; the student starts from it. For a guidance g in [1, 6] the student's velocity matches
v_empty + w (v_caption - v_empty), where w = 1 + GAIN (g - 1) strength(sigma): guidance is strongest at high and middle
noise, where contents and places are decided, and fades out where it would only oversaturate (Kynkaanniemi et al. 2024).
GAIN puts the scale at which most pictures are right near 3.5, the usual default. Text encoders stay as they are; a
student in DIR is trained on.
"""
import argparse
import copy
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import checkpoint
from evaluate import evaluate, load_average
from flow import pack, sample_sigmas, velocity
from graphed import GraphedStep, make_adamw, set_rate
from latent_store import open_store
from pipeline import TinyFlux
from schedule import ramp
from train_flow import Average, empty_ids

GUIDANCE = (1.0, 6.0)
GAIN = 1.8
FADE = (0.15, 0.45)  # sigmas between which guidance sets in


def strength(sigma):
    """0 below FADE[0], 1 above FADE[1], linear between."""
    return ((sigma - FADE[0]) / (FADE[1] - FADE[0])).clamp(0, 1)


def guided_target(teacher, x, conditions, empty, sigma, grid, guidance):
    ones = torch.ones_like(guidance)
    v = velocity(teacher, x, conditions, sigma, grid, ones).float()
    v_empty = velocity(teacher, x, empty, sigma, grid, ones).float()
    weight = 1 + GAIN * (guidance - 1) * strength(sigma)
    return v_empty + weight[:, None, None] * (v - v_empty)


def distill_loss(model, teacher, batch, size, empty_tokens):
    latents, clip, t5, _ = batch
    device, count = latents.device, len(latents)
    x0, grid = pack(latents), (size[0] // 16, size[1] // 16)
    noise = torch.randn_like(x0)
    sigma = sample_sigmas(count, x0.shape[1], device)
    x = x0 + sigma[:, None, None] * (noise - x0)
    low, high = GUIDANCE
    guidance = low + (high - low) * torch.rand(count, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        with torch.no_grad():
            conditions = model.encode_ids(clip, t5)
            padded = F.pad(empty_tokens[1], (0, t5.shape[1] - len(empty_tokens[1])))
            text, pooled = model.encode_ids(empty_tokens[0][None], padded[None])
            empty = text.expand(count, -1, -1), pooled.expand(count, -1)
            target = guided_target(teacher, x, conditions, empty, sigma, grid, guidance)
        v = velocity(model.transformer, x, conditions, sigma, grid, guidance)
    return F.mse_loss(v.float(), target)


def distill(options):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    model = TinyFlux(options.model).to(device)
    model.load_vae(options.state, device)
    load_average(model, options.state, "flow", device)
    model.requires_grad_(False)
    teacher = copy.deepcopy(model.transformer)
    if checkpoint.load(options.state, "student", device):
        load_average(model, options.state, "student", device)
    model.transformer.requires_grad_(True)
    store = open_store(model, options, device)
    parameters = list(model.transformer.parameters())
    optimizer = make_adamw(parameters, options.rate, device, weight_decay=0.0)
    average = Average({"transformer": model.transformer})
    empty = empty_ids(model, device)

    def body(key):
        size, length = key
        loss = distill_loss(model, teacher, store.draw(size, options.batch * 64 // length, length), size, empty)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.detach()

    training_step = GraphedStep(body, device.type == "cuda")
    rng, step, start, total = random.Random(options.seed), 0, time.time(), 0.0
    while time.time() - start < options.seconds:
        set_rate(optimizer, options.rate * ramp(step, 50, (time.time() - start) / options.seconds, flat=0.3))
        total = total + training_step(store.keys(rng))
        average.update(step, longest=0.998)
        step += 1
        if step % 10 == 0 and device.type == "cuda":
            torch.cuda.synchronize()
        if step % options.report == 0:
            print(f"step {step} {time.time() - start:.0f}s distillation {total.item() / options.report:.5f}", flush=True)
            total = 0.0
    average.swap()
    weights = {name: network.state_dict() for name, network in model.flow_networks().items()}
    checkpoint.save(options.state, "student", {"average": weights})
    print(f"steps {step}, seconds {time.time() - start:.0f}", flush=True)
    for guidance, steps in zip(options.scored[::2], map(int, options.scored[1::2])):
        sheet = Path(options.state) / f"student-{guidance}-{steps}.png"
        evaluate(model, device, options.count, sheet=sheet, steps=steps, guidance=guidance)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder with tokenizer/ and tokenizer_2/")
    parser.add_argument("--state", required=True, help="folder of checkpoints")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--scenes", type=int, default=160000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--cache", help="file with the latents of train_flow.py")
    parser.add_argument("--report", type=int, default=100)
    parser.add_argument("--scored", type=float, nargs="*", default=[3.5, 20, 3.5, 4], help="guidance and steps, in pairs")
    parser.add_argument("--count", type=int, default=64, help="pictures of each kind scored at the end")
    distill(parser.parse_args())
