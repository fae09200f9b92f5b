import { describe, expect, it } from "vitest";
import { Turns } from "../../lib/pipelines/turns.js";

/** Work that notes its name when it begins, and ends when it is told to. */
function worker() {
  const log: string[] = [];
  const ends = new Map<string, () => void>();
  const work = (name: string) => () =>
    new Promise<string>((resolve) => {
      log.push(name);
      ends.set(name, () => resolve(name));
    });
  const end = async (name: string) => {
    while (!ends.has(name)) await new Promise((resolve) => setImmediate(resolve));
    ends.get(name)!();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { log, work, end };
}

describe("Turns", () => {
  it("lets callers through one at a time, in order, also after one that fails", async () => {
    const turns = new Turns();
    const { log, work, end } = worker();
    const first = turns.take(undefined, work("a"));
    const failing = turns.take(undefined, async () => {
      log.push("b");
      throw new Error("b failed");
    });
    const last = turns.take(undefined, work("c"));
    failing.catch(() => {});
    await end("a");
    await end("c");
    expect(log).toEqual(["a", "b", "c"]);
    expect(await first).toBe("a");
    await expect(failing).rejects.toThrow("b failed");
    expect(await last).toBe("c");
  });

  it("forgets a caller that is aborted while it waits, and not one whose turn has come", async () => {
    const turns = new Turns();
    const { log, work, end } = worker();
    const controller = new AbortController();
    const running = turns.take(controller.signal, work("a"));
    await new Promise((resolve) => setImmediate(resolve));
    const waiting = turns.take(controller.signal, work("b"));
    controller.abort(new Error("enough"));
    await expect(waiting).rejects.toThrow("enough");
    await expect(turns.take(controller.signal, work("c"))).rejects.toThrow("enough");
    await end("a");
    expect(await running).toBe("a");
    await turns.idle();
    expect(log).toEqual(["a"]);
  });

  it("joins those directly behind that are accepted, and nobody beyond one that is not", async () => {
    const turns = new Turns<string>();
    const { log, work, end } = worker();
    let joined: string[] = [];
    const first = turns.take(
      undefined,
      async () => {
        joined = turns.join((name) => name.startsWith("a"));
        return work("a1")();
      },
      "a1",
    );
    const second = turns.take(undefined, work("a2"), "a2");
    const third = turns.take(undefined, work("b"), "b");
    const fourth = turns.take(undefined, work("a3"), "a3");
    await end("a1");
    expect(await Promise.all([first, second])).toEqual(["a1", undefined]);
    expect(joined).toEqual(["a2"]);
    await end("b");
    await end("a3");
    expect(await Promise.all([third, fourth])).toEqual(["b", "a3"]);
    expect(log).toEqual(["a1", "b", "a3"]);
  });

  it("does not join across a caller that has no companion", async () => {
    const turns = new Turns<string>();
    let joined: string[] | undefined;
    const all = [
      turns.take(
        undefined,
        async () => {
          joined = turns.join(() => true);
        },
        "a",
      ),
      turns.take(undefined, async () => "alone"),
      turns.take(undefined, async () => "own turn", "a"),
    ];
    expect(await Promise.all(all)).toEqual([undefined, "alone", "own turn"]);
    expect(joined).toEqual([]);
  });
});
