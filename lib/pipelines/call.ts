import type { Watcher } from "./denoise-loop.js";
import type { GenerateOptions } from "./options.js";
import type { Request } from "./request.js";
import type { GenerateResult } from "./result.js";
import { textTokensOf } from "./text-conditions.js";

/** A `generate` call on its way: what it asks for, and the promise that it was given. */
export class Call {
  /** Settles once; what comes later is ignored. */
  readonly result: Promise<GenerateResult>;
  readonly resolve: (result: GenerateResult) => void;
  readonly reject: (reason: unknown) => void;
  /** Rejects when something is wrong with the call. */
  readonly ready: Promise<void>;
  /** Has rejected or resolved. */
  settled = false;
  #request: Request | undefined;

  constructor(
    readonly options: GenerateOptions,
    reading: Promise<Request>,
  ) {
    const settle = {} as Pick<Call, "resolve" | "reject">;
    this.result = new Promise((resolve, reject) => {
      Object.assign(settle, { resolve, reject });
    });
    this.resolve = (result) => {
      this.settled = true;
      settle.resolve(result);
    };
    this.reject = (reason) => {
      this.settled = true;
      settle.reject(reason);
    };
    this.ready = reading.then((request) => {
      this.#request = request;
    });
    for (const each of [this.result, this.ready]) each.catch(() => {}); // said by whoever waits for it
  }

  get isReady(): boolean {
    return this.#request !== undefined;
  }

  /** After `ready`. */
  get request(): Request {
    return this.#request!;
  }

  /** Rejects when its signal was aborted. @returns whether anybody still waits for it. */
  get isWanted(): boolean {
    const { signal } = this.options;
    if (!this.settled && signal?.aborted) this.reject(signal.reason);
    return !this.settled;
  }
}

/**
 * Calls with equal keys can be drawn as one batch: what differs between them is contents of rows. Undefined for a call that is drawn
 * alone: a cache decides by the whole batch, and pictures have shapes of their own.
 */
export function batchKey(request: Request): string | undefined {
  const { positive, negative, size, task, cache, trueCfgScale, ...others } = request;
  if (task !== undefined || cache !== undefined) return undefined;
  const { batch, numImagesPerPrompt, seed, latents, guidanceScale, outputType, ...shared } = others;
  return JSON.stringify({
    ...shared,
    height: size.height,
    width: size.width,
    tokens: textTokensOf(positive, request),
    negative: negative && [textTokensOf(negative, request), trueCfgScale],
  });
}

/** Each call with the rows of a batch that are its own. */
export function watchersOf(calls: readonly Call[]): Watcher[] {
  let first = 0;
  return calls.map((call) => {
    const { onStep, preview, signal } = call.options;
    const count = call.request.batch;
    first += count;
    return {
      first: first - count,
      count,
      onStep,
      preview,
      signal,
      reject: call.reject,
      get isWanted() {
        return call.isWanted;
      },
    };
  });
}
