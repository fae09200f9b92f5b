"""Trains both text encoders and the transformer by rectified flow on latents of rendered scenes.

    python3 train_flow.py --model ../models/tiny --state DIR [--seconds 600] [--stop-after S] [--batch 256]

Needs the autoencoder's checkpoint in DIR. A tenth of the captions is empty, for guidance. Two small readers, thrown away
afterwards, ask the text encoders for what a caption says; they make the encoders learn words early. Progress is
measured in seconds of training; a checkpoint in DIR is resumed, also after --stop-after. A finished run leaves the
averaged weights alone; with more --seconds it goes on from them.
"""
import argparse
import os
import random
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

import checkpoint
from data.palette import COLOURS
from data.pool import LABELS, UNSAID
from evaluate import evaluate
from flow import pack, sample_sigmas, velocity
from graphed import GraphedStep, make_adamw, set_rate
from latent_store import open_store
from pipeline import TinyFlux
from schedule import Muon, ramp
from vocabulary import CLIP_LENGTH, T5_LENGTH

CLASSES = len(COLOURS) + 1
EMPTY_SHARE = 0.1


class Reader(nn.Module):
    """Predicts what a caption says: by attention over the T5 states, and linearly from CLIP's pooled vector."""

    def __init__(self, text_width, pooled_width):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(LABELS, text_width) * text_width**-0.5)
        self.values = nn.Linear(text_width, 64)
        self.classes = nn.Parameter(torch.randn(LABELS, 64, CLASSES) * 64**-0.5)
        self.pooled = nn.Linear(pooled_width, LABELS * CLASSES)

    def forward(self, text, pooled, labels):
        weights = (text @ self.queries.t()).float().softmax(1)
        read = torch.einsum("blq,blc->bqc", weights, self.values(text).float())
        logits = torch.einsum("bqc,qck->bqk", read, self.classes)
        both = torch.stack([logits, self.pooled(pooled).float().view(-1, LABELS, CLASSES)])
        targets = labels.expand(2, *labels.shape).reshape(-1)
        return F.cross_entropy(both.reshape(-1, CLASSES), targets, ignore_index=UNSAID)


def split_parameters(model, reader):
    """(matrices for Muon, everything else for AdamW): Muon takes the transformer's weights inside attention and MLPs."""
    matrices, others = [], list(reader.parameters())
    for name, network in model.flow_networks().items():
        for key, parameter in network.named_parameters():
            inside = any(part in key for part in (".attn.", ".ff", "proj_mlp", "blocks.0.proj_out", "blocks.1.proj_out", "blocks.2.proj_out"))
            inner = name == "transformer" and inside and parameter.dim() == 2
            (matrices if inner else others).append(parameter)
    return matrices, others


class Average:
    """Exponential moving average of the networks' weights."""

    def __init__(self, networks):
        self.networks = networks
        self.weights = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in networks.items()}
        self.live = {n: list(net.state_dict().values()) for n, net in networks.items()}

    @torch.no_grad()
    def update(self, step, longest=0.9995):
        decay = min(longest, (step + 1) / (step + 10))
        for name, live in self.live.items():
            average = list(self.weights[name].values())
            torch._foreach_mul_(average, decay)
            torch._foreach_add_(average, live, alpha=1 - decay)

    def swap(self):
        """Exchanges the networks' weights with the averaged ones."""
        for name, network in self.networks.items():
            current = {k: v.clone() for k, v in network.state_dict().items()}
            network.load_state_dict(self.weights[name])
            self.weights[name] = current


def empty_some(clip, t5, labels, empty):
    """Replaces a share of the captions by the empty one, whose ids (CLIP, T5) are `empty`."""
    dropped = torch.rand(len(clip), device=clip.device) < EMPTY_SHARE
    clip = torch.where(dropped[:, None], empty[0][: clip.shape[1]], clip)
    padded = F.pad(empty[1], (0, t5.shape[1] - len(empty[1])))
    return clip, torch.where(dropped[:, None], padded, t5), labels.masked_fill(dropped[:, None], UNSAID)


def flow_loss(model, reader, batch, size, empty, reader_weight):
    latents, clip, t5, labels = batch
    device = latents.device
    clip, t5, labels = empty_some(clip, t5, labels, empty)
    x0 = pack(latents)
    noise = torch.randn_like(x0)
    sigma = sample_sigmas(len(x0), x0.shape[1], device)
    x = x0 + sigma[:, None, None] * (noise - x0)
    guidance = 1 + 5 * torch.rand(len(x0), device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        text, pooled = model.encode_ids(clip, t5)
        v = velocity(model.transformer, x, (text, pooled), sigma, (size[0] // 16, size[1] // 16), guidance)
        reading = reader(text, pooled, labels)
    flow = F.mse_loss(v.float(), noise - x0)
    return flow + reader_weight * reading, flow.detach(), reading.detach()


def empty_ids(model, device):
    """(CLIP, T5) token ids of the empty caption."""
    encoded = model.clip_tokenizer.encode("", CLIP_LENGTH), model.t5_tokenizer.encode("", T5_LENGTH)
    return tuple(torch.tensor(ids, device=device) for ids in encoded)


def make_step(model, reader, store, optimizers, options, device):
    """A training step as a function of (size, length): returns the flow's and the readers' losses."""
    empty = empty_ids(model, device)
    parameters = [p for o in optimizers for g in o.param_groups for p in g["params"]]

    def step(key):
        size, length = key
        batch = store.draw(size, options.batch * 64 // length, length)
        loss, flow, reading = flow_loss(model, reader, batch, size, empty, options.reader_weight)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        return flow, reading

    return GraphedStep(step, device.type == "cuda" and not options.eager)


def train(options):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    model = TinyFlux(options.model).to(device)
    model.load_vae(options.state, device)
    model.vae.to(memory_format=torch.channels_last)
    store = open_store(model, options, device)
    reader = Reader(128, 64).to(device)
    average = Average(model.flow_networks())
    matrices, others = split_parameters(model, reader)
    rates = (options.muon_rate, options.rate)
    # A rate in a tensor can change between replays of a graph.
    muon = Muon(matrices, lr=torch.tensor(options.muon_rate, device=device))
    optimizers = (muon, make_adamw(others, options.rate, device))
    step, spent, fresh_from = 0, 0.0, 0
    state = checkpoint.load(options.state, "flow", device)
    if state:
        step, spent = state["step"], state["spent"]
        average.weights = {n: {k: v.float() for k, v in net.items()} for n, net in state["average"].items()}
        for name, network in model.flow_networks().items():
            network.load_state_dict(state.get("weights", average.weights)[name])
        if "optimizers" in state:
            reader.load_state_dict(state["reader"])
            for optimizer, saved in zip(optimizers, state["optimizers"]):
                optimizer.load_state_dict(saved)
        else:
            fresh_from = step
        torch.manual_seed(options.seed + step)
    training_step = make_step(model, reader, store, optimizers, options, device)
    rng, start, before, total = random.Random(options.seed + step), time.time(), spent, 0.0
    while spent < options.seconds and spent - before < options.stop_after:
        factor = ramp(step - fresh_from, 200, spent / options.seconds, flat=options.flat)
        for optimizer, rate in zip(optimizers, rates):
            set_rate(optimizer, rate * factor)
        flow, reading = training_step(store.keys(rng))
        average.update(step)
        step, total = step + 1, total + flow
        if step % 10 == 0 and device.type == "cuda":
            torch.cuda.synchronize()  # else the host would run ahead of the clock
        spent = before + time.time() - start
        if step % options.report == 0:
            print(f"step {step} {spent:.0f}s flow {total.item() / options.report:.4f} reading {reading.item():.3f}", flush=True)
            total = 0.0
    saved = {"average": average.weights, "step": step, "spent": spent}
    if spent < options.seconds:
        saved = checkpoint.halve({**saved, "optimizers": [o.state_dict() for o in optimizers]})
        saved["weights"] = {name: network.state_dict() for name, network in model.flow_networks().items()}
        saved["reader"] = reader.state_dict()
    checkpoint.save(options.state, "flow", saved)
    print(f"steps {step}, seconds {spent:.0f}", flush=True)
    average.swap()
    for scale in options.scales:
        evaluate(model, device, options.count, sheet=Path(options.state) / f"flow-{scale}.png", cfg=scale)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder with tokenizer/ and tokenizer_2/")
    parser.add_argument("--state", required=True, help="folder of checkpoints")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--stop-after", type=float, default=float("inf"))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=1e-3, help="AdamW's rate")
    parser.add_argument("--muon-rate", type=float, default=0.01)
    parser.add_argument("--scenes", type=int, default=160000)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--report", type=int, default=250)
    parser.add_argument("--count", type=int, default=64, help="pictures of each kind scored at the end")
    parser.add_argument("--scales", type=float, nargs="*", default=[1.0, 2.0, 3.5], help="guidance scales scored at the end")
    parser.add_argument("--reader-weight", type=float, default=0.05, help="of the readers' loss; 0 when going on")
    parser.add_argument("--flat", type=float, default=0.4, help="share of the time after which the rates fall")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--cache", help="file that keeps the latents for the stages that follow")
    return parser.parse_args()


if __name__ == "__main__":
    train(arguments())
