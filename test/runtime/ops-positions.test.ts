// Rotary tables and latent packing against golden/cases/packing.safetensors.
import { describe, expect, it } from "vitest";
import { bufferFrom, bufferOf, compute, cpuDevice } from "../support/device.js";
import { golden, maxAbsDifference } from "../support/golden.js";
import { toChannelsLast } from "../support/layout.js";

const cases = golden("cases/packing.safetensors");
const AXES = [16, 56, 56] as const;
const THETA = 10000;

/** The definition in f64: id·θ^(−2i/axis), axis after axis, as [tokens, 64, 2] of cos and sin. */
function exactTable(ids: Float32Array): Float64Array {
  const tokens = ids.length / 3;
  const table: number[] = [];
  for (let token = 0; token < tokens; token++) {
    AXES.forEach((width, axis) => {
      for (let i = 0; i < width / 2; i++) {
        const angle = ids[token * 3 + axis] / THETA ** ((2 * i) / width);
        table.push(Math.cos(angle), Math.sin(angle));
      }
    });
  }
  return Float64Array.from(table);
}

const KONTEXT_IDS = (() => {
  const image = cases.f32("kontext.img_ids");
  const ids = new Float32Array(16 * 3 + image.length);
  ids.set(image, 16 * 3);
  return ids;
})();

describe("ropeTable", () => {
  it.each([
    ["kontext", KONTEXT_IDS],
    ["big", cases.f32("big.ids")],
  ])("is the golden table within 2e-5, and exact to f32: %s", async (name, ids) => {
    const device = cpuDevice();
    const tokens = ids.length / 3;
    const buffer = bufferOf(device, "f32", [tokens, 3], ids);
    const { table } = await compute(device, (g) => ({ table: g.ropeTable(buffer, AXES, THETA) }));
    const cos = cases.f32(`${name}.rope_cos`);
    const sin = cases.f32(`${name}.rope_sin`);
    const pairs = cos.map((_, at) => (at % 2 === 0 ? cos[at] : sin[at]));
    expect(maxAbsDifference(table, pairs)).toBeLessThan(2e-5);
    // Half a unit in the last place of values up to 1.
    expect(maxAbsDifference(table, exactTable(ids))).toBeLessThan(6e-8);
  });
});

describe("packLatents", () => {
  it.each(["128x128", "96x160"])("packs exactly as diffusers does: %s", async (size) => {
    const device = cpuDevice();
    const latents = cases.tensor(`${size}.latents`);
    const first = bufferFrom(device, latents);
    const last = bufferFrom(device, toChannelsLast(latents));
    const { fromFirst, fromLast } = await compute(device, (g) => ({
      fromFirst: g.packLatents(first, { channelsFirst: true }),
      fromLast: g.packLatents(last),
    }));
    const expected = cases.f32(`${size}.packed`);
    expect(maxAbsDifference(fromFirst, expected)).toBe(0);
    expect(maxAbsDifference(fromLast, expected)).toBe(0);
  });

  it.each(["128x128", "96x160"])("is undone by unpackLatents: %s", async (size) => {
    const device = cpuDevice();
    const [width, height] = [cases.shape(`${size}.latents`)[3], cases.shape(`${size}.latents`)[2]];
    const packed = bufferFrom(device, cases.tensor(`${size}.packed`));
    const { latents } = await compute(device, (g) => ({
      latents: g.unpackLatents(packed, height, width, { scale: 1, shift: 0 }),
    }));
    expect(maxAbsDifference(latents, toChannelsLast(cases.tensor(`${size}.latents`)).data)).toBe(0);
  });

  it("scales and shifts between latents and the VAE's z", async () => {
    const device = cpuDevice();
    const { scale, shift } = { scale: 0.3611, shift: 0.1159 };
    const z = bufferFrom(device, toChannelsLast(cases.tensor("96x160.latents")));
    const { packed, back } = await compute(device, (g) => {
      const packed = g.packLatents(z, { scale, shift });
      return { packed, back: g.unpackLatents(packed, 12, 20, { scale, shift }) };
    });
    const expected = cases.f32("96x160.packed").map((value) => (value - shift) * scale);
    expect(maxAbsDifference(packed, expected)).toBeLessThan(1e-6);
    expect(maxAbsDifference(back, toChannelsLast(cases.tensor("96x160.latents")).data)).toBeLessThan(1e-6);
  });
});
