"""FLUX's autoencoder: 16 latent channels at an eighth of the image's side, GroupNorm, one attention in the middle.

Layout: images (B, 3, H, W) in [-1, 1]; latents (B, 16, H/8, W/8), before shift and scale.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class ResnetBlock(nn.Module):
    def __init__(self, inputs, outputs, groups):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class SpatialAttention(nn.Module):
    """Single-head attention over all positions, with a residual."""

    def __init__(self, channels, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        batch, channels, height, width = x.shape
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.to_q(h), self.to_k(h), self.to_v(h)
        weights = torch.softmax((q @ k.transpose(1, 2)).float() * channels**-0.5, dim=-1).to(v.dtype)
        h = self.to_out[0](weights @ v)
        return x + h.transpose(1, 2).reshape(batch, channels, height, width)


class MidBlock(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)])
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, groups) for _ in range(2)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample(nn.Module):
    """Halves both sides; the padding is on the right and at the bottom only."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class DownBlock(nn.Module):
    def __init__(self, inputs, outputs, layers, groups, downsample):
        super().__init__()
        self.resnets = nn.ModuleList(
            [ResnetBlock(inputs if i == 0 else outputs, outputs, groups) for i in range(layers)]
        )
        if downsample:
            self.downsamplers = nn.ModuleList([Downsample(outputs)])

    def forward(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        return self.downsamplers[0](x) if hasattr(self, "downsamplers") else x


class UpBlock(nn.Module):
    def __init__(self, inputs, outputs, layers, groups, upsample):
        super().__init__()
        self.resnets = nn.ModuleList(
            [ResnetBlock(inputs if i == 0 else outputs, outputs, groups) for i in range(layers)]
        )
        if upsample:
            self.upsamplers = nn.ModuleList([Upsample(outputs)])

    def forward(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class Encoder(nn.Module):
    def __init__(self, channels, layers, latent, groups):
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        inputs = [channels[0], *channels[:-1]]
        last = len(channels) - 1
        self.down_blocks = nn.ModuleList(
            [DownBlock(inputs[i], channels[i], layers, groups, i < last) for i in range(len(channels))]
        )
        self.mid_block = MidBlock(channels[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(channels[-1], 2 * latent, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, channels, layers, latent, groups):
        super().__init__()
        reversed_channels = list(reversed(channels))
        self.conv_in = nn.Conv2d(latent, reversed_channels[0], 3, padding=1)
        self.mid_block = MidBlock(reversed_channels[0], groups)
        inputs = [reversed_channels[0], *reversed_channels[:-1]]
        last = len(channels) - 1
        self.up_blocks = nn.ModuleList(
            [UpBlock(inputs[i], reversed_channels[i], layers + 1, groups, i < last) for i in range(len(channels))]
        )
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=1e-6)
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, z):
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    """`config` is vae/config.json."""

    def __init__(self, config):
        super().__init__()
        shape = (
            config["block_out_channels"],
            config["layers_per_block"],
            config["latent_channels"],
            config["norm_num_groups"],
        )
        self.encoder = Encoder(*shape)
        self.decoder = Decoder(*shape)

    def encode(self, images):
        """Posterior mean and log variance, each (B, 16, H/8, W/8)."""
        mean, logvar = self.encoder(images).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z):
        """Images in about [-1, 1], not clamped."""
        return self.decoder(z)
