import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readTensor } from "../../lib/loaders/safetensors.js";
import type { LocatedTensor } from "../../lib/loaders/tensor-source.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { safetensorsBytes, temporaryFolder } from "../support/fixture-folder.js";
import { goldenJson, goldenPath, hasGolden } from "../support/golden.js";

const one = (name: string, value: number) =>
  safetensorsBytes({ [name]: { dtype: "U8", shape: [1], data_offsets: [0, 1] } }, Uint8Array.of(value));

interface Files {
  [name: string]: Uint8Array | object;
}

async function folderOf(files: Files): Promise<string> {
  const folder = await temporaryFolder();
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(folder, name), content instanceof Uint8Array ? content : JSON.stringify(content));
  }
  return folder;
}

const sharded = (): Files => ({
  "model-00001-of-00002.safetensors": one("a", 1),
  "model-00002-of-00002.safetensors": one("b", 2),
  "model.safetensors.index.json": {
    metadata: { total_size: 2 },
    weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" },
  },
});

const badWeights = (...parts: string[]) => ({
  code: "ERR_FLUX_BAD_WEIGHTS",
  message: expect.stringMatching(
    new RegExp(parts.map((part) => part.replace(/[.[\]]/g, "\\$&")).join(".*"), "s"),
  ),
});

describe("WeightSource.open", () => {
  it("finds one file under either usual name, or under a given one", async () => {
    for (const name of ["diffusion_pytorch_model", "model"]) {
      const source = await WeightSource.open(await folderOf({ [`${name}.safetensors`]: one("a", 1) }));
      expect([...source.names()]).toEqual(["a"]);
    }
    const folder = await folderOf({ "model.safetensors": one("a", 1), "other.safetensors": one("b", 1) });
    expect([...(await WeightSource.open(folder, "other")).names()]).toEqual(["b"]);
    expect([...(await WeightSource.open(join(folder, "other.safetensors"))).names()]).toEqual(["b"]);
  });

  it("joins shards, and opens them by folder or by index", async () => {
    const folder = await folderOf(sharded());
    for (const path of [folder, join(folder, "model.safetensors.index.json")]) {
      const source = await WeightSource.open(path);
      expect([...source.names()].sort()).toEqual(["a", "b"]);
      const { file, name, shape } = source.find("b") as LocatedTensor;
      expect(shape).toEqual([1]);
      expect(source.find("c")).toBeUndefined();
      expect(file.path).toBe(join(folder, "model-00002-of-00002.safetensors"));
      expect((await readTensor(file, name)).data).toEqual(Uint8Array.of(2));
    }
  });

  const INDEX = "tiny-flux/transformer/diffusion_pytorch_model.safetensors.index.json";
  it.skipIf(!hasGolden(INDEX))("opens the golden sharded transformer", async () => {
    const source = await WeightSource.open(goldenPath(INDEX));
    const index = goldenJson<{ metadata: { total_size: number }; weight_map: Record<string, string> }>(INDEX);
    expect([...source.names()].sort()).toEqual(Object.keys(index.weight_map).sort());
    let bytes = 0;
    for (const { begin, end } of source.tensors()) bytes += end - begin;
    expect(bytes).toBe(index.metadata.total_size);
  });

  it("names a folder that is not there, and lists what a folder without weights has", async () => {
    const folder = await folderOf({ "flux1-dev.sft": one("a", 1) });
    await expect(WeightSource.open(join(folder, "absent"))).rejects.toMatchObject(
      badWeights("absent", "not there"),
    );
    await expect(WeightSource.open(folder)).rejects.toMatchObject(
      badWeights("diffusion_pytorch_model.safetensors", "flux1-dev.sft"),
    );
    await mkdir(join(folder, "empty"));
    await expect(WeightSource.open(join(folder, "empty"))).rejects.toMatchObject(badWeights("It is empty"));
  });

  it("names a shard that is not there", async () => {
    const folder = await folderOf(sharded());
    await rm(join(folder, "model-00002-of-00002.safetensors"));
    await expect(WeightSource.open(folder)).rejects.toMatchObject(
      badWeights("model-00002-of-00002.safetensors", "not there"),
    );
  });

  it("names a damaged shard", async () => {
    const folder = await folderOf({ ...sharded(), "model-00001-of-00002.safetensors": Uint8Array.of(1, 2) });
    await expect(WeightSource.open(folder)).rejects.toMatchObject(
      badWeights("model-00001-of-00002.safetensors"),
    );
  });

  it("names a tensor that its shard lacks, and one that is in two shards", async () => {
    const lacking = await folderOf({ ...sharded(), "model-00002-of-00002.safetensors": one("c", 2) });
    await expect(WeightSource.open(lacking)).rejects.toMatchObject(
      badWeights('"b" is in model-00002-of-00002.safetensors, but it is not'),
    );
    const both = {
      a: { dtype: "U8", shape: [1], data_offsets: [0, 1] },
      b: { dtype: "U8", shape: [1], data_offsets: [1, 2] },
    };
    const twice = await folderOf({
      ...sharded(),
      "model-00002-of-00002.safetensors": safetensorsBytes(both, new Uint8Array(2)),
    });
    await expect(WeightSource.open(twice)).rejects.toMatchObject(badWeights('"a" is in both'));
  });

  it.each([
    ["text", new TextEncoder().encode("{"), "not valid JSON"],
    ["null", null, "weight_map"],
    ["no map", { metadata: {} }, "weight_map"],
    ["a list", { weight_map: [] }, "weight_map"],
    ["an empty map", { weight_map: {} }, "empty"],
    ["a number for a shard", { weight_map: { a: 1 } }, '"a"'],
    ["a shard outside the folder", { weight_map: { a: "../model.safetensors" } }, '"a"'],
    ["a shard of another format", { weight_map: { a: "model.bin" } }, '"a"'],
  ])("refuses an index that is %s", async (_what, index, says) => {
    const folder = await folderOf({ "model.safetensors.index.json": index as object });
    await expect(WeightSource.open(folder)).rejects.toMatchObject(
      badWeights("model.safetensors.index.json is not a usable index", says),
    );
  });
});
