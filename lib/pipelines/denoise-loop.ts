import type { Denoiser } from "./denoiser.js";
import type { StepEvent } from "./options.js";

/** Whoever waits for rows of the batch. */
export interface Watcher {
  /** Of the batch. */
  readonly first: number;
  readonly count: number;
  readonly onStep?: ((event: StepEvent) => void) | undefined;
  readonly preview?: boolean | undefined;
  /** When it is aborted, the watcher leaves. */
  readonly signal?: AbortSignal | undefined;
  /** False once it has left, by its signal for example. */
  readonly isWanted: boolean;
  /** It leaves: what its onStep threw. */
  reject(reason: unknown): void;
}

/**
 * Runs `prepare` and all steps. On a GPU the next step is given while one runs, so that it does not wait for the host. Where a watcher has
 * a signal, the next step waits on the host, some 0.05 ms more a step: when all watchers have left it is taken back,
 * and the device is free at the end of the step that it is at. Whatever ends it, no step is running when the promise settles.
 */
export async function runSteps(denoiser: Denoiser, watchers: readonly Watcher[]): Promise<void> {
  const { latents, shape, transformer } = denoiser;
  const total = shape.steps;
  const isAnyoneThere = () => watchers.map(({ isWanted }) => isWanted).includes(true);
  const endIfAlone = () => {
    if (!isAnyoneThere()) denoiser.step.revoke();
  };
  const length = latents.elements / shape.batch;
  const tell = (watcher: Watcher, step: number, data: Float32Array | undefined) => {
    if (!watcher.isWanted) return;
    const { first, count, preview, onStep } = watcher;
    const rows = preview ? data?.slice(first * length, (first + count) * length) : undefined;
    try {
      const shape = [count, ...latents.shape.slice(1)];
      const told: unknown = onStep?.({ step, total, ...(rows && { latents: { data: rows, shape } }) });
      if (told instanceof Promise) told.catch(watcher.reject); // an async function's
    } catch (error) {
      watcher.reject(error);
    }
  };
  const revocable = watchers.some(({ signal }) => signal !== undefined);
  const runStep = async (step: number) => {
    const running = denoiser.step.run({ revocable });
    const reading = watchers.some(({ preview }) => preview) ? latents.read() : undefined;
    const [, data] = await Promise.all([running, reading]);
    for (const watcher of watchers) tell(watcher, step, data);
    endIfAlone();
  };

  // A CPU takes so long over a step that nothing is won by queueing the next one, and an abort acts a step sooner.
  const ahead = transformer.device.kind === "cuda" ? 1 : 0;
  const queued: Promise<unknown>[] = [];
  const enqueue = (job: Promise<unknown>) => {
    job.catch(() => {}); // awaited below, in order; a later one may fail first
    queued.push(job);
  };
  for (const { signal } of watchers) signal?.addEventListener("abort", endIfAlone);
  try {
    enqueue(denoiser.prepare.run());
    for (let step = 1; step <= total && isAnyoneThere(); step++) {
      enqueue(runStep(step));
      while (queued.length > ahead) await queued.shift();
    }
    await Promise.all(queued);
  } finally {
    for (const { signal } of watchers) signal?.removeEventListener("abort", endIfAlone);
    await Promise.allSettled(queued);
  }
}
