// Golden data for the GPU tests, and whole checkpoint folders put together from it.

import { existsSync, mkdtempSync, readFileSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { openSafetensors, readTensor, type SafetensorsFile } from "../../dist/loaders/safetensors.js";

/** test/golden, or a folder with all of the golden data. */
const GOLDEN = [process.env.FLUX_GOLDEN ?? "", "../shared/golden", "test/golden"].find((path) =>
  existsSync(join(path, "cases")),
)!;

/** What cases.json says of a whole image. */
interface Params {
  height?: number;
  width?: number;
  steps?: number;
  guidance_scale?: number;
  true_cfg_scale?: number;
  num_images_per_prompt?: number;
  max_sequence_length?: number;
  prompt?: string;
  prompts?: string[];
  prompt_2?: string;
  negative_prompt?: string;
}

interface GoldenCase {
  readonly params?: Params;
  readonly tensors: Readonly<Record<string, { tolerance?: { bf16_impl: number } }>>;
}
const index = JSON.parse(readFileSync(join(GOLDEN, "cases/cases.json"), "utf8")) as {
  files: Readonly<Record<string, GoldenCase>>;
};

/** The same file in the whole golden data, else in test/golden. */
export function goldenPath(relative: string): string {
  const path = join(GOLDEN, relative);
  return existsSync(path) ? path : join("test/golden", relative);
}

/** For node:test's `skip`: false where all files are there. */
export function needs(...files: string[]): false | string {
  return files.every((file) => existsSync(goldenPath(file))) ? false : "needs the golden data of ../shared";
}

/** One file of cases with what cases.json says of it. */
export class Golden {
  readonly params: Params;
  readonly #file: SafetensorsFile;

  private constructor(
    file: SafetensorsFile,
    readonly about: GoldenCase,
  ) {
    this.#file = file;
    this.params = about.params ?? {};
  }

  static async open(name: string): Promise<Golden> {
    const relative = `cases/${name}.safetensors`;
    return new Golden(await openSafetensors(goldenPath(relative)), index.files[relative]!);
  }

  has(name: string): boolean {
    return this.#file.tensors.has(name);
  }

  async tensor(name: string) {
    return readTensor(this.#file, name);
  }

  async f32(name: string): Promise<{ shape: readonly number[]; data: Float32Array }> {
    const { shape, data } = await this.tensor(name);
    return { shape, data: data as Float32Array };
  }

  /** What a bf16 implementation may differ by. */
  allowed(name: string): number {
    return this.about.tensors[name]!.tolerance!.bf16_impl;
  }
}

/** A folder of links: tiny-flux, or with schnell's transformer and scheduler. */
export function pipelineFolder(kind: "dev" | "schnell"): string {
  const folder = mkdtempSync(join(tmpdir(), "fluxwarp-gpu-"));
  const parts = [
    "model_index.json",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
  ];
  for (const part of [...parts, "transformer", "vae"]) {
    const own = goldenPath(`tiny-flux-${kind}/${part}`);
    symlinkSync(resolve(existsSync(own) ? own : goldenPath(`tiny-flux/${part}`)), join(folder, part));
  }
  return folder;
}
