"""Configurations of the four networks and the scheduler: what goes into the pipeline folder, key by key."""
import json
from pathlib import Path

from vocabulary import CLIP_LENGTH

VERSION = "0.30.0"

VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": VERSION,
    "act_fn": "silu",
    "block_out_channels": [16, 32, 48, 48],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}

TRANSFORMER = {
    "_class_name": "FluxTransformer2DModel",
    "_diffusers_version": VERSION,
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 128,
    "num_attention_heads": 2,
    "num_layers": 1,
    "num_single_layers": 3,
    "out_channels": None,
    "patch_size": 1,
    "pooled_projection_dim": 64,
}

CLIP = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    # 2 is what published FLUX folders say; it makes readers pool at the highest id, which is end-of-text.
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 64,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": CLIP_LENGTH,
    "model_type": "clip_text_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
    "projection_dim": 64,
    "torch_dtype": "bfloat16",
}

T5 = {
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 256,
    "d_kv": 32,
    "d_model": 128,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.0,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": VERSION,
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}

MODEL_INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": VERSION,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def with_vocabulary(folder):
    """(CLIP, T5) configurations sized for the tokenizers in `folder`; T5's table is rounded up to a multiple of 64."""
    clip_size = len(json.loads((Path(folder) / "tokenizer" / "vocab.json").read_text()))
    pieces = json.loads((Path(folder) / "tokenizer_2" / "tokenizer.json").read_text())["model"]["vocab"]
    return {**CLIP, "vocab_size": clip_size}, {**T5, "vocab_size": (len(pieces) + 63) // 64 * 64}
