// Adapter files for tests: tensors of any dtype under any names, and what an adapter holds once it was read.

import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readClipTextConfig, readFluxTransformerConfig } from "../../lib/loaders/config.js";
import { type Adapter, readAdapter } from "../../lib/lora/adapter.js";
import { openLoraFile } from "../../lib/lora/file.js";
import { type Sites, sitesOf } from "../../lib/lora/sites.js";
import { CLIPTextEncoder } from "../../lib/models/clip-text-encoder.js";
import { FluxTransformer } from "../../lib/models/flux/transformer.js";
import type { Device } from "../../lib/runtime/device.js";
import { valuesOf } from "../../lib/runtime/host-memory.js";
import { safetensorsBytes, temporaryFolder } from "../support/fixture-folder.js";
import { randomValues } from "../support/random.js";

/** The model in models/: one double and three single blocks, 256 wide. */
export const MODEL = fileURLToPath(new URL("../../models/tiny", import.meta.url));
export const WIDTH = 256;

export function shippedAdapter(name: string): string {
  return fileURLToPath(new URL(`../../models/tiny-loras/${name}.safetensors`, import.meta.url));
}

/** The layers of the model in models/, which is not loaded. */
export async function modelSites(device: Device): Promise<Sites> {
  const transformer = new FluxTransformer(device, await readFluxTransformerConfig(`${MODEL}/transformer`));
  return sitesOf(transformer, new CLIPTextEncoder(device, await readClipTextConfig(`${MODEL}/text_encoder`)));
}

export interface FileTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export function f32(shape: readonly number[], values: ArrayLike<number>): FileTensor {
  const data = Float32Array.from(values);
  return { dtype: "F32", shape, bytes: new Uint8Array(data.buffer) };
}

export function randomTensor(shape: readonly number[], seed: number): FileTensor {
  return f32(
    shape,
    randomValues(
      shape.reduce((product, length) => product * length, 1),
      seed,
    ),
  );
}

export const scalar = (value: number) => f32([], [value]);

/** A safetensors file of these tensors. */
export function fileBytes(
  tensors: Readonly<Record<string, FileTensor>>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const header: Record<string, unknown> = metadata === undefined ? {} : { __metadata__: metadata };
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  const data = Buffer.concat(Object.values(tensors).map(({ bytes }) => bytes));
  return safetensorsBytes(header, data);
}

/** The tensors of an adapter file, to be changed and written again. */
export function tensorsOf(path: string): Record<string, FileTensor> {
  const bytes = readFileSync(path);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerBytes)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors: Record<string, FileTensor> = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = data_offsets.map((offset) => 8 + headerBytes + offset);
    tensors[name] = { dtype, shape, bytes: bytes.subarray(begin, end) };
  }
  return tensors;
}

export async function writeAdapter(
  tensors: Readonly<Record<string, FileTensor>>,
  metadata?: Readonly<Record<string, string>>,
): Promise<string> {
  const path = join(await temporaryFolder(), "adapter.safetensors");
  await writeFile(path, fileBytes(tensors, metadata));
  return path;
}

/** One layer's matrices as slots take them. */
export interface LayerMatrices {
  readonly rank: number;
  readonly scale: number;
  readonly down: Float32Array;
  readonly up: Float32Array;
}

/** What a file becomes: by the layer's name, with `text_encoder.` before CLIP's. */
export async function readLayers(
  device: Device,
  source: string | Uint8Array,
): Promise<{ layers: Record<string, LayerMatrices>; adapter: Adapter }> {
  const sites = await modelSites(device);
  const adapter = await readAdapter(device, sites, await openLoraFile(source));
  const layers: Record<string, LayerMatrices> = {};
  for (const { linear, part, rank, scale, down, up } of adapter.pieces) {
    const name = linear.names[part]!;
    const isClip = sites.text_encoder.get(name)?.linear === linear;
    const matrix = (begin: number, rows: number, columns: number) =>
      valuesOf(device, [{ source: adapter.memory!, begin, dtype: "f32", rows, columns }]);
    layers[isClip ? `text_encoder.${name}` : name] = {
      rank,
      scale,
      down: await matrix(down, rank, linear.columns),
      up: await matrix(up, linear.rows[part]!, rank),
    };
  }
  return { layers, adapter };
}
