/** Lets callers through one at a time, in the order in which they came. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs `work` when all earlier callers are done; a caller whose signal fires while it waits leaves at once. */
  take<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    let waiting = true;
    const mine = this.#last.then(() => {
      waiting = false;
      signal?.throwIfAborted();
      return work();
    });
    this.#last = mine.catch(() => {});
    if (signal === undefined) return mine;
    return new Promise<T>((resolve, reject) => {
      const leave = () => {
        if (waiting) reject(signal.reason);
      };
      signal.addEventListener("abort", leave, { once: true });
      mine.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
    });
  }

  /** Resolves when nobody is waiting or working. */
  async idle(): Promise<void> {
    await this.#last;
  }
}
