"""Draws held-apart scenes with the model as trained so far and scores them.

    python3 evaluate.py --model ../models/tiny --state DIR [--name student] [--count 128] [--guidance 3.5] [--cfg W]
"""
import argparse
import random

import torch

import checkpoint
from data.captions import describe
from data.scenes import sample_scene
from images import contact_sheet, to_uint8
from pipeline import TinyFlux, round_to_bf16
from score import score


def held_out_prompts(count, kind, seed=2024):
    rng = random.Random(seed)
    scenes = [sample_scene(rng, held=True, kind=kind) for _ in range(count)]
    return scenes, [describe(rng, scene) for scene in scenes]


def evaluate(model, device, count, kinds=("single", "pair"), sheet=None, seed=5, **settings):
    """Prints accuracy by kind; returns {kind: share fully right}. Saves a sheet of the first pictures of each kind."""
    accuracy, shown = {}, []
    for kind in kinds:
        scenes, captions = held_out_prompts(count, kind)
        pictures = []
        for i in range(0, count, 64):
            pictures.append(to_uint8(model.draw(captions[i : i + 64], seed + i, device, **settings)))
        pictures = torch.cat(pictures)
        verdicts = [score(picture, scene) for picture, scene in zip(pictures, scenes)]
        accuracy[kind] = sum(v["all"] for v in verdicts) / count
        parts = {key: round(sum(v[key] for v in verdicts) / count, 3) for key in verdicts[0]}
        print(f"{kind}: {parts} of {count} {settings}", flush=True)
        for caption, verdict in [(c, v) for c, v in zip(captions, verdicts) if not v["all"]][:6]:
            print("   wrong:", caption, [key for key, good in verdict.items() if not good], flush=True)
        shown.append(pictures[:24])
    if sheet:
        contact_sheet(torch.cat(shown), 8, sheet)
    return accuracy


def load_average(model, state, name, device):
    """Loads the averaged weights of checkpoint `name` into the model's text encoders and transformer."""
    saved = checkpoint.load(state, name, device)
    for part, network in model.flow_networks().items():
        network.load_state_dict(saved["average"][part])
        round_to_bf16(network)
    return saved


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--state", required=True)
    parser.add_argument("--name", default="student", help="checkpoint: flow or student")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--cfg", type=float)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256))
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--kinds", nargs="+", default=["single", "pair", "two places", "triple", "same"])
    parser.add_argument("--sheet")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tiny = TinyFlux(options.model).to(device)
    tiny.load_vae(options.state, device)
    load_average(tiny, options.state, options.name, device)
    settings = {"steps": options.steps, "guidance": options.guidance, "cfg": options.cfg, "length": options.length}
    settings.update(height=options.size[0], width=options.size[1])
    evaluate(tiny, device, options.count, options.kinds, options.sheet, **settings)
