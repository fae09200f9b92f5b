// Cuts what every clone needs out of the full golden data: node test/golden/cut.mjs FULL_CASES_FOLDER
// The autoencoder's cases are 4 MB, most of it intermediate values of one size; here are the inputs and outputs of the
// smallest size, as cases/vae_64.safetensors.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [folder] = process.argv.slice(2);
if (folder === undefined) throw new Error("name the folder with vae.safetensors: node test/golden/cut.mjs FOLDER");
const file = readFileSync(join(folder, "vae.safetensors"));
const dataOffset = 8 + Number(file.readBigUInt64LE(0));
const full = JSON.parse(file.subarray(8, dataOffset));

const header = { __metadata__: full.__metadata__ };
const parts = [];
let end = 0;
for (const [name, entry] of Object.entries(full)) {
  if (!name.startsWith("64x64.")) continue;
  const [begin, stop] = entry.data_offsets;
  parts.push(file.subarray(dataOffset + begin, dataOffset + stop));
  header[name] = { ...entry, data_offsets: [end, end + stop - begin] };
  end += stop - begin;
}
// Padded with spaces to a multiple of 8, so that the data is aligned.
const text = JSON.stringify(header);
const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
const length = Buffer.alloc(8);
length.writeBigUInt64LE(BigInt(json.length));
writeFileSync(
  join(fileURLToPath(new URL("cases", import.meta.url)), "vae_64.safetensors"),
  Buffer.concat([length, json, ...parts]),
);
