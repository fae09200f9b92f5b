import { chmod, mkdir, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { FluxError } from "../../lib/errors.js";
import { openSafetensors, readTensor } from "../../lib/loaders/safetensors.js";
import { safetensorsBytes, temporaryFolder } from "../support/fixture-folder.js";
import { goldenIndex, goldenPath } from "../support/golden.js";
import { seededRandom } from "../support/random.js";

async function fileOf(header: object | string, data?: Uint8Array): Promise<string> {
  const path = join(await temporaryFolder(), "model.safetensors");
  await writeFile(path, safetensorsBytes(header, data));
  return path;
}

const f32 = (shape: number[], begin: number, end: number) => ({
  dtype: "F32",
  shape,
  data_offsets: [begin, end],
});

async function expectDamaged(path: string, ...says: (string | RegExp)[]): Promise<void> {
  const error = await openSafetensors(path).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(FluxError);
  expect((error as FluxError).code).toBe("ERR_FLUX_BAD_WEIGHTS");
  expect((error as FluxError).message).toContain(path);
  for (const part of says) expect((error as FluxError).message).toMatch(part);
}

describe("openSafetensors", () => {
  it("lists what cases.json says is in a golden file", async () => {
    const { tensors } = goldenIndex("cases/numeric.safetensors");
    const file = await openSafetensors(goldenPath("cases/numeric.safetensors"));
    expect([...file.tensors.keys()].sort()).toEqual(Object.keys(tensors).sort());
    for (const [name, { dtype, shape }] of Object.entries(tensors)) {
      expect(file.tensors.get(name), name).toMatchObject({ name, dtype, shape });
    }
    const entries = [...file.tensors.values()];
    expect(entries[0].begin).toBe(file.dataOffset);
    expect(entries.at(-1)?.end).toBe(file.fileBytes);
  });

  it("reads metadata, scalars, empty tensors and a header padded with spaces", async () => {
    const header = JSON.stringify({
      __metadata__: { format: "pt" },
      scalar: f32([], 0, 4),
      empty: f32([3, 0, 2], 4, 4),
      __proto__x: f32([1], 4, 8),
    });
    const path = await fileOf(`${header}     `, Uint8Array.of(0, 0, 0x80, 0x3f, 0, 0, 0, 0x40));
    const file = await openSafetensors(path);
    expect(file.metadata).toEqual(new Map([["format", "pt"]]));
    expect(await readTensor(file, "scalar")).toEqual({ shape: [], data: Float32Array.of(1) });
    expect(await readTensor(file, "empty")).toEqual({ shape: [3, 0, 2], data: new Float32Array() });
    expect(await readTensor(file, "__proto__x")).toEqual({ shape: [1], data: Float32Array.of(2) });
  });

  it("takes __proto__ for a name like any other", async () => {
    const file = await openSafetensors(
      await fileOf('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', Uint8Array.of(7)),
    );
    expect((await readTensor(file, "__proto__")).data).toEqual(Uint8Array.of(7));
  });

  it("refuses a file that is not there, a folder, and a file that may not be read", async () => {
    const folder = await temporaryFolder();
    await expectDamaged(join(folder, "absent.safetensors"), /not there/);
    await mkdir(join(folder, "folder.safetensors"));
    await expectDamaged(join(folder, "folder.safetensors"), /not a file|a folder/);
  });

  it.skipIf(process.getuid?.() === 0)("says ERR_FLUX_IO for a file without read permission", async () => {
    const path = await fileOf({});
    await chmod(path, 0);
    await expect(openSafetensors(path)).rejects.toMatchObject({ code: "ERR_FLUX_IO" });
  });

  it("refuses a file too short for its header length", async () => {
    const path = await fileOf({});
    await truncate(path, 5);
    await expectDamaged(path, /5 bytes/);
    await truncate(path, 0);
    await expectDamaged(path, /0 bytes/);
  });

  it("refuses a header beyond the end of the file and one over the format's limit", async () => {
    const bytes = safetensorsBytes({}, new Uint8Array(8));
    const path = join(await temporaryFolder(), "model.safetensors");
    new DataView(bytes.buffer).setBigUint64(0, 1000n, true);
    await writeFile(path, bytes);
    await expectDamaged(path, /beyond the end/);
    new DataView(bytes.buffer).setBigUint64(0, 2n ** 64n - 1n, true);
    await writeFile(path, bytes);
    await expectDamaged(path, /18446744073709551615/, /100 MB/);
    new DataView(bytes.buffer).setBigUint64(0, 0n, true);
    await writeFile(path, bytes);
    await expectDamaged(path, /header length is 0/);
  });

  it("refuses a truncated data section, naming the tensor", async () => {
    const path = await fileOf({ weight: f32([2, 2], 0, 16) }, new Uint8Array(16));
    await truncate(path, (await openSafetensors(path)).fileBytes - 1);
    await expectDamaged(path, /"weight"/, /truncated/);
  });

  it.each([
    ["no JSON", "{not json}", 0, /not valid JSON/],
    ["an array", "[1]", 0, /does not begin with/],
    ["leading space", " {}", 0, /does not begin with/],
    ["trailing garbage", "{}x", 0, /not valid JSON/],
    [
      "a duplicate name",
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
      2,
      /"a" twice/,
    ],
    [
      "a duplicate field",
      '{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
      1,
      /"dtype" twice/,
    ],
    ["metadata that is a list", { __metadata__: [] }, 0, /__metadata__/],
    ["metadata that is not text", { __metadata__: { a: 1 } }, 0, /"a" that is not a string/],
    ["a tensor that is a number", { a: 1 }, 0, /"a" is not described/],
    ["an unknown dtype", { a: { dtype: "F33", shape: [1], data_offsets: [0, 4] } }, 4, /unknown dtype.*F33/],
    [
      "an inherited name as dtype",
      { a: { dtype: "toString", shape: [1], data_offsets: [0, 4] } },
      4,
      /unknown dtype/,
    ],
    ["a missing dtype", { a: { shape: [1], data_offsets: [0, 4] } }, 4, /unknown dtype/],
    ["a missing shape", { a: { dtype: "F32", data_offsets: [0, 4] } }, 4, /shape/],
    ["an unknown field", { a: { ...f32([1], 0, 4), stride: 1 } }, 4, /unknown field "stride"/],
    ["a negative size", { a: f32([-1], 0, 4) }, 4, /shape/],
    ["a fractional size", { a: f32([0.5], 0, 4) }, 4, /shape/],
    ["an inexact size", '{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}', 1, /shape/],
    ["a product beyond 2^53", { a: f32([2 ** 40, 2 ** 40], 0, 4) }, 4, /more bytes than/],
    ["one offset", { a: { dtype: "F32", shape: [1], data_offsets: [0] } }, 4, /data_offsets/],
    ["a negative offset", { a: f32([1], -4, 0) }, 4, /data_offsets/],
    ["an end before its begin", { a: f32([1], 4, 0) }, 4, /before it begins/],
    ["an end beyond the file", { a: f32([2], 0, 8) }, 4, /reaches byte 8/],
    ["a range that does not fit its shape", { a: f32([2], 0, 4) }, 4, /needs 8 bytes, but has 4/],
    ["overlapping tensors", { a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12, /"a" and "b" overlap/],
    ["the same range twice", { a: f32([1], 0, 4), b: f32([1], 0, 4) }, 4, /overlap/],
    ["a hole at the start", { a: f32([1], 4, 8) }, 8, /4 bytes before tensor "a"/],
    ["a hole in the middle", { a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12, /4 bytes before tensor "b"/],
    ["data after the last tensor", { a: f32([1], 0, 4) }, 6, /2 bytes after/],
    ["data without tensors", {}, 3, /3 bytes after/],
    ["half a byte", { a: { dtype: "F4", shape: [3], data_offsets: [0, 1] } }, 1, /needs 1.5 bytes/],
  ])("refuses %s", async (_what, header, dataBytes, says) => {
    await expectDamaged(await fileOf(header, new Uint8Array(dataBytes)), says);
  });

  it("refuses a header that is not UTF-8", async () => {
    const bytes = safetensorsBytes('{"a?":1}');
    bytes[8 + 3] = 0xff;
    const path = join(await temporaryFolder(), "model.safetensors");
    await writeFile(path, bytes);
    await expectDamaged(path, /UTF-8/);
  });

  it("refuses deeply nested JSON without overflowing the stack", async () => {
    await expectDamaged(await fileOf(`{"a":${"[".repeat(200_000)}${"]".repeat(200_000)}}`), /JSON|described/);
  });
});

describe("readTensor", () => {
  it("names the file and the tensor that it lacks", async () => {
    const file = await openSafetensors(await fileOf({}));
    await expect(readTensor(file, "absent")).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_WEIGHTS",
      message: expect.stringContaining('"absent"'),
    });
  });

  it("says that a packed dtype is not supported on the host", async () => {
    const file = await openSafetensors(
      await fileOf({ a: { dtype: "F4", shape: [2], data_offsets: [0, 1] } }, new Uint8Array(1)),
    );
    await expect(readTensor(file, "a")).rejects.toMatchObject({ code: "ERR_FLUX_UNSUPPORTED" });
  });

  it("reports a file that shrank after it was opened", async () => {
    const path = await fileOf({ a: f32([2], 0, 8) }, new Uint8Array(8));
    const file = await openSafetensors(path);
    await truncate(path, file.fileBytes - 4);
    await expect(readTensor(file, "a")).rejects.toMatchObject({ code: "ERR_FLUX_BAD_WEIGHTS" });
  });
});

describe("fuzz", () => {
  // Each mutation breaks a valid file in one to four ways, from single bits up to swapped numbers and cut ends.
  const random = seededRandom(20240801);
  const below = (n: number) => Math.floor(random() * n);
  const SEED_HEADER = {
    __metadata__: { format: "pt", note: 'quoted "text"' },
    "blocks.0.weight": { dtype: "BF16", shape: [4, 8], data_offsets: [0, 64] },
    "blocks.0.bias": { dtype: "F32", shape: [4], data_offsets: [64, 80] },
    scale: { dtype: "F8_E4M3", shape: [], data_offsets: [80, 81] },
    empty: { dtype: "I64", shape: [0, 7], data_offsets: [81, 81] },
  };
  const NUMBERS = [
    "-1",
    "0",
    "1",
    "64",
    "81",
    "1e3",
    "0.5",
    "9007199254740993",
    "18446744073709551615",
    "null",
    '"4"',
    "[]",
  ];
  const WORDS = [
    "BF16",
    "F64",
    "BOOL",
    "F4",
    "F33",
    "__proto__",
    "constructor",
    "data_offsets",
    "\\u0000",
    "\\ud800",
    "}",
  ];

  function mutateText(text: string): string {
    const at = below(text.length + 1);
    switch (below(6)) {
      case 0:
        return text.slice(0, at) + text.slice(at + 1 + below(8));
      case 1:
        return text.slice(0, at) + String.fromCharCode(below(0x180)) + text.slice(at);
      case 2: {
        const numbers = [...text.matchAll(/\d+/g)];
        const found = numbers[below(numbers.length)];
        if (found === undefined) return text;
        return (
          text.slice(0, found.index) +
          NUMBERS[below(NUMBERS.length)] +
          text.slice(found.index + found[0].length)
        );
      }
      case 3: {
        const words = [...text.matchAll(/[A-Za-z_]\w*/g)];
        const found = words[below(words.length)];
        if (found === undefined) return text;
        return (
          text.slice(0, found.index) + WORDS[below(WORDS.length)] + text.slice(found.index + found[0].length)
        );
      }
      case 4:
        return text.slice(0, at) + text.slice(below(at + 1), at) + text.slice(at);
      default:
        return `${text}${" ".repeat(below(3))}`;
    }
  }

  function mutateBytes(bytes: Uint8Array): Uint8Array {
    switch (below(4)) {
      case 0:
        bytes[below(bytes.length)] ^= 1 << below(8);
        return bytes;
      case 1:
        bytes[below(Math.min(8, bytes.length))] = below(256);
        return bytes;
      case 2:
        return bytes.subarray(0, 1 + below(bytes.length));
      default:
        return Uint8Array.from([...bytes, ...new Uint8Array(below(9))]);
    }
  }

  it("gives a FluxError or a sound file for 2,000 mutated headers", async () => {
    const path = join(await temporaryFolder(), "mutated.safetensors");
    let refused = 0;
    for (let round = 0; round < 2000; round++) {
      let text = JSON.stringify(SEED_HEADER);
      const textEdits = below(4);
      for (let edit = 0; edit < textEdits; edit++) text = mutateText(text);
      let bytes = safetensorsBytes(text, new Uint8Array(81));
      if (textEdits === 0 || below(4) === 0) bytes = mutateBytes(bytes);
      await writeFile(path, bytes);

      const result = await openSafetensors(path).catch((error: unknown) => error);
      if (result instanceof Error) {
        refused++;
        expect(result, `round ${round}: ${text}`).toBeInstanceOf(FluxError);
        expect((result as FluxError).code).toBe("ERR_FLUX_BAD_WEIGHTS");
        expect((result as FluxError).message).toContain(path);
        continue;
      }
      const file = result as Awaited<ReturnType<typeof openSafetensors>>;
      let reached = file.dataOffset;
      for (const { begin, end } of file.tensors.values()) {
        expect(begin, `round ${round}: ${text}`).toBe(reached);
        reached = end;
      }
      expect(reached).toBe(bytes.length);
    }
    // Most mutations must break something, or the fuzzer tests nothing; some must not, or it never reaches the end.
    expect(refused).toBeGreaterThan(1000);
    expect(refused).toBeLessThan(2000);
  });
});
