// The configs of FLUX.1 as Black Forest Labs published them, without what nothing reads. The schnell model differs in two places.

import type { ConfigFiles } from "./pipeline-configs.js";

const VAE_LEVELS = 4;

const DEV: ConfigFiles = {
  scheduler: {
    _class_name: "FlowMatchEulerDiscreteScheduler",
    base_image_seq_len: 256,
    base_shift: 0.5,
    max_image_seq_len: 4096,
    max_shift: 1.15,
    num_train_timesteps: 1000,
    shift: 3,
    use_dynamic_shifting: true,
  },
  text_encoder: {
    architectures: ["CLIPTextModel"],
    eos_token_id: 2,
    hidden_act: "quick_gelu",
    hidden_size: 768,
    intermediate_size: 3072,
    layer_norm_eps: 1e-5,
    max_position_embeddings: 77,
    model_type: "clip_text_model",
    num_attention_heads: 12,
    num_hidden_layers: 12,
    vocab_size: 49408,
  },
  text_encoder_2: {
    architectures: ["T5EncoderModel"],
    d_ff: 10240,
    d_kv: 64,
    d_model: 4096,
    dense_act_fn: "gelu_pytorch_tanh",
    feed_forward_proj: "gated-gelu",
    is_gated_act: true,
    layer_norm_epsilon: 1e-6,
    model_type: "t5",
    num_heads: 64,
    num_layers: 24,
    relative_attention_max_distance: 128,
    relative_attention_num_buckets: 32,
    vocab_size: 32128,
  },
  transformer: {
    _class_name: "FluxTransformer2DModel",
    attention_head_dim: 128,
    axes_dims_rope: [16, 56, 56],
    guidance_embeds: true,
    in_channels: 64,
    joint_attention_dim: 4096,
    num_attention_heads: 24,
    num_layers: 19,
    num_single_layers: 38,
    patch_size: 1,
    pooled_projection_dim: 768,
  },
  vae: {
    _class_name: "AutoencoderKL",
    act_fn: "silu",
    block_out_channels: [128, 256, 512, 512],
    down_block_types: new Array(VAE_LEVELS).fill("DownEncoderBlock2D"),
    force_upcast: true,
    in_channels: 3,
    latent_channels: 16,
    layers_per_block: 2,
    mid_block_add_attention: true,
    norm_num_groups: 32,
    out_channels: 3,
    sample_size: 1024,
    scaling_factor: 0.3611,
    shift_factor: 0.1159,
    up_block_types: new Array(VAE_LEVELS).fill("UpDecoderBlock2D"),
    use_post_quant_conv: false,
    use_quant_conv: false,
  },
};

/** By the names of the models' single files. */
export const PUBLISHED_CONFIGS: Readonly<Record<"flux1-dev" | "flux1-schnell", ConfigFiles>> = {
  "flux1-dev": DEV,
  "flux1-schnell": {
    ...DEV,
    scheduler: { ...DEV.scheduler, shift: 1, use_dynamic_shifting: false },
    transformer: { ...DEV.transformer, guidance_embeds: false },
  },
};

/** What a folder's model_index.json says of its components. */
export const MODEL_INDEX = {
  scheduler: ["diffusers", "FlowMatchEulerDiscreteScheduler"],
  text_encoder: ["transformers", "CLIPTextModel"],
  text_encoder_2: ["transformers", "T5EncoderModel"],
  tokenizer: ["transformers", "CLIPTokenizer"],
  tokenizer_2: ["transformers", "T5TokenizerFast"],
  transformer: ["diffusers", "FluxTransformer2DModel"],
  vae: ["diffusers", "AutoencoderKL"],
} as const;
