"""Checks these networks against tensors that diffusers and transformers computed (float32, CPU).

    python3 check_golden.py PATH_TO_GOLDEN

PATH_TO_GOLDEN holds tiny-flux/, tiny-flux-schnell/ and cases/. Exits 1 if a relative error exceeds its tolerance.
"""
import json
import sys
from pathlib import Path

import torch

import tensor_file
from networks import AutoencoderKL, ClipTextModel, FluxTransformer, T5Encoder


def load_network(network, folder):
    """The network with the folder's config and weights; every key must be used and every parameter filled."""
    config = json.loads((folder / "config.json").read_text())
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights.update(tensor_file.load(path))
    model = network(config)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()


def report(name, actual, expected, tolerance=2e-4):
    error = ((actual - expected).norm() / expected.norm()).item()
    print(f"{'ok  ' if error <= tolerance else 'FAIL'} {name}: relative error {error:.2e} (tolerance {tolerance:.0e})")
    return error <= tolerance


def check_transformers(golden):
    passed = True
    for folder, cases in {"tiny-flux": ["dev_a", "dev_b", "dev_c", "dev_d"], "tiny-flux-schnell": ["schnell_a"]}.items():
        model = load_network(FluxTransformer, golden / folder / "transformer")
        for case in cases:
            t = tensor_file.load(golden / "cases" / f"transformer_{case}.safetensors")
            out = model(
                t["in.hidden_states"],
                t["in.encoder_hidden_states"],
                t["in.pooled_projections"],
                t["in.timestep"],
                t["in.img_ids"],
                t["in.txt_ids"],
                t.get("in.guidance"),
            )
            passed &= report(f"transformer {case}", out, t["out"])
    return passed


def check_vae(golden):
    model = load_network(AutoencoderKL, golden / "tiny-flux" / "vae")
    t = tensor_file.load(golden / "cases" / "vae.safetensors")
    passed = True
    for size in ("128x128", "96x160", "64x64"):
        mean, logvar = model.encode(t[f"{size}.image"])
        passed &= report(f"vae {size} mean", mean, t[f"{size}.mean"])
        passed &= report(f"vae {size} logvar", logvar, t[f"{size}.logvar"])
        passed &= report(f"vae {size} decoded", model.decode(t[f"{size}.z"]), t[f"{size}.decoded"])
    return passed


def check_text_encoders(golden):
    t = tensor_file.load(golden / "cases" / "text_encoders.safetensors")
    clip = load_network(ClipTextModel, golden / "tiny-flux" / "text_encoder")
    hidden, pooled = clip(t["clip.ids"].long())
    passed = report("clip hidden", hidden, t["clip.last_hidden"]) & report("clip pooled", pooled, t["clip.pooled"])
    t5 = load_network(T5Encoder, golden / "tiny-flux" / "text_encoder_2")
    for length in (128, 512):
        passed &= report(f"t5 {length}", t5(t[f"t5_{length}.ids"].long()), t[f"t5_{length}.last_hidden"])
    return passed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = Path(sys.argv[1])
    with torch.no_grad():
        results = [check_transformers(root), check_vae(root), check_text_encoders(root)]
    sys.exit(0 if all(results) else 1)
