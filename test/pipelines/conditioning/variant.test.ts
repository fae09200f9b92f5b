import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { FluxPipeline } from "../../../lib/index.js";
import { conditionChannels, type Variant, variantOf } from "../../../lib/pipelines/conditioning/variant.js";
import { asBf16, bflTransformer, readFolder, writeTensors } from "../../support/single-files.js";
import { TINY, wideCheckpoint } from "../../support/wide-checkpoint.js";

const signs = (inChannels: number, guidanceEmbeds = true, name?: string) => ({
  inChannels,
  outChannels: 64,
  guidanceEmbeds,
  name,
});

describe("a checkpoint is recognised", () => {
  it.each<[Variant, ReturnType<typeof signs>]>([
    ["dev", signs(64, true, "FluxPipeline")],
    ["dev", signs(64, true, "FluxInpaintPipeline")],
    ["dev", signs(64, true, "flux1-dev.safetensors")],
    ["schnell", signs(64, false, "FluxPipeline")],
    ["schnell", signs(64, false)],
    ["kontext", signs(64, true, "FluxKontextPipeline")],
    ["kontext", signs(64, true, "flux1-kontext-dev.safetensors")],
    ["fill", signs(384, true, "FluxFillPipeline")],
    ["fill", signs(384)],
    ["control", signs(128, true, "FluxControlPipeline")],
    ["control", signs(128, true, "flux1-depth-dev.safetensors")],
  ])("as %s by %j", (variant, found) => {
    expect(variantOf(found)).toBe(variant);
  });

  it("by its caller, where its weights allow it", () => {
    expect(variantOf(signs(64, true, "FluxPipeline"), "kontext")).toBe("kontext");
    expect(variantOf(signs(64, true, "FluxKontextPipeline"), "dev")).toBe("dev");
    expect(variantOf(signs(384), "fill")).toBe("fill");
  });
});

describe("what cannot be is refused", () => {
  it.each<[string, Variant, RegExp]>([
    ["fill", "fill", /"fill" is asked for, but the weights are those of FLUX\.1-dev;.*load FLUX\.1-Fill-dev/],
    ["schnell", "schnell", /"schnell" is asked for/],
    ["canny", "canny" as Variant, /variant is one of dev, schnell, kontext, fill, control, not "canny"/],
  ])("%s for dev's weights", (_, asked, says) => {
    expect(() => variantOf(signs(64), asked)).toThrow(
      expect.objectContaining({ code: "ERR_FLUX_BAD_ARGUMENT", message: expect.stringMatching(says) }),
    );
  });

  it("an x_embedder of another width", () => {
    expect(() => variantOf(signs(96))).toThrow(
      expect.objectContaining({
        code: "ERR_FLUX_UNSUPPORTED",
        message: expect.stringMatching(/takes 96 channels.*64.*128 \(Canny, Depth\) and 384 \(Fill\)/),
      }),
    );
  });
});

it("a token brings in what the published x_embedders are wider by", () => {
  // 64, 128 and 384 of FLUX.1-dev, -Canny-dev and -Fill-dev.
  const widths = (["dev", "schnell", "kontext", "control", "fill"] as const).map(
    (variant) => 64 + conditionChannels(variant, 64),
  );
  expect(widths).toEqual([64, 64, 64, 128, 384]);
});

describe("a single file says by its tensors what it is", () => {
  const folder = mkdtempSync(join(tmpdir(), "fluxwarp-variant-"));
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each<[Variant, number, string]>([
    ["fill", 384, "model.safetensors"],
    ["control", 128, "flux1-canny-dev.safetensors"],
    ["kontext", 64, "flux1-kontext-dev.safetensors"],
    ["dev", 64, "flux1-dev.safetensors"],
  ])("%s", async (variant, channels, name) => {
    const source = channels === 64 ? TINY : wideCheckpoint(channels);
    const file = join(folder, name);
    const tensors = bflTransformer(readFolder(join(source, "transformer")));
    writeTensors(file, new Map([...tensors].map(([key, stored]) => [key, asBf16(stored)])));
    using pipe = await FluxPipeline.fromSingleFile(file, { device: "cpu", config: source });
    expect(pipe.variant).toBe(variant);
    if (channels !== 64) rmSync(source, { recursive: true });
  });
});
