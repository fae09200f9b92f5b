"""The four networks of a FLUX pipeline, with the parameter names of the published checkpoints.

Module attributes are named so that `state_dict()` gives exactly the keys of a diffusers (VAE, transformer) or
transformers (CLIP, T5) folder; `export.py` writes them without a renaming table.
"""
from .clip import ClipTextModel
from .t5 import T5Encoder
from .transformer import FluxTransformer
from .vae import AutoencoderKL

__all__ = ["AutoencoderKL", "ClipTextModel", "FluxTransformer", "T5Encoder"]
