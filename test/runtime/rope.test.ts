// When a rotary table is rearranged for the GPU's kernels, and how parts of it are cut.
import { describe, expect, it } from "vitest";
import { Recorder } from "../../lib/runtime/recorder.js";
import { cpuDevice } from "../support/device.js";

const table = (tokens: number) => cpuDevice(1).buffer("f32", [tokens, 64, 2]);

describe("rope", () => {
  it("is the table alone on the CPU", () => {
    const g = new Recorder("f32");
    const rope = g.rope(table(40)).slice(16, 24);
    expect([rope.table.shape, rope.pairs, g.ops.length]).toEqual([[24, 64, 2], undefined, 0]);
  });

  it("is rearranged once on a GPU, in blocks of 16 tokens", () => {
    const g = new Recorder("bf16");
    const rope = g.rope(table(300));
    const image = g.rope(rope.slice(128, 172));
    expect(g.ops.map(({ kind }) => kind)).toEqual(["ropePairs"]);
    expect([rope.pairs!.dtype, rope.pairs!.shape]).toEqual(["f16", [19, 8, 32, 8]]);
    expect([image.pairs!.shape, image.pairs!.offset]).toEqual([[11, 8, 32, 8], 8 * 8 * 32 * 8]);
    expect(image.pairs!.storage).toBe(rope.pairs!.storage);
    expect([image.table.shape, image.table.offset]).toEqual([[172, 64, 2], 128 * 128]);
  });

  it("is rearranged anew for a part that begins within a block", () => {
    const g = new Recorder("bf16");
    const image = g.rope(g.rope(table(300)).slice(77, 223));
    expect(g.ops.map(({ kind }) => kind)).toEqual(["ropePairs", "ropePairs"]);
    expect(image.pairs!.shape).toEqual([14, 8, 32, 8]);
    expect(g.ops[1]!.inputs.table).toBe(image.table);
  });
});
