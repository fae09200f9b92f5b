#!/usr/bin/env node
// The `fluxwarp` command. The first Ctrl-C aborts cleanly, a second one ends the process at once.

import { runCli } from "./program.js";
import { printWarnings } from "./warnings.js";

const interrupt = new AbortController();
process.once("SIGINT", () => interrupt.abort());

// A reader that has enough (`| head`) closes the pipe; what is left to print is for nobody.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
});

printWarnings(process.stderr);
runCli(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  signal: interrupt.signal,
}).then((code) => {
  // Not process.exit: what was written to a pipe must get out first.
  process.exitCode = code;
});
