/** A stream of text that may be a terminal, such as process.stderr. */
export interface TextStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  /** Characters in a line of a terminal. */
  readonly columns?: number;
}

/** What a command works with. */
export interface CommandContext {
  /** Results go here, and nothing else. */
  readonly stdout: TextStream;
  /** Progress and errors. */
  readonly stderr: TextStream;
  /** Aborts when the user wants the command to end. */
  readonly signal: AbortSignal;
}

const BAR_WIDTH = 24;

/** One line at the foot of a terminal that is drawn over and over; nothing at all where there is no terminal. */
export class ProgressLine {
  readonly #stream: TextStream;
  #isDrawn = false;

  constructor(stream: TextStream) {
    this.#stream = stream;
  }

  /** @param fraction How much is done, from 0 to 1. */
  show(label: string, fraction: number, note = ""): void {
    if (this.#stream.isTTY !== true) return;
    const filled = Math.round(Math.min(1, Math.max(0, fraction)) * BAR_WIDTH);
    const bar = "█".repeat(filled) + "░".repeat(BAR_WIDTH - filled);
    const line = `${label.padEnd(24)} ${bar} ${note}`.slice(0, (this.#stream.columns ?? 80) - 1);
    this.#stream.write(`\r\x1b[K${line}`);
    this.#isDrawn = true;
  }

  /** Removes the line, so that other text can follow. */
  clear(): void {
    if (this.#isDrawn) this.#stream.write("\r\x1b[K");
    this.#isDrawn = false;
  }
}

/** Rows as columns of text, padded to line up; columns named in `rightAligned` (by index) end together. */
export function alignColumns(
  rows: readonly (readonly string[])[],
  rightAligned: readonly number[] = [],
): string {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          rightAligned.includes(column) ? cell.padStart(widths[column]) : cell.padEnd(widths[column]),
        )
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** A size as people read it: 1.5 GB. */
export function formatBytes(bytes: number): string {
  return formatScaled(bytes, ["B", "kB", "MB", "GB", "TB"]);
}

/** A count as people read it: 11.9 G. */
export function formatCount(count: number): string {
  return formatScaled(count, ["", "k", "M", "G", "T"]).trimEnd();
}

function formatScaled(value: number, units: readonly string[]): string {
  let scaled = value;
  let unit = 0;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit++;
  }
  const digits = unit === 0 || scaled >= 99.95 ? 0 : 1;
  return `${scaled.toFixed(digits)} ${units[unit]}`;
}
