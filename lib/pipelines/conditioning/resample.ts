// Resampling of 8-bit pictures as Pillow does it (ImagingResample, libImaging/Resample.c): windowed filters, a pass along the rows
// and then one along the columns, weights of 22 fractional bits, the picture between the passes rounded to 8 bits. diffusers'
// VaeImageProcessor resizes with it, and other libraries' Lanczos differs by more than a level.

import { setImmediate } from "node:timers/promises";
import type { Picture } from "./picture.js";

export interface Filter {
  /** Half its width, in source pixels of a picture that is not made smaller. */
  readonly support: number;
  weight(x: number): number;
}

const sinc = (x: number) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

export const LANCZOS: Filter = {
  support: 3,
  weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0),
};

/** Keys' cubic with a = −½: what Pillow takes when nobody says otherwise. */
export const BICUBIC: Filter = {
  support: 2,
  weight: (x) => {
    const t = Math.abs(x);
    if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
    return t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
  },
};

/** The part of a picture that is resized, in pixels; it may have no extent, and then repeats the edge there. */
export interface Box {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

const PRECISION_BITS = 22;
const HALF = 2 ** (PRECISION_BITS - 1);
/** Milliseconds of work between two looks at the event loop. */
const SLICE_MS = 8;

/** The picture, or `box` of it, at another size. A picture that has the size already comes back as it is. */
export async function resize(
  picture: Picture,
  width: number,
  height: number,
  filter: Filter = LANCZOS,
  box: Box = { left: 0, top: 0, right: picture.width, bottom: picture.height },
): Promise<Picture> {
  const isWhole = (first: number, last: number, length: number) => first === 0 && last === length;
  let result = picture;
  if (width !== picture.width || !isWhole(box.left, box.right, picture.width)) {
    result = await alongRows(result, width, tapsOf(picture.width, box.left, box.right, width, filter));
  }
  if (height !== picture.height || !isWhole(box.top, box.bottom, picture.height)) {
    result = await alongColumns(result, height, tapsOf(picture.height, box.top, box.bottom, height, filter));
  }
  return result;
}

/** Which source pixels make each result pixel, and their weights times 2²². */
interface Taps {
  readonly first: Int32Array;
  readonly count: Int32Array;
  /** `most` weights for each result pixel. */
  readonly weights: Int32Array;
  readonly most: number;
}

function tapsOf(length: number, from: number, to: number, out: number, filter: Filter): Taps {
  const scale = (to - from) / out;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(out);
  const count = new Int32Array(out);
  const weights = new Int32Array(out * most);
  const exact = new Float64Array(most);
  for (let at = 0; at < out; at++) {
    const center = from + (at + 0.5) * scale;
    first[at] = Math.max(0, Math.trunc(center - support + 0.5));
    count[at] = Math.min(length, Math.trunc(center + support + 0.5)) - first[at];
    let sum = 0;
    for (let tap = 0; tap < count[at]; tap++) {
      exact[tap] = filter.weight((tap + first[at] - center + 0.5) * (1 / stretch));
      sum += exact[tap];
    }
    for (let tap = 0; tap < count[at]; tap++) {
      const weight = (sum === 0 ? exact[tap] : exact[tap] / sum) * 2 ** PRECISION_BITS;
      weights[at * most + tap] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
  }
  return { first, count, weights, most };
}

async function alongRows({ data, width, height, channels }: Picture, out: number, taps: Taps) {
  const { first, count, weights, most } = taps;
  const result = new Uint8ClampedArray(out * height * channels);
  await inSlices(height, (y) => {
    const row = y * width * channels;
    let to = y * out * channels;
    for (let x = 0; x < out; x++) {
      const begin = row + first[x] * channels;
      const end = begin + count[x] * channels;
      let tap = x * most;
      if (channels === 1) {
        let grey = HALF;
        for (let from = begin; from < end; from++) grey += data[from] * weights[tap++];
        result[to++] = grey >> PRECISION_BITS;
        continue;
      }
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      for (let from = begin; from < end; from += 3) {
        const weight = weights[tap++];
        red += data[from] * weight;
        green += data[from + 1] * weight;
        blue += data[from + 2] * weight;
      }
      result[to++] = red >> PRECISION_BITS;
      result[to++] = green >> PRECISION_BITS;
      result[to++] = blue >> PRECISION_BITS;
    }
  });
  return { data: asBytes(result), width: out, height, channels };
}

async function alongColumns({ data, width, channels }: Picture, out: number, taps: Taps) {
  const { first, count, weights, most } = taps;
  const length = width * channels;
  const result = new Uint8ClampedArray(out * length);
  const sums = new Float64Array(length);
  await inSlices(out, (y) => {
    sums.fill(HALF);
    for (let tap = 0; tap < count[y]; tap++) {
      const weight = weights[y * most + tap];
      const row = (first[y] + tap) * length;
      for (let i = 0; i < length; i++) sums[i] += data[row + i] * weight;
    }
    for (let i = 0; i < length; i++) result[y * length + i] = sums[i] >> PRECISION_BITS;
  });
  return { data: asBytes(result), width, height: out, channels };
}

const asBytes = ({ buffer, length }: Uint8ClampedArray<ArrayBuffer>) => new Uint8Array(buffer, 0, length);

/** `work` for 0, 1, …; the event loop gets its turn every few milliseconds. */
async function inSlices(count: number, work: (index: number) => void): Promise<void> {
  let since = performance.now();
  for (let index = 0; index < count; index++) {
    work(index);
    if (performance.now() - since < SLICE_MS) continue;
    await setImmediate();
    since = performance.now();
  }
}
