"""Writes the trained networks as a diffusers pipeline folder, weights in bf16, into the folder with the tokenizers.

    python3 export.py --model ../models/tiny --state DIR [--name student]
"""
import argparse
import json
from pathlib import Path

import torch

import configs
import tensor_file
from evaluate import load_average
from pipeline import TinyFlux

LIMIT = 14_000_000  # bytes of weights in all


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def export(model, folder):
    clip, t5 = configs.with_vocabulary(folder)
    vae = {**configs.VAE, "scaling_factor": model.scale, "shift_factor": model.shift}
    parts = {
        "vae": (model.vae, vae, "diffusion_pytorch_model.safetensors"),
        "transformer": (model.transformer, configs.TRANSFORMER, "diffusion_pytorch_model.safetensors"),
        "text_encoder": (model.text_encoder, clip, "model.safetensors"),
        "text_encoder_2": (model.text_encoder_2, t5, "model.safetensors"),
    }
    total = 0
    for name, (network, config, file) in parts.items():
        write_json(folder / name / "config.json", dict(sorted(config.items())))
        weights = {key: value.to(torch.bfloat16) for key, value in network.state_dict().items()}
        tensor_file.save(folder / name / file, weights)
        size = (folder / name / file).stat().st_size
        print(f"{name}: {sum(w.numel() for w in weights.values())} parameters, {size} bytes")
        total += size
    write_json(folder / "scheduler" / "scheduler_config.json", configs.SCHEDULER)
    write_json(folder / "model_index.json", configs.MODEL_INDEX)
    print(f"all weights: {total} bytes of {LIMIT}")
    if total > LIMIT:
        raise SystemExit("the weights exceed the size that ships")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder with tokenizer/ and tokenizer_2/; written to")
    parser.add_argument("--state", required=True, help="folder of checkpoints")
    parser.add_argument("--name", default="student", help="checkpoint: flow or student")
    options = parser.parse_args()
    tiny = TinyFlux(options.model)
    tiny.load_vae(options.state, "cpu")
    load_average(tiny, options.state, options.name, "cpu")
    export(tiny, Path(options.model))
