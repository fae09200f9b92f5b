import type { LoadProgress } from "../pipelines/checkpoint.js";
import { type CommandContext, formatBytes, ProgressLine } from "./terminal.js";

/** Writes a checkpoint's folder with its progress on stderr, and says on stdout how large it is and how long it took. */
export async function writeFolder(
  folder: string,
  { json }: { json?: boolean },
  { stdout, stderr, signal }: CommandContext,
  write: (options: { signal: AbortSignal; onProgress: (progress: LoadProgress) => void }) => Promise<number>,
): Promise<void> {
  const progress = new ProgressLine(stderr);
  const started = performance.now();
  try {
    const bytes = await write({
      signal,
      onProgress: ({ component, loadedBytes, totalBytes }) => {
        progress.show(`writing ${component}`, loadedBytes / totalBytes);
      },
    });
    progress.clear();
    const seconds = Number(((performance.now() - started) / 1000).toFixed(3));
    stdout.write(
      json
        ? `${JSON.stringify({ folder, bytes, seconds }, null, 2)}\n`
        : `${folder}  ${formatBytes(bytes)}, ${seconds.toFixed(1)} s\n`,
    );
  } finally {
    progress.clear();
  }
}
