// Files that cannot be used: every error names the tensor.

import { mkdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cpuDevice } from "../support/device.js";
import { safetensorsBytes, temporaryFolder } from "../support/fixture-folder.js";
import {
  type FileTensor,
  f32,
  fileBytes,
  randomTensor,
  readLayers,
  scalar,
  shippedAdapter,
  tensorsOf,
  WIDTH,
  writeAdapter,
} from "./adapter-file.js";

const A = "transformer.proj_out.lora_A.weight";
const B = "transformer.proj_out.lora_B.weight";
const good = () => tensorsOf(shippedAdapter("pixel"));

async function refused(source: string | Uint8Array, message: RegExp, code = "ERR_FLUX_BAD_WEIGHTS") {
  const device = cpuDevice();
  const error = { code, message: expect.stringMatching(message) };
  await expect(readLayers(device, source)).rejects.toThrow(expect.objectContaining(error));
  expect(device.memoryUsage().host).toBe(0);
}

const without = (name: string) => {
  const { [name]: _, ...rest } = good();
  return rest;
};
const changed = (name: string, tensor: FileTensor) => ({ ...good(), [name]: tensor });

describe("refuses", () => {
  it.each<[string, () => Record<string, FileTensor>, RegExp]>([
    [
      "a down matrix without up",
      () => without(B),
      /"transformer.proj_out.lora_A.weight" has no up \(B\) matrix/,
    ],
    [
      "an up matrix without down",
      () => without(A),
      /"transformer.proj_out.lora_B.weight" has no down \(A\) matrix/,
    ],
    [
      "two ranks in a pair",
      () => changed(A, randomTensor([7, WIDTH], 1)),
      /"transformer.proj_out.lora_A.weight" has rank 7, but "transformer.proj_out.lora_B.weight" has rank 8/,
    ],
    [
      "too many columns",
      () => changed(A, randomTensor([8, WIDTH + 1], 1)),
      /"transformer.proj_out.lora_A.weight" has shape \[8, 257\], but proj_out of this model need 256 columns/,
    ],
    [
      "too few rows",
      () => changed(B, randomTensor([63, 8], 1)),
      /"transformer.proj_out.lora_B.weight" has shape \[63, 8\], but proj_out of this model need 64 rows/,
    ],
    [
      "a vector",
      () => changed(A, randomTensor([WIDTH], 1)),
      /lora_A.weight" has shape \[256\] and must be a matrix/,
    ],
    [
      "a real convolution",
      () => changed(A, randomTensor([8, WIDTH, 3, 3], 1)),
      /lora_A.weight" has shape \[8, 256, 3, 3\] and must be a matrix/,
    ],
    ["no rows at all", () => changed(A, f32([0, WIDTH], [])), /lora_A.weight" is empty: \[0, 256\]/],
    [
      "a dtype that is no float of 32 bits or less",
      () => changed(A, { dtype: "F64", shape: [8, WIDTH], bytes: new Uint8Array(8 * 8 * WIDTH) }),
      /lora_A.weight" has dtype F64 \(F32, F16, BF16, F8_E4M3 and F8_E5M2 can be read\)/,
    ],
    [
      "NaN in a down matrix",
      () => changed(A, f32([8, WIDTH], new Float32Array(8 * WIDTH).fill(Number.NaN, 1000, 1001))),
      /these tensors hold NaN or infinite values: "transformer.proj_out.lora_A.weight"\. /,
    ],
    [
      "infinity in an up matrix",
      () => changed(B, f32([64, 8], new Float32Array(512).fill(Number.POSITIVE_INFINITY, 0, 1))),
      /NaN or infinite values: "transformer.proj_out.lora_B.weight"\. /,
    ],
    [
      "an alpha that is no number",
      () => changed("transformer.proj_out.alpha", scalar(Number.NaN)),
      /"transformer.proj_out.alpha" is NaN/,
    ],
    [
      "several alphas",
      () => changed("transformer.proj_out.alpha", f32([2], [1, 1])),
      /"transformer.proj_out.alpha" has shape \[2\] and must be one number/,
    ],
    ["no tensors", () => ({}), /it holds no tensors/],
    [
      "nothing that this model has",
      () => ({ "lora_unet_down_blocks_0.lora_down.weight": randomTensor([2, 2], 1), other: scalar(1) }),
      /none of its 2 tensors changes this model, such as "other".*"lora_unet_down_blocks_0.lora_down.weight"/,
    ],
  ])("%s", async (_, tensors, message) => {
    await refused(fileBytes(tensors()), message);
    await refused(await writeAdapter(tensors()), message);
  });

  it("a fused pair whose rows are not those of all its layers", async () => {
    const stem = "lora_unet_double_blocks_0_img_attn_qkv";
    const tensors = {
      [`${stem}.lora_down.weight`]: randomTensor([2, WIDTH], 1),
      [`${stem}.lora_up.weight`]: randomTensor([2 * WIDTH, 2], 1),
    };
    await refused(
      fileBytes(tensors),
      /qkv.lora_up.weight" has shape \[512, 2\].*to_q, .*to_k, .*to_v .*768 rows/,
    );
  });

  it("a control adapter, and says what it would need", async () => {
    const tensors = {
      ...good(),
      "img_in.lora_A.weight": randomTensor([4, 128], 1),
      "img_in.lora_B.weight": randomTensor([WIDTH, 4], 2),
      "double_blocks.0.img_attn.norm.query_norm.scale": f32([128], new Float32Array(128).fill(1)),
    };
    const message = /is a control adapter: "img_in.lora_A.weight" reads 128 channels/;
    await refused(fileBytes(tensors), message, "ERR_FLUX_UNSUPPORTED");
  });

  it("what is no safetensors file, or no file", async () => {
    await refused(new Uint8Array(100).fill(7), /the adapter in memory is not a usable safetensors file/);
    await refused(
      safetensorsBytes({ [A]: { dtype: "F32", shape: [2], data_offsets: [0, 8] } }),
      /lora_A.*truncated/,
    );
    await refused("/nowhere/style.safetensors", /\/nowhere\/style.safetensors is not there/);
    const path = await writeAdapter(good());
    await truncate(path, 5000);
    await refused(path, /adapter.safetensors is not a usable safetensors file/);
    await refused(
      7 as unknown as string,
      /path of a .safetensors file, or its bytes/,
      "ERR_FLUX_BAD_ARGUMENT",
    );
    await refused("", /path of a .safetensors file, or its bytes/, "ERR_FLUX_BAD_ARGUMENT");
  });

  it("a folder of which it is not clear what is meant", async () => {
    const folder = await temporaryFolder();
    await refused(
      folder,
      /has 0 .safetensors files, none of them called pytorch_lora_weights.safetensors or/,
    );
    for (const name of ["a", "b"]) await writeFile(join(folder, `${name}.safetensors`), fileBytes(good()));
    await refused(folder, /has 2 .safetensors files/);
    await writeFile(join(folder, "pytorch_lora_weights.safetensors"), fileBytes(good()));
    expect((await readLayers(cpuDevice(), folder)).adapter.location).toBe(
      join(folder, "pytorch_lora_weights.safetensors"),
    );
    await mkdir(join(folder, "c.safetensors"));
    await refused(join(folder, "c.safetensors"), /has 0 .safetensors files/);
  });
});
