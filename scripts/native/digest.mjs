// SHA-256 over folders: each file's path, length and bytes, in the order of the paths.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

/**
 * @param {string} root
 * @param {string[]} entries files and folders relative to root; one that is not there counts as empty
 * @returns {string} hex
 */
export function digestFiles(root, entries) {
  const hash = createHash("sha256");
  for (const path of entries.flatMap((entry) => list(root, entry)).sort()) {
    const bytes = readFileSync(join(root, path));
    hash.update(`${path}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest("hex");
}

/** @param {string} text */
export function digestText(text) {
  return createHash("sha256").update(text).digest("hex");
}

/** Files under an entry, with forward slashes. Hidden files and Python's caches are no sources. */
function list(root, entry) {
  const path = join(root, entry);
  if (!existsSync(path)) return [];
  if (statSync(path).isFile()) return [entry];
  return readdirSync(path)
    .filter((name) => !name.startsWith(".") && name !== "__pycache__")
    .flatMap((name) => list(root, `${entry}/${name}`));
}
