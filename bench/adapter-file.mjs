// Files of made-up adapters, as large as real ones.
import { closeSync, openSync, writeSync } from "node:fs";

/**
 * A bf16 adapter of small numbers, other ones for each seed, for every layer, in diffusers' form.
 * @param {string} path
 * @param {Iterable<[string, { linear: { columns: number, rows: readonly number[] }, part: number }]>} layers by name
 * @param {number} rank
 * @param {number} [seed]
 * @returns {string} the path
 */
export function writeAdapter(path, layers, rank, seed = 1) {
  const header = {};
  let end = 0;
  const add = (name, shape) => {
    const bytes = 2 * shape[0] * shape[1];
    header[name] = { dtype: "BF16", shape, data_offsets: [end, end + bytes] };
    end += bytes;
  };
  for (const [name, { linear, part }] of layers) {
    add(`transformer.${name}.lora_A.weight`, [rank, linear.columns]);
    add(`transformer.${name}.lora_B.weight`, [linear.rows[part], rank]);
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const descriptor = openSync(path, "w");
  writeSync(descriptor, Buffer.concat([length, json]));
  const chunk = numbers((1 << 20) + 1, seed); // an odd count: no two rows hold the same
  for (let left = end; left > 0; left -= chunk.length)
    writeSync(descriptor, chunk, 0, Math.min(left, chunk.length));
  closeSync(descriptor);
  return path;
}

/** bf16 numbers of either sign between 2^-9 and 2^-7. */
function numbers(count, seed) {
  const values = new Uint16Array(count);
  let state = seed;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator
    values[i] = ((state >>> 31) << 15) | (0x3b00 + ((state >>> 16) & 0xff));
  }
  return Buffer.from(values.buffer);
}
