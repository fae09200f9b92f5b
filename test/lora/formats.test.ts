// Adapter files as each trainer writes them: the names, orders and scales are those that the trainers publish (Black Forest
// Labs' names against diffusers' as in diffusers' own conversion), the matrices are random.

import { writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { formatOf } from "../../lib/lora/format.js";
import { clipModules, transformerModules } from "../../lib/lora/modules.js";
import { cpuDevice } from "../support/device.js";
import {
  type FileTensor,
  f32,
  fileBytes,
  randomTensor,
  readLayers,
  scalar,
  WIDTH,
  writeAdapter,
} from "./adapter-file.js";

const values = ({ bytes }: FileTensor) => new Float32Array(bytes.slice().buffer);
/** Rows [begin, end) of a matrix. */
const band = (tensor: FileTensor, begin: number, end: number) => {
  const columns = tensor.shape[1]!;
  return values(tensor).slice(begin * columns, end * columns);
};

describe("names of layers", () => {
  const qkv = ["to_q", "to_k", "to_v"].map((name) => `transformer_blocks.3.attn.${name}`);
  const added = ["add_q_proj", "add_k_proj", "add_v_proj"].map((name) => `transformer_blocks.3.attn.${name}`);
  const single = ["attn.to_q", "attn.to_k", "attn.to_v"].map((name) => `single_transformer_blocks.3.${name}`);

  it.each([
    ["double_blocks.3.img_attn.qkv", qkv],
    ["double_blocks.3.txt_attn.qkv", added],
    ["double_blocks.3.img_attn.proj", ["transformer_blocks.3.attn.to_out.0"]],
    ["double_blocks.3.txt_attn.proj", ["transformer_blocks.3.attn.to_add_out"]],
    ["double_blocks.3.img_mlp.0", ["transformer_blocks.3.ff.net.0.proj"]],
    ["double_blocks.3.img_mlp.2", ["transformer_blocks.3.ff.net.2"]],
    ["double_blocks.3.txt_mlp.0", ["transformer_blocks.3.ff_context.net.0.proj"]],
    ["double_blocks.3.txt_mlp.2", ["transformer_blocks.3.ff_context.net.2"]],
    ["double_blocks.3.img_mod.lin", ["transformer_blocks.3.norm1.linear"]],
    ["double_blocks.3.txt_mod.lin", ["transformer_blocks.3.norm1_context.linear"]],
    ["single_blocks.3.linear1", [...single, "single_transformer_blocks.3.proj_mlp"]],
    ["single_blocks.3.linear2", ["single_transformer_blocks.3.proj_out"]],
    ["single_blocks.3.modulation.lin", ["single_transformer_blocks.3.norm.linear"]],
    ["img_in", ["x_embedder"]],
    ["txt_in", ["context_embedder"]],
    ["time_in.in_layer", ["time_text_embed.timestep_embedder.linear_1"]],
    ["time_in.out_layer", ["time_text_embed.timestep_embedder.linear_2"]],
    ["vector_in.in_layer", ["time_text_embed.text_embedder.linear_1"]],
    ["vector_in.out_layer", ["time_text_embed.text_embedder.linear_2"]],
    ["guidance_in.in_layer", ["time_text_embed.guidance_embedder.linear_1"]],
    ["guidance_in.out_layer", ["time_text_embed.guidance_embedder.linear_2"]],
    ["final_layer.linear", ["proj_out"]],
    ["double_blocks.3.processor.qkv_lora1", qkv],
    ["double_blocks.3.processor.qkv_lora2", added],
    ["double_blocks.3.processor.proj_lora1", ["transformer_blocks.3.attn.to_out.0"]],
    ["double_blocks.3.processor.proj_lora2", ["transformer_blocks.3.attn.to_add_out"]],
    ["single_blocks.3.processor.qkv_lora", single],
    ["single_blocks.3.processor.proj_lora", ["single_transformer_blocks.3.proj_out"]],
  ])("%s, with dots and with underscores", (name, layers) => {
    expect(transformerModules(name)).toEqual({ names: layers });
    expect(transformerModules(name.replaceAll(".", "_"))).toEqual({ names: layers });
    if (layers.length === 1) {
      expect(transformerModules(layers[0]!)).toEqual({ names: layers });
      expect(transformerModules(layers[0]!.replaceAll(".", "_"))).toEqual({ names: layers });
    }
  });

  it("the final modulation has its halves the other way round", () => {
    const names = ["norm_out.linear"];
    expect(transformerModules("final_layer.adaLN_modulation.1")).toEqual({ names, swapped: true });
    expect(transformerModules("norm_out.linear")).toEqual({ names });
  });

  it.each([
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
  ])("CLIP's %s", (layer) => {
    const name = `text_model.encoder.layers.11.${layer}`;
    expect(clipModules(name)).toEqual({ names: [name] });
    expect(clipModules(name.replaceAll(".", "_"))).toEqual({ names: [name] });
  });

  it.each([
    "double_blocks.3.img_attn.norm",
    "toString",
    "single_blocks.linear1",
    "transformer_blocks.x.attn.to_q",
    "",
  ])("%s is none", (name) => {
    expect(transformerModules(name)).toBeUndefined();
    expect(clipModules(name)).toBeUndefined();
  });
});

it.each([
  ["transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "diffusers"],
  ["base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight", "peft"],
  ["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "kohya"],
  ["lora_transformer_x_embedder.lora_down.weight", "onetrainer"],
  ["diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight", "comfyui"],
  ["double_blocks.0.processor.qkv_lora1.down.weight", "xlabs"],
  ["double_blocks.0.img_attn.qkv.lora_A.weight", "bfl"],
  ["double_blocks.0.img_attn.norm.query_norm.scale", "bfl-control"],
])("a file with %s is %s", (name, format) => expect(formatOf([name])).toBe(format));

describe("a fused pair", () => {
  it("with one down matrix for all gives each layer that matrix and its rows of up", async () => {
    const [down, up] = [randomTensor([5, WIDTH], 1), randomTensor([7 * WIDTH, 5], 2)];
    const key = "lora_unet_single_blocks_2_linear1";
    const { layers, adapter } = await readLayers(
      cpuDevice(),
      fileBytes({
        [`${key}.lora_down.weight`]: down,
        [`${key}.lora_up.weight`]: up,
        [`${key}.alpha`]: scalar(2),
      }),
    );
    const block = "single_transformer_blocks.2";
    const shares = {
      "attn.to_q": [0, 1],
      "attn.to_k": [1, 2],
      "attn.to_v": [2, 3],
      proj_mlp: [3, 7],
    } as const;
    expect(Object.keys(layers)).toEqual(Object.keys(shares).map((name) => `${block}.${name}`));
    for (const [name, [begin, end]] of Object.entries(shares)) {
      const expected = { rank: 5, scale: Math.fround(2) / 5, down: values(down) };
      expect(layers[`${block}.${name}`], name).toEqual({
        ...expected,
        up: band(up, begin * WIDTH, end * WIDTH),
      });
    }
    expect(adapter.unused).toEqual([]);
  });

  it("that was put together from separate ones comes apart again, to the rank of each", async () => {
    const parts = [4, 2, 3].map((rank, i) => ({
      rank,
      down: values(randomTensor([rank, WIDTH], 10 + i)),
      up: values(randomTensor([WIDTH, rank], 20 + i)),
    }));
    const up = new Float32Array(3 * WIDTH * 9);
    let column = 0;
    parts.forEach((part, i) => {
      for (let row = 0; row < WIDTH; row++) {
        for (let r = 0; r < part.rank; r++) {
          up[(i * WIDTH + row) * 9 + column + r] = part.up[row * part.rank + r]!;
        }
      }
      column += part.rank;
    });
    const down = f32(
      [9, WIDTH],
      parts.flatMap((part) => [...part.down]),
    );
    const stem = "diffusion_model.double_blocks.0.txt_attn.qkv";
    const { layers } = await readLayers(
      cpuDevice(),
      fileBytes({ [`${stem}.lora_A.weight`]: down, [`${stem}.lora_B.weight`]: f32([3 * WIDTH, 9], up) }),
    );
    ["add_q_proj", "add_k_proj", "add_v_proj"].forEach((name, i) => {
      const { rank, down: ownDown, up: ownUp } = parts[i]!;
      const expected = { rank, scale: 1, down: ownDown, up: ownUp };
      expect(layers[`transformer_blocks.0.attn.${name}`], name).toEqual(expected);
    });
  });

  it("leaves a layer out whose rows are all zero", async () => {
    const up = new Float32Array(3 * WIDTH * 2).fill(1, 0, WIDTH * 2);
    const stem = "double_blocks.0.processor.qkv_lora1";
    const tensors = {
      [`${stem}.down.weight`]: randomTensor([2, WIDTH], 1),
      [`${stem}.up.weight`]: f32([3 * WIDTH, 2], up),
    };
    const { layers } = await readLayers(cpuDevice(), fileBytes(tensors));
    expect(Object.keys(layers)).toEqual(["transformer_blocks.0.attn.to_q"]);
  });
});

it("the final modulation's rows change places, its down matrix stays", async () => {
  const [down, up] = [randomTensor([3, WIDTH], 1), randomTensor([2 * WIDTH, 3], 2)];
  const own = { rank: 3, scale: 1, down: values(down) };
  for (const [stem, halves] of [
    ["lora_unet_final_layer_adaLN_modulation_1", [1, 0]],
    ["transformer.norm_out.linear", [0, 1]],
  ] as const) {
    const { layers } = await readLayers(
      cpuDevice(),
      fileBytes({ [`${stem}.lora_down.weight`]: down, [`${stem}.lora_up.weight`]: up }),
    );
    const rows = halves.flatMap((half) => [...band(up, half * WIDTH, (half + 1) * WIDTH)]);
    expect(layers).toEqual({ "norm_out.linear": { ...own, up: Float32Array.from(rows) } });
  }
});

it("CLIP's layers are found under every prefix; T5's are named as unused", async () => {
  const layer = "text_model.encoder.layers.1.self_attn.v_proj";
  const [down, up] = [randomTensor([2, 64], 1), randomTensor([64, 2], 2)];
  for (const stem of [
    `text_encoder.${layer}`,
    `text_encoders.clip_l.transformer.${layer}`,
    `lora_te1_${layer.replaceAll(".", "_")}`,
    `lora_te_${layer.replaceAll(".", "_")}`,
  ]) {
    const t5 = [
      "lora_te2_encoder_block_0.lora_down.weight",
      "text_encoders.t5xxl.transformer.x.alpha",
      "text_encoder_2.y",
    ];
    const { layers, adapter } = await readLayers(
      cpuDevice(),
      fileBytes({
        [`${stem}.lora_down.weight`]: down,
        [`${stem}.lora_up.weight`]: up,
        [`${stem}.alpha`]: scalar(1),
        ...Object.fromEntries(t5.map((name) => [name, scalar(1)])),
      }),
    );
    const expected = { rank: 2, scale: 0.5, down: values(down), up: values(up) };
    expect(layers).toEqual({ [`text_encoder.${layer}`]: expected });
    expect(adapter.unused.map(({ key }) => key).sort()).toEqual([...t5].sort());
    for (const { reason } of adapter.unused) expect(reason).toMatch(/T5/);
  }
});

describe("alpha", () => {
  const layers = [
    "proj_out",
    "single_transformer_blocks.0.attn.to_q",
    "single_transformer_blocks.1.attn.to_q",
  ];
  /** Rank 4 for the first, 8 for the others, with a prefix. */
  const pairs = (prefix: string) =>
    Object.fromEntries(
      layers.flatMap((layer, i) => {
        const [rank, rows] = i === 0 ? [4, 64] : [8, WIDTH];
        return [
          [`${prefix}${layer}.lora_A.weight`, randomTensor([rank, WIDTH], i)],
          [`${prefix}${layer}.lora_B.weight`, randomTensor([rows, rank], 9 + i)],
        ];
      }),
    );
  const scales = async (source: string | Uint8Array) =>
    layers.map(async (layer) => (await readLayers(cpuDevice(), source)).layers[layer]!.scale);
  const scalesOf = async (source: string | Uint8Array) => Promise.all(await scales(source));
  const metadata = (config: object) => ({ lora_adapter_metadata: JSON.stringify(config) });

  it("is the rank where the file says nothing", async () => {
    expect(await scalesOf(fileBytes(pairs("transformer.")))).toEqual([1, 1, 1]);
  });

  it("comes from diffusers' metadata, with its pattern, for the transformer alone", async () => {
    const config = {
      "transformer.lora_alpha": 16,
      "transformer.alpha_pattern": { "single_transformer_blocks.1.attn.to_q": 2 },
      "transformer.rank_pattern": { proj_out: 4 },
      "transformer.r": 8,
      "text_encoder.lora_alpha": 99,
    };
    expect(await scalesOf(fileBytes(pairs("transformer."), metadata(config)))).toEqual([4, 2, 0.25]);
    const stabilised = { "transformer.lora_alpha": 8, "transformer.use_rslora": true };
    expect(await scalesOf(fileBytes(pairs("transformer."), metadata(stabilised)))).toEqual([
      4,
      8 / Math.sqrt(8),
      8 / Math.sqrt(8),
    ]);
    const others = { "text_encoder.lora_alpha": 99, "transformer.lora_alpha": null };
    expect(await scalesOf(fileBytes(pairs("transformer."), metadata(others)))).toEqual([1, 1, 1]);
  });

  it("of a pair's own tensor goes before the metadata", async () => {
    const tensors = { ...pairs("transformer."), "transformer.proj_out.alpha": f32([1], [6]) };
    const config = { "transformer.lora_alpha": 16 };
    expect(await scalesOf(fileBytes(tensors, metadata(config)))).toEqual([1.5, 2, 2]);
  });

  it("comes from the adapter_config.json beside a file that PEFT saved", async () => {
    const path = await writeAdapter(pairs("base_model.model."));
    const config = { peft_type: "LORA", r: 8, lora_alpha: 4, alpha_pattern: { to_q: 16 }, use_rslora: false };
    await writeFile(join(dirname(path), "adapter_config.json"), JSON.stringify(config));
    expect(await scalesOf(path)).toEqual([1, 2, 2]);
    expect(await scalesOf(dirname(path))).toEqual([1, 2, 2]);
  });

  it.each([
    [{ "transformer.lora_alpha": "16" }, "ERR_FLUX_BAD_WEIGHTS", /"transformer.lora_alpha" must be a number/],
    [
      { "transformer.alpha_pattern": { "to_[qk]": 2 } },
      "ERR_FLUX_UNSUPPORTED",
      /alpha_pattern has "to_\[qk\]"/,
    ],
  ])("that cannot be read is refused: %j", async (config, code, message) => {
    const bytes = fileBytes(pairs("transformer."), metadata(config));
    await expect(readLayers(cpuDevice(), bytes)).rejects.toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

it.each([
  ["F32", [1, -2, 0.5, 3e-5], new Uint8Array(Float32Array.of(1, -2, 0.5, 3e-5).buffer)],
  ["BF16", [1, -2, 0.5, 2 ** -16], new Uint8Array(Uint16Array.of(0x3f80, 0xc000, 0x3f00, 0x3780).buffer)],
  ["F16", [1, -2, 0.5, 2 ** -24], new Uint8Array(Uint16Array.of(0x3c00, 0xc000, 0x3800, 0x0001).buffer)],
  ["F8_E4M3", [1, -2, 0.5, 2 ** -9], Uint8Array.of(0x38, 0xc0, 0x30, 0x01)],
  ["F8_E5M2", [1, -2, 0.5, 2 ** -16], Uint8Array.of(0x3c, 0xc0, 0x38, 0x01)],
])("tensors of %s are widened exactly", async (dtype, expected, pattern) => {
  const fill = (shape: readonly number[]) => {
    const repeats = (shape[0]! * shape[1]!) / 4;
    return { dtype, shape, bytes: Buffer.concat(Array.from({ length: repeats }, () => pattern)) };
  };
  const tensors = {
    "transformer.proj_out.lora_A.weight": fill([4, WIDTH]),
    "transformer.proj_out.lora_B.weight": fill([64, 4]),
  };
  const { layers } = await readLayers(cpuDevice(), fileBytes(tensors));
  const { down, up } = layers.proj_out!;
  const row = Float32Array.from(expected);
  for (let i = 0; i < down.length; i += 4) expect(down.slice(i, i + 4)).toEqual(row);
  for (let i = 0; i < up.length; i += 4) expect(up.slice(i, i + 4)).toEqual(row);
});

it("names every tensor that does nothing, with the reason", async () => {
  const pair = {
    "transformer.proj_out.lora_A.weight": randomTensor([2, WIDTH], 1),
    "transformer.proj_out.lora_B.weight": randomTensor([64, 2], 2),
  };
  const others: Record<string, RegExp> = {
    "transformer.proj_out.lora_magnitude_vector": /DoRA/,
    "transformer.proj_out.dora_scale": /DoRA/,
    "transformer.proj_out.lora_B.bias": /bias/,
    "lora_unet_img_in.diff_b": /difference of a whole tensor/,
    "lora_unet_double_blocks_0_img_attn_norm_key_norm.diff": /difference of a whole tensor/,
    "lora_unet_img_in.lokr_w1": /other than LoRA/,
    "lora_unet_img_in.hada_w1_a": /other than LoRA/,
    "double_blocks.0.img_attn.norm.query_norm.scale": /norm's weight/,
    "lora_unet_down_blocks_0_conv.lora_down.weight": /not a linear layer of FLUX.1's transformer/,
    "lora_unet_double_blocks_0_img_mlp_0.alpha": /a pair that the file does not have/,
    "text_encoder.text_model.embeddings.position_embedding.lora_A.weight":
      /not a linear layer of FLUX.1's text_encoder/,
    "lora_unet_final_layer_linear.lora_down.weight": /proj_out is in the file under another name/,
    "transformer.proj_out.lora_down.weight": /the same as "transformer.proj_out.lora_A.weight"/,
    "transformer.transformer_blocks.7.attn.to_q.lora_A.weight":
      /this model has no transformer_blocks.7.attn.to_q/,
    "transformer.transformer_blocks.7.attn.to_q.lora_B.weight":
      /this model has no transformer_blocks.7.attn.to_q/,
    "transformer.transformer_blocks.7.attn.to_q.alpha": /this model has no transformer_blocks.7.attn.to_q/,
    something: /not a name that adapters for FLUX.1 have/,
  };
  const shaped = (name: string) =>
    name.endsWith("lora_A.weight")
      ? randomTensor([1, 8], 1)
      : name.endsWith("lora_B.weight")
        ? randomTensor([8, 1], 1)
        : scalar(1);
  const tensors = { ...pair, ...Object.fromEntries(Object.keys(others).map((name) => [name, shaped(name)])) };
  const { layers, adapter } = await readLayers(cpuDevice(), fileBytes(tensors));
  expect(Object.keys(layers)).toEqual(["proj_out"]);
  expect(adapter.unused.map(({ key }) => key).sort()).toEqual(Object.keys(others).sort());
  for (const { key, reason } of adapter.unused) expect(reason, key).toMatch(others[key]!);
});
