import { randomUUID } from "node:crypto";
import { rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { checkOptions, type OptionNames, shown } from "../arguments.js";
import { badArgument, FluxError } from "../errors.js";

/** File formats that an image can be encoded in. */
export type ImageFormat = "png" | "jpeg" | "webp" | "avif";

export interface EncodeOptions {
  /** 1 to 100, for the lossy formats (jpeg, webp, avif). Default: 90. */
  readonly quality?: number;
}

const ENCODE_NAMES: OptionNames<EncodeOptions> = { quality: true };

const FORMAT_OF_EXTENSION: Readonly<Record<string, ImageFormat>> = {
  ".png": "png",
  ".jpg": "jpeg",
  ".jpeg": "jpeg",
  ".webp": "webp",
  ".avif": "avif",
};
const FORMATS = ["png", "jpeg", "webp", "avif"];

/**
 * The format that a path's extension asks for.
 *
 * @throws FluxError ERR_FLUX_BAD_ARGUMENT for an extension of no format that can be written.
 */
export function imageFormatOf(path: string): ImageFormat {
  if (typeof path !== "string")
    throw badArgument(`An image is saved to the path of a file, not ${shown(path)}.`);
  const extension = extname(path).toLowerCase();
  const format = Object.hasOwn(FORMAT_OF_EXTENSION, extension) ? FORMAT_OF_EXTENSION[extension] : undefined;
  if (format === undefined) {
    const found = extension === "" ? "has no extension" : `has the extension ${extension}`;
    throw badArgument(`${path} ${found}. Use one of ${Object.keys(FORMAT_OF_EXTENSION).join(", ")}.`);
  }
  return format;
}

/** An 8-bit RGB image in memory. */
export class FluxImage {
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** Row-major RGB: height · width · 3 bytes. */
  readonly data: Uint8Array;

  /** @throws FluxError ERR_FLUX_BAD_ARGUMENT when `data` is not width · height · 3 bytes of a non-empty image. */
  constructor(width: number, height: number, data: Uint8Array) {
    const isSize = (side: number) => Number.isSafeInteger(side) && side >= 1;
    if (!isSize(width) || !isSize(height)) {
      throw badArgument(`An image has whole sides of at least 1 pixel, but this one is ${width}×${height}.`);
    }
    if (!(data instanceof Uint8Array) || data.length !== width * height * 3) {
      const found = data instanceof Uint8Array ? `${data.length} bytes` : typeof data;
      throw badArgument(
        `An RGB image of ${width}×${height} is a Uint8Array of ${width * height * 3} bytes, not ${found}.`,
      );
    }
    this.width = width;
    this.height = height;
    this.data = data;
  }

  /**
   * Encodes the image.
   *
   * @throws FluxError ERR_FLUX_BAD_ARGUMENT for an unknown format or quality, ERR_FLUX_UNSUPPORTED when it cannot be encoded.
   */
  async toBuffer(format: ImageFormat = "png", options: EncodeOptions = {}): Promise<Buffer> {
    if (!FORMATS.includes(format)) {
      throw badArgument(`${JSON.stringify(format)} is no image format. Use one of ${FORMATS.join(", ")}.`);
    }
    checkOptions("an image's encoding", options, ENCODE_NAMES);
    const { quality = 90 } = options;
    if (!Number.isInteger(quality) || quality < 1 || quality > 100) {
      throw badArgument(`quality must be a whole number from 1 to 100, but it is ${shown(quality)}.`);
    }
    try {
      // Loaded on first use: a process that wants raw pixels only does without it.
      const { default: sharp } = await import("sharp");
      const raw = { width: this.width, height: this.height, channels: 3 } as const;
      const pixels = Buffer.from(this.data.buffer, this.data.byteOffset, this.data.length);
      const image = sharp(pixels, { raw });
      return await (format === "png" ? image.png() : image[format]({ quality })).toBuffer();
    } catch (cause) {
      throw new FluxError(
        "ERR_FLUX_UNSUPPORTED",
        `An image of ${this.width}×${this.height} cannot be encoded as ${format}: ${(cause as Error).message}. ` +
          'Try "png", or reinstall the package "sharp".',
        { cause },
      );
    }
  }

  /**
   * Writes the image to a file in the format of its extension: .png, .jpg, .jpeg, .webp or .avif. The file appears whole or
   * not at all, and an existing one is replaced only by a whole one.
   *
   * @throws FluxError ERR_FLUX_BAD_ARGUMENT for another extension, ERR_FLUX_IO when the file cannot be written.
   */
  async save(path: string, options: EncodeOptions = {}): Promise<void> {
    const encoded = await this.toBuffer(imageFormatOf(path), options);
    // In the same folder, so that the rename stays within one file system.
    const unfinished = join(dirname(path), `.${basename(path).slice(0, 100)}.${randomUUID()}.tmp`);
    try {
      await writeFile(unfinished, encoded, { flag: "wx", flush: true });
      await rename(unfinished, path);
    } catch (cause) {
      await rm(unfinished, { force: true }).catch(() => undefined);
      throw writeError(path, cause);
    }
  }
}

function writeError(path: string, cause: unknown): FluxError {
  const { code, message } = cause as NodeJS.ErrnoException;
  const reasons: Record<string, string> = {
    ENOSPC: "the disk is full. Free some space, or save elsewhere.",
    EDQUOT: "the disk quota is used up. Free some space, or save elsewhere.",
    EACCES: "this user may not write there. Change the permissions, or save elsewhere.",
    EPERM: "this user may not write there. Change the permissions, or save elsewhere.",
    EFBIG: "it is larger than a file may be here. Raise the limit (ulimit -f), or save elsewhere.",
    EROFS: "the file system is read-only. Save elsewhere.",
    ENOENT: `the folder ${dirname(path)} is not there. Create it first.`,
    ENOTDIR: `${dirname(path)} is not a folder. Save elsewhere.`,
    EISDIR: "a folder of this name is there. Give the name of a file.",
    ENAMETOOLONG: "the name is too long. Use a shorter one.",
  };
  const reason = reasons[code ?? ""] ?? `${message}. Check the disk, or save elsewhere.`;
  return new FluxError("ERR_FLUX_IO", `${path} cannot be written: ${reason}`, { cause });
}
