// The form of all results: bench/results/NAME.json.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { driverVersion } from "../scripts/driver-version.mjs";
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
 * @property {string} [call] when the call began that measured it, where a file holds the rows of several
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

/** @param {Row} row */
export function formatRow({ case: name, value, unit, peer, peerValue, ratio }) {
  const beside = peer == null ? "" : `  (${peer}: ${peerValue}, ${ratio} ×)`;
  return `${name.padEnd(64)}  ${String(value).padStart(9)} ${unit}${beside}`;
}

/**
 * What keeps a benchmark's rows as they come: the file is there, with the rows so far, whatever ends the run.
 * @param {string} name
 * @param {{ gpu?: boolean, merges?: boolean }} [where] by default on the CPU. With `merges` rows of earlier calls stay when they were
 *   measured with the same sources on the same GPU, unless this call measures the same case
 */
export async function resultsFile(name, { gpu = false, merges = false } = {}) {
  const { deviceInfo } = await import("../dist/index.js");
  const { cpu, cuda } = deviceInfo();
  const model = cpus()[0]?.model.trim() ?? "unknown processor";
  const call = new Date().toISOString();
  const about = {
    bench: name,
    gpu: gpu ? (cuda.devices[0]?.name ?? null) : null,
    cpu: `${cpu.cores} cores of ${model}, ${cpu.simd}`,
    driver: gpu ? driverVersion() : null,
    date: call.slice(0, 10),
    sources: sourcesDigest(),
  };
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `${name}.json`);
  const rows = new Map(merges ? earlierRows(file, about).map((row) => [row.case, row]) : []);
  return {
    file,
    /** @param {Row} row with `merges` takes the place of one of the same case; without, a case comes once */
    add(row) {
      if (!merges && rows.has(row.case)) throw new Error(`two rows are called "${row.case}"`);
      rows.set(row.case, merges ? { ...row, call } : row);
      writeFileSync(file, `${JSON.stringify({ ...about, rows: [...rows.values()] }, null, 2)}\n`);
    },
  };
}

/** @returns {Row[]} */
function earlierRows(file, { gpu, driver, sources }) {
  try {
    const known = JSON.parse(readFileSync(file, "utf8"));
    return known.gpu === gpu && known.driver === driver && known.sources === sources ? known.rows : [];
  } catch {
    return [];
  }
}
