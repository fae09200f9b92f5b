import type { TextStream } from "./terminal.js";

/**
 * Prints warnings as sentences: Node's own form has the process id, and a hint at an option of Node's that nobody who types `fluxwarp` can
 * give. Whoever silences, traces or redirects Node's warnings keeps what was asked for.
 */
export function printWarnings(stderr: TextStream): void {
  const { execArgv, env } = process;
  const flags = [...(env.NODE_OPTIONS ?? "").split(" "), ...execArgv];
  if (process.listenerCount("warning") === 0 || env.NODE_REDIRECT_WARNINGS !== undefined) return;
  if (flags.some((flag) => /^--(trace-warnings|redirect-warnings)/.test(flag))) return;
  const silent = disabled(flags);
  process.removeAllListeners("warning");
  process.on("warning", (warning) => {
    const { name, message, code } = warning as NodeJS.ErrnoException;
    if (silent.has(name) || (code !== undefined && silent.has(code))) return;
    stderr.write(`warning: ${name === "Warning" ? "" : `${name}: `}${message}\n`);
  });
}

/** Names and codes after `--disable-warning`, which Node leaves to its own listener. */
function disabled(flags: readonly string[]): ReadonlySet<string> {
  const option = "--disable-warning";
  return new Set(
    flags.flatMap((flag, at) => {
      if (flag.startsWith(`${option}=`)) return flag.slice(option.length + 1);
      return flag === option ? (flags[at + 1] ?? []) : [];
    }),
  );
}
