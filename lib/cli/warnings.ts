import type { TextStream } from "./terminal.js";

/**
 * Prints warnings as sentences: Node's own form has the process id, and a hint at an option of Node's that nobody who types `fluxwarp` can
 * give. Whoever silences, traces or redirects Node's warnings keeps what was asked for.
 */
export function printWarnings(stderr: TextStream): void {
  const { execArgv, env } = process;
  const flags = [...execArgv, ...(env.NODE_OPTIONS ?? "").split(" ")];
  if (process.listenerCount("warning") === 0 || env.NODE_REDIRECT_WARNINGS !== undefined) return;
  if (flags.some((flag) => /^--(trace-warnings|redirect-warnings)/.test(flag))) return;
  process.removeAllListeners("warning");
  process.on("warning", ({ name, message }) => {
    stderr.write(`warning: ${name === "Warning" ? "" : `${name}: `}${message}\n`);
  });
}
