import { describe, expect, it } from "vitest";
import { alignColumns, formatBytes, formatCount, ProgressLine } from "../../lib/cli/terminal.js";
import { CapturedStream } from "../support/captured-streams.js";

/** Carriage return and "erase to the end of the line". */
const ERASE = "\r\x1b[K";

describe("ProgressLine", () => {
  it("writes nothing where there is no terminal", () => {
    const stream = new CapturedStream(false);
    const line = new ProgressLine(stream);
    line.show("step 1 of 4", 0.25);
    line.clear();
    expect(stream.text).toBe("");
  });

  it("draws over itself, within the line, and removes itself once", () => {
    const stream = new CapturedStream(true);
    const line = new ProgressLine(stream);
    line.show("step 1 of 4", 0.25, "x".repeat(200));
    const [nothing, first] = stream.text.split(ERASE);
    expect(nothing).toBe("");
    expect(first).toMatch(/^step 1 of 4 +█{6}░{18} x+$/);
    expect(first).toHaveLength(79);
    line.show("over", 1.5);
    expect(stream.text).toMatch(/█{24} $/);
    line.clear();
    line.clear();
    // Drawn twice, removed once.
    expect(stream.text.split(ERASE)).toHaveLength(4);
    expect(stream.text.endsWith(ERASE)).toBe(true);
  });
});

describe("formats", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.0 kB"],
    [99_949, "99.9 kB"],
    [99_950, "100 kB"],
    [999_499, "999 kB"],
    [999_500, "1.0 MB"],
    [23_802_816_640, "23.8 GB"],
  ])("%i bytes as %s", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  it("counts without a unit below a thousand", () => {
    expect(formatCount(7)).toBe("7");
    expect(formatCount(11_901_408_320)).toBe("11.9 G");
  });

  it("lines columns up, on either side", () => {
    const rows = [
      ["a", "1", "x"],
      ["bbb", "22", ""],
    ];
    expect(alignColumns(rows, [1])).toBe("a     1  x\nbbb  22");
  });
});
