import type { CommandContext, TextStream } from "../../lib/cli/terminal.js";

/** A stream that keeps what is written to it. */
export class CapturedStream implements TextStream {
  text = "";

  constructor(
    readonly isTTY = false,
    /** Called after each write with what was written. */
    readonly onWrite: (written: string) => void = () => {},
  ) {}

  write(text: string): void {
    this.text += text;
    this.onWrite(text);
  }
}

/** A command's context whose streams can be read. */
export function capturedContext(stderr = new CapturedStream(), signal = new AbortController().signal) {
  const stdout = new CapturedStream();
  return { stdout, stderr, signal } satisfies CommandContext;
}
