import { setImmediate } from "node:timers/promises";
import { FluxError } from "../errors.js";
import { batchKey, type Call } from "./call.js";
import { Turns } from "./turns.js";

/** Images in a batch with `batchConcurrent: true`. */
const DEFAULT_BATCH = 4;

/** `generate` calls in the order in which they were made; those that agree may be drawn together. */
export class CallQueue {
  readonly #turns = new Turns<Call>();
  /** That calls may share in a batch. */
  readonly #mostImages: number;

  /** @param draw draws calls of one batch; each call settles when its own images are there. */
  constructor(
    batchConcurrent: boolean | number,
    private readonly draw: (calls: readonly Call[]) => Promise<void>,
  ) {
    this.#mostImages = batchConcurrent === true ? DEFAULT_BATCH : Number(batchConcurrent);
  }

  /** Queues a call, which settles at its turn or with another's. */
  add(call: Call): void {
    this.#turns.take(call.options.signal, () => this.#serve(call), call).catch(call.reject);
  }

  /** Runs `work` at its turn, alone. @throws the signal's reason when it is aborted while it waits. */
  async alone<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    return (await this.#turns.take(signal, work)) as T;
  }

  /** Resolves when nobody who is there now is waiting or working. */
  idle(): Promise<void> {
    return this.#turns.idle();
  }

  /** A call's turn: draws it, and those directly behind it that can be drawn with it. */
  async #serve(call: Call): Promise<void> {
    await call.ready;
    // Calls of the same moment have been read by then, and join.
    if (this.#mostImages > 1) await setImmediate();
    const calls = [call, ...this.#companions(call)];
    try {
      await this.draw(calls);
    } catch (error) {
      if (calls.length > 1 && FluxError.is(error, "ERR_FLUX_OUT_OF_MEMORY")) {
        for (const alone of calls) if (alone.isWanted) await this.draw([alone]).catch(alone.reject);
      } else {
        for (const failed of calls) failed.reject(error);
      }
    }
  }

  #companions({ request }: Call): Call[] {
    const key = this.#mostImages > 1 ? batchKey(request) : undefined;
    if (key === undefined) return [];
    let images = request.batch;
    return this.#turns.join((other) => {
      const joins =
        other.isReady && batchKey(other.request) === key && images + other.request.batch <= this.#mostImages;
      if (joins) images += other.request.batch;
      return joins;
    });
  }
}
