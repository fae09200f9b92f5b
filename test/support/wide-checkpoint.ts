// The shipped model as a checkpoint that reads more than latents: FLUX.1-Fill-dev's x_embedder is 384 wide, Canny's and Depth's 128.

import { mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseHeader, parseHeaderLength } from "../../lib/loaders/safetensors-header.js";
import { safetensorsBytes } from "./fixture-folder.js";

export const TINY = fileURLToPath(new URL("../../models/tiny", import.meta.url));

const WEIGHT = "x_embedder.weight";
const OTHERS = [
  "model_index.json",
  "scheduler",
  "text_encoder",
  "text_encoder_2",
  "tokenizer",
  "tokenizer_2",
  "vae",
];

/** A folder of links, and a transformer with further columns as training/check_image_tasks.py makes them. */
export function wideCheckpoint(channels: number): string {
  const folder = mkdtempSync(join(tmpdir(), `fluxwarp-${channels}-`));
  for (const part of OTHERS) symlinkSync(join(TINY, part), join(folder, part));
  mkdirSync(join(folder, "transformer"));
  const config = JSON.parse(readFileSync(join(TINY, "transformer/config.json"), "utf8"));
  const wide = { ...config, in_channels: channels, out_channels: config.in_channels };
  writeFileSync(join(folder, "transformer/config.json"), JSON.stringify(wide));
  const name = "transformer/diffusion_pytorch_model.safetensors";
  writeFileSync(join(folder, name), widened(readFileSync(join(TINY, name)), channels));
  return folder;
}

function widened(file: Buffer, channels: number): Uint8Array {
  const length = parseHeaderLength(file, file.length, "");
  const { tensors } = parseHeader(file.subarray(8, 8 + length), file.length, "");
  const header: Record<string, object> = {};
  const parts: Uint8Array[] = [];
  let end = 0;
  for (const [name, { dtype, shape, begin, end: stop }] of tensors) {
    const bytes = file.subarray(begin, stop);
    const part = name === WEIGHT ? widenedRows(bytes, shape[0]!, shape[1]!, channels) : bytes;
    const to = name === WEIGHT ? [shape[0], channels] : shape;
    header[name] = { dtype, shape: to, data_offsets: [end, end + part.length] };
    parts.push(part);
    end += part.length;
  }
  return safetensorsBytes(header, Buffer.concat(parts));
}

/** [rows, columns] to [rows, channels], both bf16. */
function widenedRows(bytes: Uint8Array, rows: number, columns: number, channels: number): Uint8Array {
  const out = Buffer.alloc(2 * rows * channels);
  const value = new DataView(new ArrayBuffer(4));
  for (let i = 0; i < rows; i++) {
    out.set(bytes.subarray(2 * i * columns, 2 * (i + 1) * columns), 2 * i * channels);
    for (let j = columns; j < channels; j++) {
      value.setFloat32(0, (((i * 131 + j * 17) % 257) - 128) / 2048);
      out.writeUInt16LE(value.getUint16(0), 2 * (i * channels + j));
    }
  }
  return out;
}
