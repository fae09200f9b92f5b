import { describe, expect, it } from "vitest";
import { Kept } from "../../lib/pipelines/kept.js";

/** Entries that note when they were made and disposed. */
function scene(budget: number) {
  const events: string[] = [];
  const kept = new Kept<{ name: string; bytes: number; dispose(): void }>(budget);
  const take = (name: string, bytes: number, busy?: ReturnType<typeof kept.of>) =>
    kept.of(
      name,
      () => {
        events.push(`+${name}`);
        return { name, bytes, dispose: () => events.push(`-${name}`) };
      },
      busy,
    );
  return { events, kept, take };
}

describe("recorded shapes that are kept", () => {
  it("stay within their budget; the least recently used go first", () => {
    const { events, take } = scene(100);
    take("a", 40);
    take("b", 40);
    take("a", 40); // used again
    take("c", 40);
    take("d", 20);
    expect(events).toEqual(["+a", "+b", "+c", "-b", "+d"]);
  });

  it("make room first when they are over the budget, and are one at least", () => {
    const { events, take } = scene(100);
    take("a", 150);
    take("b", 150);
    take("b", 150);
    expect(events).toEqual(["+a", "-a", "+b"]);
  });

  it("spare what is in use", () => {
    const { events, take } = scene(100);
    const busy = take("a", 60);
    take("b", 60, busy);
    take("c", 60, busy);
    expect(events).toEqual(["+a", "+b", "-b", "+c"]);
  });

  it("are not many, however small, and go with their owner", () => {
    const { events, kept, take } = scene(1e9);
    for (let i = 0; i < 40; i++) take(String(i), 0);
    expect(events.filter((event) => event.startsWith("-"))).toEqual(
      Array.from({ length: 8 }, (_, i) => `-${i}`),
    );
    kept.dispose();
    expect(events.filter((event) => event.startsWith("-"))).toHaveLength(40);
  });
});
