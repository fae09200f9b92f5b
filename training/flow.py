"""Rectified flow over packed latents: packing, position ids, the scheduler's sigmas and an Euler sampler.

x(sigma) = (1 - sigma) x0 + sigma noise; the network predicts the velocity noise - x0.
"""
import math

import torch

from configs import SCHEDULER


def pack(latents):
    """(B, 16, H, W) -> (B, H/2 * W/2, 64): channel, then row and column inside the 2x2 patch."""
    batch, channels, height, width = latents.shape
    x = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack(tokens, height, width):
    """The inverse of pack; height and width of the latents."""
    batch, _, channels = tokens.shape
    x = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def image_ids(rows, columns, device):
    """(rows * columns, 3): (0, row, column) of every token."""
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] += torch.arange(rows, device=device)[:, None]
    ids[..., 2] += torch.arange(columns, device=device)[None]
    return ids.view(-1, 3)


def dynamic_shift(tokens):
    """mu: linear in the number of image tokens, base_shift at base_image_seq_len, max_shift at max_image_seq_len."""
    s = SCHEDULER
    slope = (s["max_shift"] - s["base_shift"]) / (s["max_image_seq_len"] - s["base_image_seq_len"])
    return s["base_shift"] + slope * (tokens - s["base_image_seq_len"])


def shift_sigma(sigma, mu):
    """exp(mu) / (exp(mu) + 1/sigma - 1)."""
    return math.exp(mu) / (math.exp(mu) + 1 / sigma - 1)


def sigmas(steps, tokens, device):
    """(steps + 1,) descending from 1 to 0, shifted as FlowMatchEulerDiscreteScheduler does."""
    values = shift_sigma(torch.linspace(1, 1 / steps, steps, dtype=torch.float64), dynamic_shift(tokens))
    return torch.cat([values, torch.zeros(1, dtype=torch.float64)]).float().to(device)


def sample_sigmas(count, tokens, device):
    """Training sigmas: logit-normal, one in five uniform, then the same shift as in sampling."""
    normal = torch.sigmoid(torch.randn(count, device=device) * 1.1 + 0.2)
    uniform = torch.rand(count, device=device)
    values = torch.where(torch.rand(count, device=device) < 0.2, uniform, normal).clamp(1e-4, 1 - 1e-5)
    return shift_sigma(values, dynamic_shift(tokens))


def velocity(transformer, x, conditions, sigma, grid, guidance):
    """One call of the transformer. conditions = (text, pooled); grid = (token rows, columns)."""
    text, pooled = conditions
    text_ids = torch.zeros(text.shape[1], 3, device=x.device)
    return transformer(x, text, pooled, sigma, image_ids(*grid, x.device), text_ids, guidance)


@torch.no_grad()
def euler(transformer, noise, conditions, grid, steps=20, guidance=3.5, empty=None, scale=1.0):
    """Packed latents at sigma 0. With `empty` conditions, classifier-free guidance by `scale`."""
    x, batch = noise.float(), len(noise)
    schedule = sigmas(steps, x.shape[1], x.device)
    g = torch.full((batch,), float(guidance), device=x.device)
    for now, following in zip(schedule, schedule[1:]):
        sigma = now.expand(batch)
        v = velocity(transformer, x, conditions, sigma, grid, g).float()
        if empty is not None:
            v_empty = velocity(transformer, x, empty, sigma, grid, g).float()
            v = v_empty + scale * (v - v_empty)
        x = x + (following - now) * v
    return x
