"""The pipeline's networks together, and pictures from captions with them."""
from pathlib import Path

import torch

import checkpoint
from configs import TRANSFORMER, VAE, with_vocabulary
from flow import euler, unpack
from networks import AutoencoderKL, ClipTextModel, FluxTransformer, T5Encoder
from vocabulary import CLIP_LENGTH, T5_LENGTH, ClipTokenizer, T5Tokenizer


def round_to_bf16(module):
    """Rounds all weights to what the exported file will hold, keeping their type."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).to(parameter.dtype)
    return module


class TinyFlux(torch.nn.Module):
    """`model` is the folder with the tokenizers; weights are random until loaded."""

    def __init__(self, model):
        super().__init__()
        clip, t5 = with_vocabulary(model)
        self.text_encoder = ClipTextModel(clip)
        self.text_encoder_2 = T5Encoder(t5)
        self.transformer = FluxTransformer(TRANSFORMER)
        self.vae = AutoencoderKL(VAE)
        self.clip_tokenizer = ClipTokenizer(Path(model) / "tokenizer")
        self.t5_tokenizer = T5Tokenizer(Path(model) / "tokenizer_2")
        self.shift, self.scale = 0.0, 1.0

    def load_vae(self, state, device):
        """The averaged autoencoder of train_vae.py, rounded to bf16, frozen."""
        saved = checkpoint.load(state, "vae", device)
        self.vae.load_state_dict(saved["average"])
        self.shift, self.scale = round(saved["shift"], 4), round(saved["scale"], 4)
        round_to_bf16(self.vae).requires_grad_(False)

    def flow_networks(self):
        return {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2, "transformer": self.transformer}

    def encode_ids(self, clip_ids, t5_ids):
        """(text, pooled) conditions of token ids."""
        return self.text_encoder_2(t5_ids), self.text_encoder(clip_ids)[1]

    def encode_text(self, captions, device, length=T5_LENGTH):
        clip = torch.tensor([self.clip_tokenizer.encode(c, CLIP_LENGTH) for c in captions], device=device)
        t5 = torch.tensor([self.t5_tokenizer.encode(c, length) for c in captions], device=device)
        return self.encode_ids(clip, t5)

    def latents(self, images):
        """Scaled latents (B, 16, H/8, W/8) of images: the posterior's mean."""
        return (self.vae.encode(images)[0].float() - self.shift) * self.scale

    @torch.no_grad()
    def draw(self, captions, seed, device, height=256, width=256, steps=20, guidance=3.5, cfg=None, length=T5_LENGTH):
        """Images (B, 3, H, W) in about [-1, 1]. `cfg`: scale of classifier-free guidance against the empty caption."""
        generator = torch.Generator("cpu").manual_seed(seed)
        tokens = (height // 16) * (width // 16)
        noise = torch.randn(len(captions), tokens, 64, generator=generator).to(device)
        conditions = self.encode_text(captions, device, length)
        empty = self.encode_text([""] * len(captions), device, length) if cfg is not None else None
        grid = (height // 16, width // 16)
        x = euler(self.transformer, noise, conditions, grid, steps, guidance, empty, cfg or 1.0)
        return self.vae.decode(unpack(x, height // 8, width // 8) / self.scale + self.shift)
