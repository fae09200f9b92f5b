"""FLUX's autoencoder (AutoencoderKL: 128, 256, 512, 512 channels) in plain PyTorch with random weights, bf16.

    python3 bench/peers/vae.py [--side 1024] [--quick] [--json FILE]

Prints milliseconds: sustained over at least a second decode and encode, eager channels last, and decode compiled channels last
(inductor, fixed shape); a third of a second each both as NCHW and the decoder's convolutions (cuDNN, its fastest algorithm).
"""

import argparse
import json

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = (128, 256, 512, 512)
LATENT_CHANNELS, GROUPS = 16, 32


class Resnet(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, channels, 1e-6), nn.GroupNorm(GROUPS, out, 1e-6)
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, 1e-6)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x):
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unsqueeze(1).chunk(3, dim=-1)
        y = self.out(F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return x + y.transpose(1, 2).reshape(batch, channels, height, width)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def middle(channels):
    return [Resnet(channels, channels), Attention(channels), Resnet(channels, channels)]


def head(channels, out):
    return [nn.GroupNorm(GROUPS, channels, 1e-6), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)]


def decoder():
    channels = WIDTHS[-1]
    layers = [nn.Conv2d(LATENT_CHANNELS, channels, 3, padding=1), *middle(channels)]
    for level, width in enumerate(reversed(WIDTHS)):
        for _ in range(3):
            layers.append(Resnet(channels, width))
            channels = width
        if level < len(WIDTHS) - 1:
            layers.append(Upsample(channels))
    return nn.Sequential(*layers, *head(channels, 3))


def encoder():
    channels = WIDTHS[0]
    layers = [nn.Conv2d(3, channels, 3, padding=1)]
    for level, width in enumerate(WIDTHS):
        for _ in range(2):
            layers.append(Resnet(channels, width))
            channels = width
        if level < len(WIDTHS) - 1:
            layers.append(Downsample(channels))
    return nn.Sequential(*layers, *middle(channels), *head(channels, 2 * LATENT_CHANNELS))


def sustained_ms(function, least_seconds):
    for _ in range(3):
        function()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def timed(count):
        begin.record()
        for _ in range(count):
            function()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / count

    return timed(max(3, int(1000 * least_seconds / timed(2)) + 1))


# side, input and output channels of the decoder's 3 × 3 convolutions at 1024²
CONVOLUTIONS = [(128, 512, 512), (256, 512, 512), (512, 512, 256), (512, 256, 256), (1024, 256, 128), (1024, 128, 128)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--quick", action="store_true", help="a tenth of a second each; nothing compiled")
    parser.add_argument("--json")
    options = parser.parse_args()
    seconds = 0.1 if options.quick else 1.0
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    kind = dict(device="cuda", dtype=torch.bfloat16)
    rows = {}

    def measure(name, function, seconds=seconds):
        rows[name] = sustained_ms(function, seconds)
        print(f"{name:50s} {rows[name]:9.3f} ms", flush=True)

    with torch.inference_mode():
        latents = torch.randn(1, LATENT_CHANNELS, options.side // 8, options.side // 8, **kind)
        image = torch.rand(1, 3, options.side, options.side, **kind) * 2 - 1
        for name, model, x in (("decode", decoder(), latents), ("encode", encoder(), image)):
            model = model.to(**kind).eval()
            measure(f"{name}/{options.side}/eager NCHW", lambda: model(x), seconds / 3)
            model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
            measure(f"{name}/{options.side}/eager channels last", lambda: model(x))
            if name == "decode" and not options.quick:
                compiled = torch.compile(model, dynamic=False)
                measure(f"{name}/{options.side}/compiled channels last", lambda: compiled(x))
        for side, channels, out in CONVOLUTIONS:
            x = torch.randn(1, channels, side, side, **kind).to(memory_format=torch.channels_last)
            conv = nn.Conv2d(channels, out, 3, padding=1).to(**kind).to(memory_format=torch.channels_last)
            measure(f"conv/{side}x{channels}-{out}/cuDNN channels last", lambda: conv(x), seconds / 3)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=2)


if __name__ == "__main__":
    main()
