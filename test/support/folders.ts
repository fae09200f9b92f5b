// Whole pipeline folders for tests, put together from the golden data.

import { existsSync, mkdtempSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { goldenPath, sharedPath } from "./golden.js";

const PARTS = [
  "model_index.json",
  "scheduler",
  "text_encoder",
  "text_encoder_2",
  "tokenizer",
  "tokenizer_2",
  "transformer",
  "vae",
];

/** The schnell-like pipeline: its own transformer and scheduler, all other parts from tiny-flux. A folder of links. */
export function schnellFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "fluxwarp-schnell-"));
  for (const part of PARTS) {
    const own = goldenPath(`tiny-flux-schnell/${part}`);
    symlinkSync(existsSync(own) ? own : goldenPath(`tiny-flux/${part}`), join(folder, part));
  }
  return folder;
}

/** The dev-like pipeline, which only ../shared has. */
export function devFolder(): string {
  return sharedPath("golden/tiny-flux");
}
