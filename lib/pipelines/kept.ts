/** Something recorded for one shape, with Buffers of its own. */
export interface Recorded {
  /** Of its Buffers. */
  readonly bytes: number;
  dispose(): void;
}

/** Whatever their Buffers take: a captured graph takes memory, too, which the driver does not tell. */
const MOST_ENTRIES = 32;

/** Recorded shapes within a budget of bytes; the least recently used go first. */
export class Kept<T extends Recorded> {
  readonly #entries = new Map<string, T>();

  constructor(private readonly budget: number) {}

  get isEmpty(): boolean {
    return this.#entries.size === 0;
  }

  /**
   * The entry of `key`, made if absent. Room is made before it and after it, as far as that can be done without `busy`, which somebody is
   * using.
   */
  of(key: string, make: () => T, busy?: T): T {
    const known = this.#entries.get(key);
    if (known !== undefined) {
      this.#entries.delete(key);
      this.#entries.set(key, known); // the last to go
      return known;
    }
    this.#evict((bytes, count) => bytes >= this.budget || count >= MOST_ENTRIES, busy);
    const made = make();
    this.#evict((bytes) => bytes + made.bytes > this.budget, busy);
    this.#entries.set(key, made);
    return made;
  }

  dispose(): void {
    for (const entry of this.#entries.values()) entry.dispose();
    this.#entries.clear();
  }

  #evict(isTooMuch: (bytes: number, count: number) => boolean, busy: T | undefined): void {
    let bytes = [...this.#entries.values()].reduce((sum, entry) => sum + entry.bytes, 0);
    for (const [key, entry] of this.#entries) {
      if (!isTooMuch(bytes, this.#entries.size)) return;
      if (entry === busy) continue;
      this.#entries.delete(key);
      entry.dispose();
      bytes -= entry.bytes;
    }
  }
}
