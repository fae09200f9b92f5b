// The form of all results: bench/results/NAME.json.
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { sourcesDigest } from "../scripts/sources-digest.mjs";

const folder = fileURLToPath(new URL("results", import.meta.url));

/**
 * @typedef {object} Row
 * @property {string} case what was measured, with its sizes
 * @property {number | null} ms milliseconds, where it is a time
 * @property {number} value the figure in `unit`
 * @property {string} unit
 * @property {string | null} peer what else was measured in the same run
 * @property {number | null} peerValue in the same unit
 * @property {number | null} ratio how many times better ours is; above 1 is better
 * @property {number | null} floorPercent the least possible time as a share of ours
 */

/**
 * A row of a time, without a peer.
 * @param {string} name
 * @param {number} ms
 * @returns {Row}
 */
export function timeRow(name, ms) {
  const rounded = Number(ms.toPrecision(4));
  return {
    case: name,
    ms: rounded,
    value: rounded,
    unit: "ms",
    peer: null,
    peerValue: null,
    ratio: null,
    floorPercent: null,
  };
}

/** @param {Row[]} rows */
export function formatRows(rows) {
  const width = Math.max(...rows.map((row) => row.case.length));
  return rows
    .map((row) => `${row.case.padEnd(width)}  ${String(row.value).padStart(9)} ${row.unit}`)
    .join("\n");
}

/**
 * @param {string} name
 * @param {Row[]} rows
 * @param {{ gpu?: boolean }} [where] by default on the CPU
 * @returns {Promise<string>} the file
 */
export async function writeResults(name, rows, { gpu = false } = {}) {
  const { deviceInfo } = await import("../dist/index.js");
  const { cpu, cuda } = deviceInfo();
  const model = cpus()[0]?.model.trim() ?? "unknown processor";
  const report = {
    bench: name,
    gpu: gpu ? cuda.devices[0].name : null,
    cpu: `${cpu.cores} cores of ${model}, ${cpu.simd}`,
    driver: gpu ? String(cuda.driver) : null,
    date: new Date().toISOString().slice(0, 10),
    sources: sourcesDigest(),
    rows,
  };
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `${name}.json`);
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
  return file;
}
