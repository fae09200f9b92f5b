interface Waiting<Companion> {
  readonly start: () => Promise<unknown>;
  readonly companion: Companion | undefined;
  /** Called when it is served with another. */
  readonly joined: () => void;
}

/**
 * Lets callers through one at a time, in the order in which they came. A caller may say that another's turn can serve it, too: with
 * a companion, what the other has to know of it.
 */
export class Turns<Companion = never> {
  readonly #waiting: Waiting<Companion>[] = [];
  #busy = false;

  /**
   * Runs `work` when all earlier callers are done; a caller whose signal fires while it waits leaves at once.
   * @returns What `work` gives, or undefined when it was not run because another's turn served this caller.
   */
  take<T>(
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
    companion?: Companion,
  ): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        reject(signal!.reason);
      };
      const unlisten = () => signal?.removeEventListener("abort", leave);
      const waiting: Waiting<Companion> = {
        companion,
        start: async () => {
          unlisten();
          await work().then(resolve, reject);
        },
        joined: () => {
          unlisten();
          resolve(undefined);
        },
      };
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      signal?.addEventListener("abort", leave, { once: true });
      this.#waiting.push(waiting);
      void this.#serve();
    });
  }

  /**
   * To be called in a turn: takes those who come directly behind it out of the queue, as long as `accepts` takes them. A caller without
   * a companion ends it: nobody is served before somebody who came earlier.
   */
  join(accepts: (companion: Companion) => boolean): Companion[] {
    const joined: Companion[] = [];
    for (let next = this.#waiting[0]; next?.companion !== undefined; next = this.#waiting[0]) {
      if (!accepts(next.companion)) break;
      this.#waiting.shift();
      next.joined();
      joined.push(next.companion);
    }
    return joined;
  }

  /** Resolves when nobody who is there now is waiting or working. */
  async idle(): Promise<void> {
    await this.take(undefined, async () => {});
  }

  async #serve(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    await undefined; // callers of the same moment are all in the queue before the first is served
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      await next.start();
    }
    this.#busy = false;
  }
}
