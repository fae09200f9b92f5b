"""Does what pictures are for with diffusers' own pipelines and the shipped model, and stores what they drew, for tests of parity.

    python3 check_image_tasks.py --model ../models/tiny --out ../test/fixtures/image-tasks.safetensors

Float32 on the CPU. The checkpoints of Fill and Canny/Depth are the shipped one with a wider x_embedder, whose further columns follow
from `further_columns`. Inputs: picture (H x W x 3) and mask (H x W), uint8. For every case: its final latents (packed), and image.NAME
(uint8, B x H x W x 3). The header says which pipeline drew it, and with what. Needs diffusers, transformers and Pillow.
"""
import argparse
import inspect
import json

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

import tensor_file

PROMPT = "a red circle above a blue square"
COMMON = {"height": 48, "width": 64, "num_inference_steps": 5, "guidance_scale": 3.5}
CASES = {
    "img2img": {"pipeline": "FluxImg2ImgPipeline", "strength": 0.6},
    "img2img_batch": {"pipeline": "FluxImg2ImgPipeline", "strength": 0.7, "prompt": [PROMPT, "a yellow star"]},
    "inpaint": {"pipeline": "FluxInpaintPipeline", "strength": 0.8},
    "inpaint_crop": {"pipeline": "FluxInpaintPipeline", "strength": 0.8, "padding_mask_crop": 5},
    "kontext": {"pipeline": "FluxKontextPipeline", "max_area": 48 * 64, "_auto_resize": False},
    "fill": {"pipeline": "FluxFillPipeline", "guidance_scale": 30.0},
    "fill_strength": {"pipeline": "FluxFillPipeline", "guidance_scale": 30.0, "strength": 0.7},
    "control": {"pipeline": "FluxControlPipeline", "num_images_per_prompt": 2},
    "control_img2img": {"pipeline": "FluxControlImg2ImgPipeline", "strength": 0.7},
    "control_inpaint": {"pipeline": "FluxControlInpaintPipeline", "strength": 0.7},
}


def draw_picture(width=70, height=54):
    """A gradient with shapes on it, and a mask with a soft edge near the right one."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 // width, y * 255 // height, (x * 7 + y * 13) % 256], -1).astype(np.uint8)
    picture = Image.fromarray(base)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((8, 10, 30, 32), fill=(230, 40, 30))
    draw.rectangle((38, 24, 62, 48), fill=(30, 60, 220))
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).ellipse((40, 8, 60, 30), fill=255)
    return picture, mask.filter(ImageFilter.GaussianBlur(2))


def further_columns(rows, first, last):
    """Columns first to last of a wider x_embedder: exact in bf16."""
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(first, last), indexing="ij")
    return ((i * 131 + j * 17) % 257 - 128).float() / 2048


def widened(transformer, channels):
    from diffusers import FluxTransformer2DModel

    config = {**transformer.config, "in_channels": channels, "out_channels": 64}
    wide = FluxTransformer2DModel.from_config(config)
    state = transformer.state_dict()
    first = state["x_embedder.weight"]
    state["x_embedder.weight"] = torch.cat([first, further_columns(first.shape[0], 64, channels)], 1)
    wide.load_state_dict(state)
    return wide.eval()


def pictures_of(name, picture, mask):
    if "batch" in name:
        return {"image": [picture, picture.transpose(Image.FLIP_LEFT_RIGHT)]}
    found = {}
    if "control" in name:
        found["control_image"] = mask.convert("RGB")
    if name != "control":
        found["image"] = picture
    if "inpaint" in name or "fill" in name:
        found["mask_image"] = mask
    return found


@torch.no_grad()
def main(options):
    import diffusers

    base = diffusers.FluxPipeline.from_pretrained(options.model, torch_dtype=torch.float32)
    picture, mask = draw_picture()
    tensors = {"picture": torch.from_numpy(np.array(picture)), "mask": torch.from_numpy(np.array(mask))}
    stored = {}
    for index, (name, case) in enumerate(CASES.items()):
        arguments = {"prompt": PROMPT, **COMMON, **case}
        pipeline = getattr(diffusers, arguments.pop("pipeline"))
        components = dict(base.components)
        channels = 384 if "Fill" in pipeline.__name__ else 128 if "Control" in pipeline.__name__ else 64
        if channels != 64:
            components["transformer"] = widened(base.transformer, channels)
        wanted = inspect.signature(pipeline.__init__).parameters
        pipe = pipeline(**{key: value for key, value in components.items() if key in wanted})
        pipe.set_progress_bar_config(disable=True)
        latents = []
        images = pipe(
            **arguments,
            **pictures_of(name, picture, mask),
            max_sequence_length=base.tokenizer_2.model_max_length,
            generator=torch.Generator("cpu").manual_seed(index),
            callback_on_step_end=lambda p, step, t, values: latents.append(values["latents"]) or values,
        ).images
        tensors[f"latents.{name}"] = latents[-1]
        tensors[f"image.{name}"] = torch.from_numpy(np.stack([np.array(image) for image in images]))
        stored[name] = {"pipeline": pipeline.__name__, "seed": index, "steps": len(latents), "channels": channels, **arguments}
        print(stored[name], flush=True)
    tensor_file.save(options.out, tensors, {"cases": json.dumps(stored)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    main(parser.parse_args())
