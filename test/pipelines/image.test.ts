import * as fs from "node:fs/promises";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { afterEach, describe, expect, it, vi } from "vitest";
import { FluxImage, type ImageFormat, imageFormatOf } from "../../lib/pipelines/image.js";
import { temporaryFolder } from "../support/fixture-folder.js";
import { golden } from "../support/golden.js";

vi.mock("node:fs/promises", async (importOriginal) => {
  const original = await importOriginal<typeof fs>();
  return { ...original, writeFile: vi.fn(original.writeFile), rename: vi.fn(original.rename) };
});
afterEach(() => vi.restoreAllMocks());

/** A photograph of 133×75 from the golden data. */
function photograph(): FluxImage {
  const { shape, data } = golden("cases/image_processing.safetensors").raw("in.u8");
  return new FluxImage(shape[1], shape[0], data as Uint8Array);
}

const decode = async (encoded: Buffer) => {
  const { data, info } = await sharp(encoded).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  return { data: new Uint8Array(data), info };
};

const errorOf = (code: string, says: RegExp) => ({ code, message: expect.stringMatching(says) });

describe("FluxImage", () => {
  it.each([
    [0, 4, new Uint8Array(0)],
    [4, -1, new Uint8Array(12)],
    [1.5, 2, new Uint8Array(9)],
    [2, 2, new Uint8Array(11)],
    [2, 2, new Uint8Array(16)],
    [2, 2, [0] as unknown as Uint8Array],
  ])("refuses %s×%s with other bytes than its pixels", (width, height, data) => {
    expect(() => new FluxImage(width, height, data)).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT" }),
    );
  });
});

describe("toBuffer", () => {
  it("encodes a PNG of the very same pixels, also from a view into a larger buffer", async () => {
    const { width, height, data } = photograph();
    const view = new Uint8Array(data.length + 7).subarray(7);
    view.set(data);
    const decoded = await decode(await new FluxImage(width, height, view).toBuffer());
    expect(decoded.info).toMatchObject({ width, height, channels: 3 });
    expect(decoded.data).toEqual(data);
  });

  it.each<[ImageFormat, RegExp]>([
    ["png", /^\x89PNG/],
    ["jpeg", /^\xff\xd8\xff/],
    ["webp", /^RIFF....WEBP/s],
    ["avif", /^....ftypavif/s],
  ])("writes the signature of %s", async (format, signature) => {
    const encoded = await photograph().toBuffer(format);
    expect(encoded.toString("latin1")).toMatch(signature);
    const { info } = await decode(encoded);
    expect(info).toMatchObject({ width: 133, height: 75 });
  });

  it("follows quality", async () => {
    const high = await photograph().toBuffer("jpeg", { quality: 95 });
    const low = await photograph().toBuffer("jpeg", { quality: 20 });
    expect(low.length).toBeLessThan(high.length);
  });

  it("refuses an unknown format and a bad quality", async () => {
    const bad = errorOf("ERR_FLUX_BAD_ARGUMENT", /gif|quality/);
    await expect(photograph().toBuffer("gif" as ImageFormat)).rejects.toMatchObject(bad);
    for (const quality of [0, 101, 50.5, Number.NaN]) {
      await expect(photograph().toBuffer("jpeg", { quality })).rejects.toMatchObject(bad);
    }
  });

  it("says so when a format cannot hold the image: WebP ends at 16383 pixels", async () => {
    const wide = new FluxImage(16384, 1, new Uint8Array(16384 * 3));
    await expect(wide.toBuffer("webp")).rejects.toMatchObject(
      errorOf("ERR_FLUX_UNSUPPORTED", /16384×1.*webp/),
    );
  });
});

describe("save", () => {
  it.each(["a.png", "a.JPG", "a.jpeg", "a.webp", "a.avif"])("writes %s and nothing else", async (name) => {
    const folder = await temporaryFolder();
    await photograph().save(join(folder, name));
    expect(await readdir(folder)).toEqual([name]);
    const { format } = await sharp(join(folder, name)).metadata();
    expect(format).toBe({ png: "png", JPG: "jpeg", jpeg: "jpeg", webp: "webp", avif: "heif" }[name.slice(2)]);
  });

  it("replaces an existing file", async () => {
    const path = join(await temporaryFolder(), "a.png");
    await writeFile(path, "old");
    await photograph().save(path);
    expect(await readFile(path)).toEqual(await photograph().toBuffer("png"));
  });

  it("refuses what is no path", async () => {
    const image = new FluxImage(1, 1, new Uint8Array(3));
    await expect(image.save(5 as unknown as string)).rejects.toMatchObject({
      code: "ERR_FLUX_BAD_ARGUMENT",
      message: "An image is saved to the path of a file, not 5.",
    });
  });

  it.each(["a.gif", "a", ".png", "a.", "a.constructor"])("refuses the extension of %s", async (name) => {
    const folder = await temporaryFolder();
    expect(() => imageFormatOf(name)).toThrow(expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT" }));
    await expect(photograph().save(join(folder, name))).rejects.toMatchObject(
      errorOf("ERR_FLUX_BAD_ARGUMENT", /\.webp/),
    );
    expect(await readdir(folder)).toEqual([]);
  });

  it.each([
    ["ENOSPC", /disk is full/],
    ["EDQUOT", /quota/],
    ["EACCES", /permissions/],
    ["EROFS", /read-only/],
    ["EIO", /Check the disk/],
  ])("leaves the old file and no part of the new one when the write fails with %s", async (code, says) => {
    const folder = await temporaryFolder();
    const path = join(folder, "a.png");
    await writeFile(path, "old");
    const { writeFile: write } = await vi.importActual<typeof fs>("node:fs/promises");
    vi.mocked(fs.writeFile).mockImplementationOnce(async (file, data, options) => {
      // Half of the bytes reach the disk, as they do when it fills up.
      await write(file, (data as Buffer).subarray(0, 100), options);
      throw Object.assign(new Error(`${code}: write`), { code });
    });
    await expect(photograph().save(path)).rejects.toMatchObject(errorOf("ERR_FLUX_IO", says));
    expect(await readdir(folder)).toEqual(["a.png"]);
    expect(await readFile(path, "utf8")).toBe("old");
  });

  it("leaves nothing when only the rename fails", async () => {
    const folder = await temporaryFolder();
    vi.mocked(fs.rename).mockRejectedValueOnce(Object.assign(new Error("EPERM: rename"), { code: "EPERM" }));
    await expect(photograph().save(join(folder, "a.png"))).rejects.toMatchObject(
      errorOf("ERR_FLUX_IO", /permissions/),
    );
    expect(await readdir(folder)).toEqual([]);
  });

  it("names a folder that is not there, is a file, or has the image's name", async () => {
    const folder = await temporaryFolder();
    await expect(photograph().save(join(folder, "absent/a.png"))).rejects.toMatchObject(
      errorOf("ERR_FLUX_IO", /absent is not there/),
    );
    await writeFile(join(folder, "file"), "");
    await expect(photograph().save(join(folder, "file/a.png"))).rejects.toMatchObject(
      errorOf("ERR_FLUX_IO", /file is not a folder/),
    );
    await mkdir(join(folder, "dir.png"));
    await expect(photograph().save(join(folder, "dir.png"))).rejects.toMatchObject(
      errorOf("ERR_FLUX_IO", /a folder/),
    );
    expect((await readdir(folder)).sort()).toEqual(["dir.png", "file"]);
  });

  it("names a file name that is too long", async () => {
    const path = join(await temporaryFolder(), `${"n".repeat(300)}.png`);
    await expect(photograph().save(path)).rejects.toMatchObject(errorOf("ERR_FLUX_IO", /too long/));
  });
});
