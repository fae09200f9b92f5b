import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { inspectModel } from "../../lib/cli/model-report.js";
import { safetensorsBytes, temporaryFolder } from "../support/fixture-folder.js";
import { schnellFolder } from "../support/folders.js";
import { GoldenFile, goldenPath } from "../support/golden.js";
import {
  asBf16,
  bflAutoencoder,
  bflTransformer,
  prefixed,
  readFolder,
  type Tensors,
  writeTensors,
} from "../support/single-files.js";

/** A whole model whose files may be changed. */
async function modelCopy(): Promise<string> {
  const links = schnellFolder();
  onTestFinished(() => rm(links, { recursive: true }));
  const folder = await temporaryFolder();
  await cp(links, folder, { recursive: true, dereference: true });
  return folder;
}

async function changeConfig(folder: string, changes: object): Promise<void> {
  const file = join(folder, "config.json");
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), ...changes }));
}

const VAE = "tiny-flux/vae/diffusion_pytorch_model.safetensors";
const CLIP = "tiny-flux/text_encoder/model.safetensors";

describe("inspectModel", () => {
  it("finds nothing wrong with a whole model and counts every tensor of it", async () => {
    const report = await inspectModel(await modelCopy());
    expect(report.problems).toEqual([]);
    const vae = new GoldenFile(goldenPath(VAE));
    const parameters = vae
      .names()
      .map((name) => vae.shape(name).reduce((product, length) => product * length, 1))
      .reduce((sum, count) => sum + count);
    expect(report.components.find(({ name }) => name === "vae")).toMatchObject({
      class: "AutoencoderKL",
      parameters,
      bytes: 2 * parameters,
      dtypes: { BF16: parameters },
      files: 1,
    });
  });

  it("names every tensor of a layer that the config has and the file has not", async () => {
    const folder = await modelCopy();
    await changeConfig(join(folder, "text_encoder"), { num_hidden_layers: 3 });
    const { problems, components } = await inspectModel(folder);
    const last = new GoldenFile(goldenPath(CLIP)).names().filter((name) => name.includes("layers.1."));
    expect(last).toHaveLength(16);
    const missing = last.map((name) => {
      const third = name.replace("layers.1.", "layers.2.");
      return `${join(folder, "text_encoder")}: ${third} is missing`;
    });
    expect(problems.toSorted()).toEqual(missing.toSorted());
    expect(components.flatMap((component) => component.problems)).toEqual(problems);
  });

  it("names every tensor of another shape, and what shape it should have", async () => {
    const folder = await modelCopy();
    const file = new GoldenFile(goldenPath(CLIP));
    const [inner, width] = file.shape("text_model.encoder.layers.0.mlp.fc1.weight");
    await changeConfig(join(folder, "text_encoder"), { intermediate_size: 2 * inner });
    const wrong = (tensor: string, shape: number[], wanted: number[]) =>
      [0, 1].map(
        (layer) =>
          `${join(folder, "text_encoder")}: text_model.encoder.layers.${layer}.mlp.${tensor} ` +
          `has shape [${shape.join(", ")}], not [${wanted.join(", ")}]`,
      );
    expect((await inspectModel(folder)).problems.toSorted()).toEqual(
      [
        ...wrong("fc1.weight", [inner, width], [2 * inner, width]),
        ...wrong("fc1.bias", [inner], [2 * inner]),
        ...wrong("fc2.weight", [width, inner], [width, 2 * inner]),
      ].toSorted(),
    );
  });

  it("names a dtype that cannot be read", async () => {
    const folder = await modelCopy();
    const header = { "decoder.conv_in.bias": { dtype: "I32", shape: [64], data_offsets: [0, 256] } };
    await rm(join(folder, "vae/diffusion_pytorch_model.safetensors"));
    await writeFile(join(folder, "vae/model.safetensors"), safetensorsBytes(header, new Uint8Array(256)));
    const { problems } = await inspectModel(folder);
    expect(problems).toHaveLength(new GoldenFile(goldenPath(VAE)).names().length);
    expect(problems).toContainEqual(expect.stringMatching(/vae: decoder\.conv_in\.bias has dtype I32/));
  });

  it("takes tensors under the names that other exports give them", async () => {
    const folder = await modelCopy();
    const file = join(folder, "text_encoder/model.safetensors");
    const bytes = await readFile(file);
    // The same length, so that the header stays as long: spaces are JSON's.
    const begin = 8 + Number(bytes.readBigUInt64LE(0));
    const header = bytes.subarray(8, begin).toString().replaceAll('"text_model.', '"');
    bytes.write(header.padEnd(begin - 8), 8);
    await writeFile(file, bytes);
    expect((await inspectModel(folder)).problems).toEqual([]);
  });

  it("lists the parts of a single file, and what its transformer lacks", async () => {
    const transformer = bflTransformer(readFolder(goldenPath("tiny-flux-schnell/transformer")));
    transformer.delete("single_blocks.0.linear2.bias");
    const tensors = new Map([
      ...prefixed("model.diffusion_model.", transformer),
      ...prefixed("vae.", bflAutoencoder(readFolder(goldenPath("tiny-flux/vae")))),
    ]);
    const encoded = new Map([...tensors].map(([name, tensor]) => [name, asBf16(tensor)]));
    const file = writeTensors(join(await temporaryFolder(), "flux1-schnell.safetensors"), encoded);
    const report = await inspectModel(file);
    const count = (all: Tensors) => [...all.values()].reduce((sum, { values }) => sum + values.length, 0);
    const parameters = count(transformer);
    expect(report.components).toEqual([
      expect.objectContaining({ name: "vae", class: "AutoencoderKL", problems: [] }),
      expect.objectContaining({
        ...{ name: "transformer", class: "FluxTransformer2DModel", parameters, bytes: 2 * parameters },
        dtypes: { BF16: parameters },
        problems: [`${file}: single_transformer_blocks.0.proj_out.bias is missing`],
      }),
    ]);
    expect(report.parameters).toBe(count(tensors));
  });
});
