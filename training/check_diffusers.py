"""Draws with diffusers' own FluxPipeline from the exported folder and stores what it computed, for tests of parity.

    python3 check_diffusers.py --model ../models/tiny --out ../test/fixtures/tiny-diffusers.safetensors [--sheet FILE]

Float32 on the CPU. For every case: noise.N (packed), clip_ids.N and t5_ids.N, latents.N (packed, final), image.N (uint8,
H x W x 3; of case 0 instead image_f32.0, 3 x H x W in [0, 1]). The header says prompt, seed, size, steps and guidance. Needs
diffusers and transformers; also checks that this folder's own sampler agrees.
"""
import argparse
import json
import time
from pathlib import Path

import torch

import tensor_file
from check_golden import load_network
from flow import euler, unpack
from images import contact_sheet
from networks import AutoencoderKL, ClipTextModel, FluxTransformer, T5Encoder

CASES = (
    {"prompt": "a red circle above a blue square", "seed": 0, "height": 256, "width": 256, "steps": 20, "guidance": 3.5},
    {"prompt": "a small yellow star in the top left on black", "seed": 7, "height": 192, "width": 320, "steps": 20, "guidance": 3.5},
    {"prompt": "three green triangles on a striped white background", "seed": 42, "height": 256, "width": 256, "steps": 4, "guidance": 3.5},
    {"prompt": "A large purple heart left of a white ring, on grey", "seed": 3, "height": 256, "width": 256, "steps": 12, "guidance": 2.0, "length": 512},
)


def own_image(folder, noise, clip_ids, t5_ids, case, scale, shift):
    """The same picture by this folder's networks and sampler: (3, H, W) in [0, 1]."""
    folder = Path(folder)
    networks = {"text_encoder": ClipTextModel, "text_encoder_2": T5Encoder, "transformer": FluxTransformer, "vae": AutoencoderKL}
    loaded = {name: load_network(network, folder / name) for name, network in networks.items()}
    conditions = loaded["text_encoder_2"](t5_ids), loaded["text_encoder"](clip_ids)[1]
    grid = (case["height"] // 16, case["width"] // 16)
    x = euler(loaded["transformer"], noise, conditions, grid, case["steps"], case["guidance"])
    image = loaded["vae"].decode(unpack(x, 2 * grid[0], 2 * grid[1]) / scale + shift)
    return (image[0] / 2 + 0.5).clamp(0, 1)


def run_case(pipe, index, case):
    length = case.get("length", pipe.tokenizer_2.model_max_length)
    generator = torch.Generator("cpu").manual_seed(case["seed"])
    height, width = case["height"], case["width"]
    noise, _ = pipe.prepare_latents(1, 16, height, width, torch.float32, "cpu", torch.Generator("cpu").manual_seed(case["seed"]))
    begin = time.time()
    latents = []
    image = pipe(
        case["prompt"],
        height=height,
        width=width,
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance"],
        max_sequence_length=length,
        generator=generator,
        output_type="pt",
        callback_on_step_end=lambda p, step, t, values: latents.append(values["latents"]) or values,
    ).images[0]
    print(f"{case}: {time.time() - begin:.1f}s", flush=True)
    tokens = [
        tokenizer(case["prompt"], padding="max_length", max_length=longest, truncation=True, return_tensors="pt").input_ids
        for tokenizer, longest in ((pipe.tokenizer, pipe.tokenizer.model_max_length), (pipe.tokenizer_2, length))
    ]
    u8 = (image * 255).round().to(torch.uint8).permute(1, 2, 0)
    tensors = {f"noise.{index}": noise[0], f"latents.{index}": latents[-1][0], f"image.{index}": u8}
    tensors.update({f"clip_ids.{index}": tokens[0][0].int(), f"t5_ids.{index}": tokens[1][0].int()})
    return tensors, image, tokens, noise


@torch.no_grad()
def main(options):
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(options.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    tensors, pictures = {}, []
    for index, case in enumerate(CASES):
        found, image, tokens, noise = run_case(pipe, index, case)
        if case["height"] == case["width"]:
            pictures.append(found[f"image.{index}"])
        if index == 0:
            found["image_f32.0"] = image
            del found["image.0"]
        tensors.update(found)
        config = pipe.vae.config
        own = own_image(options.model, noise, tokens[0], tokens[1], case, config.scaling_factor, config.shift_factor)
        print(f"   largest difference from this folder's own sampler: {(own - image).abs().max().item():.2e}", flush=True)
    tensor_file.save(options.out, tensors, {"cases": json.dumps(CASES)})
    if options.sheet:
        contact_sheet(torch.stack(pictures), 4, options.sheet)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--sheet")
    main(parser.parse_args())
