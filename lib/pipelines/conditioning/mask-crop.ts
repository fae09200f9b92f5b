// Inpainting at full resolution: only the surroundings of the mask are drawn, and then pasted into the picture. As diffusers'
// padding_mask_crop does it (VaeImageProcessor.get_crop_region, resize modes "fill" and "crop", apply_overlay).

import { FluxImage } from "../image.js";
import type { PixelSize } from "./kontext.js";
import type { Picture } from "./picture.js";
import { BICUBIC, type Box, LANCZOS, resize } from "./resample.js";

/**
 * The box around everything of the mask that is not black, `padding` pixels larger on all sides, and widened towards the proportions
 * of `target` as far as the picture goes. Undefined when the mask is black.
 */
export function cropRegion(mask: Picture, target: PixelSize, padding: number): Box | undefined {
  const found = boundsOf(mask);
  if (found === undefined) return undefined;
  const left = Math.max(found.left - padding, 0);
  const top = Math.max(found.top - padding, 0);
  const right = Math.min(found.right + padding, mask.width);
  const bottom = Math.min(found.bottom + padding, mask.height);
  const ratio = target.width / target.height;
  if ((right - left) / (bottom - top) > ratio) {
    const [from, to] = widen(top, bottom, (right - left) / ratio, mask.height);
    return { left, top: from, right, bottom: to };
  }
  const [from, to] = widen(left, right, (bottom - top) * ratio, mask.width);
  return { left: from, top, right: to, bottom };
}

/** [from, to) grown to `length` on both sides, moved and cut so that it stays within [0, limit). */
function widen(from: number, to: number, length: number, limit: number): [number, number] {
  const missing = Math.trunc(length - (to - from));
  let first = from - Math.floor(missing / 2);
  let last = to + missing - Math.floor(missing / 2);
  if (last >= limit) {
    first -= last - limit;
    last = limit;
  }
  if (first < 0) {
    last -= first;
    first = 0;
  }
  return [first, Math.min(last, limit)];
}

function boundsOf({ data, width, height }: Picture): Box | undefined {
  const box = { left: width, top: height, right: 0, bottom: 0 };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x] === 0) continue;
      box.left = Math.min(box.left, x);
      box.right = Math.max(box.right, x + 1);
      box.top = Math.min(box.top, y);
      box.bottom = y + 1;
    }
  }
  return box.right === 0 ? undefined : box;
}

export function crop({ data, width, channels }: Picture, { left, top, right, bottom }: Box): Picture {
  const row = (right - left) * channels;
  const out = new Uint8Array(row * (bottom - top));
  for (let y = top; y < bottom; y++) {
    const from = (y * width + left) * channels;
    out.set(data.subarray(from, from + row), (y - top) * row);
  }
  return { data: out, width: right - left, height: bottom - top, channels };
}

/** The picture fitted into the size with its proportions kept; what stays free repeats its edges. */
export async function resizeAndFill(picture: Picture, { width, height }: PixelSize): Promise<Picture> {
  const ratio = width / height;
  const own = picture.width / picture.height;
  const fitWidth = ratio < own ? width : Math.floor((picture.width * height) / picture.height);
  const fitHeight = ratio >= own ? height : Math.floor((picture.height * width) / picture.width);
  const fitted = await resize(picture, Math.max(1, fitWidth), Math.max(1, fitHeight));
  const result = blank(width, height, picture.channels);
  const left = Math.floor(width / 2) - Math.floor(fitted.width / 2);
  const top = Math.floor(height / 2) - Math.floor(fitted.height / 2);
  paste(fitted, result, left, top);
  const edge = (w: number, h: number, box: Box) => resize(fitted, w, h, BICUBIC, box);
  if (ratio < own && top > 0) {
    const whole = { left: 0, right: width };
    paste(await edge(width, top, { ...whole, top: 0, bottom: 0 }), result, 0, 0);
    const end = fitted.height;
    paste(await edge(width, top, { ...whole, top: end, bottom: end }), result, 0, top + end);
  } else if (ratio > own && left > 0) {
    const whole = { top: 0, bottom: height };
    paste(await edge(left, height, { ...whole, left: 0, right: 0 }), result, 0, 0);
    const end = fitted.width;
    paste(await edge(left, height, { ...whole, left: end, right: end }), result, left + end, 0);
  }
  return result;
}

/** The picture filling the size with its proportions kept; what stands out is cut off. */
async function resizeAndCrop(picture: Picture, { width, height }: PixelSize): Promise<Picture> {
  const ratio = width / height;
  const own = picture.width / picture.height;
  const coverWidth = ratio > own ? width : Math.floor((picture.width * height) / picture.height);
  const coverHeight = ratio <= own ? height : Math.floor((picture.height * width) / picture.width);
  const covering = await resize(picture, coverWidth, coverHeight, LANCZOS);
  const result = blank(width, height, picture.channels);
  const left = Math.floor(width / 2) - Math.floor(coverWidth / 2);
  const top = Math.floor(height / 2) - Math.floor(coverHeight / 2);
  paste(covering, result, left, top);
  return result;
}

/** The drawn box put back into its picture: new where the mask is white, mixed where it is grey, untouched where it is black. */
export async function pasteBack(
  drawn: FluxImage,
  picture: Picture,
  mask: Picture,
  box: Box,
): Promise<FluxImage> {
  const size = { width: box.right - box.left, height: box.bottom - box.top };
  const { data } = await resizeAndCrop({ ...drawn, channels: 3 }, size);
  const out = Uint8Array.from(picture.data);
  for (let y = 0; y < size.height; y++) {
    for (let x = 0; x < size.width; x++) {
      const pixel = (box.top + y) * picture.width + box.left + x;
      const alpha = mask.data[pixel];
      if (alpha === 0) continue;
      for (let c = 0; c < 3; c++) {
        const fresh = data[(y * size.width + x) * 3 + c];
        out[3 * pixel + c] = alpha === 255 ? fresh : composite(out[3 * pixel + c], 255 - alpha, fresh);
      }
    }
  }
  return new FluxImage(picture.width, picture.height, out);
}

/** A level of `alpha` (1 to 254) over an opaque one, with the roundings of Pillow's premultiplied paste and alpha_composite. */
function composite(over: number, alpha: number, under: number): number {
  const premultiplied = over * alpha + 128;
  const straight = Math.trunc((255 * ((premultiplied + (premultiplied >> 8)) >> 8)) / alpha);
  const sum = (straight * alpha + under * (255 - alpha)) * 128 + 0x4000;
  return ((sum >> 8) + sum) >> 15;
}

function blank(width: number, height: number, channels: 1 | 3): Picture {
  return { data: new Uint8Array(width * height * channels), width, height, channels };
}

/** Copies `source` into `target` at a place; what lies outside is left out. */
function paste(source: Picture, target: Picture, left: number, top: number): void {
  const { channels } = target;
  const from = Math.max(0, -left);
  const to = Math.min(source.width, target.width - left);
  for (let y = Math.max(0, -top); y < Math.min(source.height, target.height - top); y++) {
    const row = source.data.subarray(
      (y * source.width + from) * channels,
      (y * source.width + to) * channels,
    );
    target.data.set(row, ((top + y) * target.width + left + from) * channels);
  }
}
