import { describe, expect, it } from "vitest";
import { readAutoencoderKLConfig, readT5Config } from "../../lib/loaders/config.js";
import { WeightSource } from "../../lib/loaders/weights.js";
import { T5Encoder } from "../../lib/models/t5-encoder.js";
import { AutoencoderKL } from "../../lib/models/vae/autoencoder.js";
import type { Buffer } from "../../lib/runtime/buffer.js";
import { flatten, type Op } from "../../lib/runtime/op.js";
import { type Placement, place } from "../../lib/runtime/planner.js";
import { Recorder } from "../../lib/runtime/recorder.js";
import { contiguousStride, Storage, Value } from "../../lib/runtime/value.js";
import { cpuDevice } from "../support/device.js";
import { goldenPath } from "../support/golden.js";
import { seededRandom } from "../support/random.js";

function record(build: (g: Recorder) => void): readonly Op[] {
  const g = new Recorder();
  build(g);
  return g.ops;
}

/** A Value in a Buffer, as far as the planner looks at it. */
function external(shape: readonly number[]): Value {
  const bytes = shape.reduce((a, b) => a * b) * 4;
  return new Value(new Storage(bytes, {} as Buffer), "f32", shape, contiguousStride(shape), 0);
}

/** A Value of the arena, written from outside. */
function source(g: Recorder, shape: readonly number[]): Value {
  const value = g.empty(shape);
  g.copy(external(shape), value);
  return value;
}

/** An op that never works in place. x [T, D] → [T, D]. */
function attend(g: Recorder, x: Value): Value {
  const [tokens, width] = x.shape;
  const q = x.split(0, [1, tokens]).split(-1, [1, width]);
  return g.attention(q, q, q, { scale: 1 }).reshape(x.shape);
}

describe("place", () => {
  it("needs two places for a chain in which no op works in place", () => {
    const ops = record((g) => {
      let x = source(g, [4, 64]);
      for (let i = 0; i < 10; i++) x = attend(g, x);
    });
    expect(place(ops).arenaBytes).toBe(2 * 4 * 64 * 4);
  });

  it("needs one place for a chain of ops that may work in place", () => {
    const ops = record((g) => {
      let x = source(g, [4, 64]);
      for (let i = 0; i < 10; i++) x = g.activation(x, "silu");
    });
    expect(place(ops).arenaBytes).toBe(4 * 64 * 4);
  });

  it("keeps a residual for as long as it is read", () => {
    const ops = record((g) => {
      const residual = source(g, [4, 64]);
      const branch = g.activation(g.activation(residual, "silu"), "gelu");
      g.add(branch, residual);
    });
    // silu must not take the residual's memory; gelu and add may take silu's.
    expect(place(ops).arenaBytes).toBe(2 * 4 * 64 * 4);
  });

  it("writes in place only what nothing else of the op reads", () => {
    const ops = record((g) => {
      const x = source(g, [4, 64]);
      g.multiply(x, x);
    });
    expect(place(ops).arenaBytes).toBe(2 * 4 * 64 * 4);
  });

  it("writes in place only into a value of exactly the same extent", () => {
    const ops = record((g) => {
      const x = source(g, [4, 64]);
      g.activation(x.slice(0, 0, 2), "silu");
    });
    expect(place(ops).arenaBytes).toBe((4 + 2) * 64 * 4);
  });

  it("never moves a value that was written before onto the residual that it is now written over", () => {
    const ops = record((g) => {
      const residual = source(g, [4, 64]);
      const older = source(g, [4, 64]);
      g.copy(older, external([4, 64]));
      g.copy(residual, older);
      g.copy(older, external([4, 64]));
    });
    // As linear does with `into` and a residual: the third op may work in place.
    const marked = ops.map((op, at) => (at === 3 ? { ...op, inPlace: [["y", "x"] as const] } : op));
    simulate(marked, place(marked), true);
  });

  it("holds a value for a condition that reads it later", () => {
    const ops = record((g) => {
      const flag = g.greater(source(g, [1]), source(g, [1]));
      const kept = source(g, [4, 64]);
      const out = source(g, [4, 64]);
      attend(g, attend(g, source(g, [4, 64])));
      g.if(flag, () => g.copy(kept, out));
      attend(g, out);
    });
    const offsets = [...place(ops).offsets.values()];
    // kept and out live at once with the two ends of each attention: four places.
    expect(place(ops).arenaBytes).toBeGreaterThanOrEqual(4 * 4 * 64 * 4);
    expect(offsets.every((offset) => offset % 256 === 0)).toBe(true);
  });

  it("starts every value on a boundary of 256 bytes", () => {
    const ops = record((g) => {
      const values = [3, 1, 7, 65, 2].map((length) => source(g, [length]));
      for (const value of values) g.copy(value, external(value.shape));
    });
    for (const offset of place(ops).offsets.values()) expect(offset % 256).toBe(0);
  });

  it("refuses ops that read what nothing wrote", () => {
    const unwritten = new Recorder().empty([4]);
    const op: Op = {
      kind: "activation",
      inputs: { x: unwritten },
      outputs: {},
      attributes: {},
      inPlace: [],
      flops: 0,
    };
    expect(() => place([op])).toThrow(/before anything wrote it/);
  });

  it("packs the values of the VAE and of T5 into little more than the largest sum that lives at once", async () => {
    const device = cpuDevice();
    const vae = new AutoencoderKL(device, await readAutoencoderKLConfig(goldenPath("tiny-flux/vae")));
    await vae.load(await WeightSource.open(goldenPath("tiny-flux/vae")));
    const t5 = new T5Encoder(device, await readT5Config(goldenPath("tiny-flux/text_encoder_2")));
    await t5.load(await WeightSource.open(goldenPath("tiny-flux/text_encoder_2")));
    const recordings = [
      record((g) => void vae.decode(g, source(g, [1, 32, 32, 16]))),
      record((g) => void vae.encode(g, source(g, [1, 128, 128, 3]))),
      record((g) => void t5.forward(g, device.buffer("i32", [2, 128]))),
    ];
    for (const ops of recordings) {
      const { arenaBytes, liveBytes } = place(ops);
      const live = sumOfLiveValues(ops);
      expect(liveBytes).toBeLessThanOrEqual(live);
      expect(arenaBytes).toBeGreaterThanOrEqual(liveBytes);
      expect(arenaBytes).toBeLessThanOrEqual(1.01 * live);
    }
  });

  it("never lets an op meet another value's memory, on 300 random recordings", () => {
    let inPlace = 0;
    for (let seed = 1; seed <= 300; seed++) {
      const next = seededRandom(seed);
      const ops = record((g) => randomRecording(g, next));
      const placement = place(ops);
      for (const taken of [true, false]) simulate(ops, placement, taken);
      const live = sumOfLiveValues(ops);
      const unshared = [...storagesOf(ops)].reduce((sum, storage) => sum + aligned(storage.bytes), 0);
      expect(placement.liveBytes, `seed ${seed}`).toBeLessThanOrEqual(live);
      expect(placement.arenaBytes, `seed ${seed}`).toBeGreaterThanOrEqual(placement.liveBytes);
      expect(placement.arenaBytes, `seed ${seed}`).toBeLessThanOrEqual(unshared);
      if (placement.liveBytes < live) inPlace += 1;
    }
    expect(inPlace).toBeGreaterThan(30);
  });
});

const WIDTH = 16;

/** Some ops in a random order, in-place ones and others, writes through views and into older values, and conditions. */
function randomRecording(g: Recorder, next: () => number): void {
  const below = (limit: number) => Math.floor(next() * limit);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)];
  const values = [source(g, [1 + below(8), WIDTH])];
  const flag = g.greater(source(g, [1]), source(g, [1]));

  const step = (visible: Value[], depth: number): void => {
    const x = pick(visible);
    const alike = visible.filter((value) => value.shape[0] === x.shape[0]);
    switch (below(9)) {
      case 0:
        visible.push(source(g, [1 + below(8), WIDTH]));
        break;
      case 1:
      case 2:
        visible.push(g.activation(x, "silu"));
        break;
      case 3:
        visible.push(g.add(x, pick(alike)));
        break;
      case 4:
        visible.push(attend(g, x));
        break;
      case 5: {
        const joint = g.empty([2 * x.shape[0], WIDTH]);
        g.copy(x, joint.slice(0, 0, x.shape[0]));
        g.copy(pick(alike), joint.slice(0, x.shape[0], x.shape[0]));
        visible.push(joint, joint.slice(0, 0, x.shape[0]));
        break;
      }
      case 6: {
        const target = pick(alike);
        if (target.storage !== x.storage) g.copy(x, target);
        break;
      }
      case 7:
        g.together([x, pick(visible)], (part) => visible.push(g.activation(part, "silu")));
        break;
      default: {
        if (depth > 1) return;
        const inside = [...visible];
        const count = 1 + below(4);
        g.if(flag, () => {
          for (let i = 0; i < count; i++) step(inside, depth + 1);
        });
      }
    }
  };
  const count = 5 + below(25);
  for (let i = 0; i < count; i++) step(values, 0);
  const last = pick(values);
  g.copy(last, external(last.shape));
}

/** Runs the ops on tags instead of numbers: in the planned arena, and with a memory of its own for every storage. */
function simulate(ops: readonly Op[], placement: Placement, taken: boolean): void {
  const arena = new Float64Array(placement.arenaBytes / 4).fill(-1);
  const own = new Map<Storage, Float64Array>();
  let tag = 0;
  for (const storage of storagesOf(ops)) own.set(storage, new Float64Array(storage.bytes / 4).fill(-2));
  const cell = (value: Value, at: number) => placement.offsets.get(value.storage)! / 4 + at;

  const runOp = (op: Op): void => {
    const inputs = Object.entries(op.inputs).filter(([, value]) => own.has(value.storage));
    const outputs = Object.entries(op.outputs).filter(([, value]) => own.has(value.storage));
    for (const [name, value] of inputs) {
      for (const at of elementsAt(value)) {
        if (arena[cell(value, at)] !== own.get(value.storage)![at]) {
          throw new Error(`${op.kind}: input ${name} was overwritten before it was read`);
        }
      }
    }
    for (const [outputName, output] of outputs) {
      const cells = new Set(elementsAt(output).map((at) => cell(output, at)));
      for (const [inputName, input] of inputs) {
        const allowed = op.inPlace.some(([y, x]) => y === outputName && x === inputName);
        const same = cell(output, output.offset) === cell(input, input.offset);
        if (input.storage === output.storage || (allowed && same)) continue;
        if (elementsAt(input).some((at) => cells.has(cell(input, at)))) {
          throw new Error(`${op.kind}: output ${outputName} lies over input ${inputName}`);
        }
      }
    }
    for (const [, value] of outputs) {
      for (const at of elementsAt(value)) {
        tag += 1;
        arena[cell(value, at)] = tag;
        own.get(value.storage)![at] = tag;
      }
    }
    if (taken && op.kind === "if") for (const inner of op.body ?? []) runOp(inner);
  };
  for (const op of ops) runOp(op);
}

/** Positions of a value's elements in its storage. */
function elementsAt(value: Value): number[] {
  let positions = [value.offset];
  value.shape.forEach((length, axis) => {
    positions = positions.flatMap((base) =>
      Array.from({ length }, (_, index) => base + index * value.stride[axis]),
    );
  });
  return positions;
}

function storagesOf(ops: readonly Op[]): Set<Storage> {
  const storages = new Set<Storage>();
  for (const op of flatten(ops)) {
    for (const { storage } of [...Object.values(op.inputs), ...Object.values(op.outputs)]) {
      if (storage.buffer === undefined) storages.add(storage);
    }
  }
  return storages;
}

/** The largest sum of values that live at one op, when every value has a memory of its own. */
function sumOfLiveValues(ops: readonly Op[]): number {
  const flat = [...flatten(ops)].map((op) => storagesOf([{ ...op, body: [] }]));
  let largest = 0;
  for (let at = 0; at < flat.length; at++) {
    const before = new Set(flat.slice(0, at + 1).flatMap((storages) => [...storages]));
    const after = new Set(flat.slice(at).flatMap((storages) => [...storages]));
    let live = 0;
    for (const storage of before) if (after.has(storage)) live += storage.bytes;
    largest = Math.max(largest, live);
  }
  return largest;
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / 256) * 256;
}
