/** A seeded generator for choosing scenes and words: mulberry32. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.next() * items.length)]!;
  }

  /** One of the items with probabilities proportional to the weights. */
  weighted<T>(items: readonly T[], weights: readonly number[]): T {
    let left = this.next() * weights.reduce((a, b) => a + b, 0);
    for (const [i, item] of items.entries()) {
      left -= weights[i]!;
      if (left < 0) return item;
    }
    return items.at(-1)!;
  }

  /** Two different items. */
  pair<T>(items: readonly T[]): [T, T] {
    const first = Math.floor(this.next() * items.length);
    const second = (first + 1 + Math.floor(this.next() * (items.length - 1))) % items.length;
    return [items[first]!, items[second]!];
  }
}
