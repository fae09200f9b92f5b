// lib/ as JavaScript, for worker threads and child processes: vitest compiles for itself only.

import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { afterAll, beforeAll } from "vitest";

const REPOSITORY = resolve(dirname(fileURLToPath(import.meta.url)), "../..");

/**
 * Compiles lib/ before the tests of a file into a temporary folder that is laid out like the package (package.json, dist/,
 * build/, node_modules/), and removes it after them.
 *
 * @returns Gives the folder of the compiled modules, within a test.
 */
export function compiledLibrary(): () => string {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "fluxwarp-dist-"));
    compileLibrary(folder);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return () => join(folder, "dist");
}

function compileLibrary(folder: string): void {
  writeFileSync(join(folder, "package.json"), readFileSync(join(REPOSITORY, "package.json")));
  for (const name of ["build", "node_modules"]) symlinkSync(join(REPOSITORY, name), join(folder, name));
  const sources = join(REPOSITORY, "lib");
  const compilerOptions: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    isolatedModules: true,
  };
  for (const name of readdirSync(sources, { recursive: true, encoding: "utf8" })) {
    if (!name.endsWith(".ts") || name.endsWith(".d.ts")) continue;
    const target = join(folder, "dist", name.replace(/\.ts$/, ".js"));
    const { outputText } = ts.transpileModule(readFileSync(join(sources, name), "utf8"), { compilerOptions });
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, outputText);
  }
}
