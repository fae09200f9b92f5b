import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { badArgument, FluxError } from "../../errors.js";
import { fileError } from "../../loaders/file-error.js";

/** Pixels in memory, row-major, 8 bits a channel. A FluxImage and a canvas' ImageData are such. */
export interface RawImage {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
  /** 1 grey, 2 grey with alpha, 3 RGB, 4 RGBA; by default what the length of `data` says. */
  readonly channels?: 1 | 2 | 3 | 4;
}

/**
 * A picture: the path of a file, a `data:` or `file:` URL, the bytes of a file (a Node Buffer, say), or raw pixels. Every format
 * that sharp decodes; of an animation the first frame.
 */
export type ImageInput = string | URL | Uint8Array | ArrayBuffer | RawImage;

/** A decoded picture: RGB, or grey for masks. */
export interface Picture {
  /** Row-major: height · width · channels bytes. */
  readonly data: Uint8Array;
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
}

/**
 * Decodes a picture to 8-bit RGB: turned as its EXIF orientation says, transparency over white, other colour spaces converted to
 * sRGB.
 *
 * @param name Of the option, for errors.
 * @throws FluxError ERR_FLUX_BAD_ARGUMENT for what is no picture or a damaged one, ERR_FLUX_IO when a file cannot be read.
 */
export function readPicture(name: string, input: ImageInput): Promise<Picture> {
  return decode(name, input, "#ffffff");
}

/** Decodes a mask to grey (ITU-R 601 luma, as Pillow's "L"); what is transparent is black, that is, kept. */
export async function readMask(name: string, input: ImageInput): Promise<Picture> {
  const { data, width, height } = await decode(name, input, "#000000");
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i++) {
    grey[i] = (19595 * data[3 * i] + 38470 * data[3 * i + 1] + 7471 * data[3 * i + 2] + 0x8000) >> 16;
  }
  return { data: grey, width, height, channels: 1 };
}

async function decode(name: string, input: ImageInput, background: string): Promise<Picture> {
  const raw = isRaw(input) ? checkRaw(name, input) : undefined;
  // What is in memory is copied now: the caller may change it at once.
  const bytes =
    raw === undefined ? await encodedBytes(name, input as Exclude<ImageInput, RawImage>) : raw.bytes;
  const sharp = await loadSharp();
  try {
    const { data, info } = await sharp(bytes, { autoOrient: true, ...(raw && { raw: raw.info }) })
      .flatten({ background })
      .toColourspace("srgb")
      .removeAlpha()
      .raw({ depth: "uchar" })
      .toBuffer({ resolveWithObject: true });
    const { width, height, channels } = info;
    return { data: channels === 3 ? data : spread(data, channels), width, height, channels: 3 };
  } catch (cause) {
    throw undecodable(name, cause as Error);
  }
}

/** Loaded on first use: a process that draws from text alone does without it. */
async function loadSharp() {
  try {
    return (await import("sharp")).default;
  } catch (cause) {
    throw new FluxError(
      "ERR_FLUX_UNSUPPORTED",
      `pictures cannot be decoded here: ${(cause as Error).message}. Reinstall the package "sharp".`,
      { cause },
    );
  }
}

function undecodable(name: string, cause: Error): FluxError {
  const reason = cause.message.trim();
  const advice = /pixel limit/.test(reason)
    ? "Make it smaller."
    : "It is damaged, incomplete or of an unknown format; save it again as PNG, JPEG or WebP.";
  return new FluxError("ERR_FLUX_BAD_ARGUMENT", `${name} cannot be decoded: ${reason}. ${advice}`, { cause });
}

async function encodedBytes(name: string, input: string | URL | Uint8Array | ArrayBuffer): Promise<Buffer> {
  if (input instanceof ArrayBuffer || input instanceof Uint8Array) {
    if (input.byteLength === 0) throw badArgument(`${name} is empty; give the bytes of a picture`);
    return Buffer.from(input instanceof ArrayBuffer ? new Uint8Array(input) : input);
  }
  if (!(input instanceof URL) && (typeof input !== "string" || input === "")) {
    throw badArgument(
      `${name} is a path, a data: URL, a Buffer with the bytes of a file, or { data, width, height } with raw pixels`,
    );
  }
  const text = String(input);
  if (/^data:/i.test(text)) return dataUrlBytes(name, text);
  if (/^https?:/i.test(text)) {
    throw badArgument(
      `${name} is a web address, and fluxwarp downloads nothing; fetch it and pass Buffer.from(await response.arrayBuffer())`,
    );
  }
  const path = /^file:/i.test(text) ? filePath(name, text) : text;
  return readFile(path).catch((cause: unknown) => {
    throw fileError(path, cause, "ERR_FLUX_BAD_ARGUMENT");
  });
}

function filePath(name: string, url: string): string {
  try {
    return fileURLToPath(url);
  } catch (cause) {
    throw new FluxError("ERR_FLUX_BAD_ARGUMENT", `${name} is no file: URL of this machine; give a path`, {
      cause,
    });
  }
}

function dataUrlBytes(name: string, url: string): Buffer {
  const [, parameters, body] = /^data:([^,]*),(.*)$/is.exec(url) ?? [];
  if (parameters === undefined || body === undefined || body === "") {
    throw badArgument(`${name} is no complete data: URL; it has the form data:image/png;base64,…`);
  }
  if (/;\s*base64\s*$/i.test(parameters)) return Buffer.from(body, "base64");
  const byte = (_: string, hex: string) => String.fromCharCode(Number.parseInt(hex, 16));
  return Buffer.from(body.replace(/%([0-9a-f]{2})/gi, byte), "latin1");
}

function isRaw(input: unknown): input is RawImage {
  return typeof input === "object" && input !== null && "width" in input && "height" in input;
}

function checkRaw(name: string, { data, width, height, channels }: RawImage) {
  const isSide = (side: number) => Number.isSafeInteger(side) && side >= 1;
  const isBytes = data instanceof Uint8Array || data instanceof Uint8ClampedArray;
  const count = channels ?? (isBytes ? data.length / (width * height) : 0);
  if (!isBytes || !isSide(width) || !isSide(height) || ![1, 2, 3, 4].includes(count)) {
    throw badArgument(
      `${name} has no raw pixels: { data, width, height } is a Uint8Array of width × height × 1 to 4 bytes`,
    );
  }
  if (data.length !== width * height * count) {
    throw badArgument(
      `${name} has ${data.length} bytes for ${width}×${height} pixels of ${count} channels; it takes ${width * height * count}`,
    );
  }
  return { bytes: Buffer.from(data), info: { width, height, channels: count as 1 | 2 | 3 | 4 } };
}

/** Grey to RGB. */
function spread(data: Uint8Array, channels: number): Uint8Array {
  const rgb = new Uint8Array((data.length / channels) * 3);
  for (let i = 0; i < rgb.length; i++) rgb[i] = data[Math.trunc(i / 3) * channels];
  return rgb;
}
