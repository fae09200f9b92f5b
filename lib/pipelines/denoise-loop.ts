import type { Denoiser } from "./denoiser.js";
import type { StepEvent } from "./options.js";

/** Steps that wait on the device at most: enough to keep it busy, few enough that an abort acts soon. */
const QUEUED_STEPS = 2;

/**
 * Runs `prepare` and all steps. Ends early between two steps when `signal` fires; whatever ends it, no step is running when
 * the promise settles.
 */
export async function runSteps(
  denoiser: Denoiser,
  options: {
    signal?: AbortSignal | undefined;
    onStep?: ((event: StepEvent) => void) | undefined;
    preview?: boolean | undefined;
  },
): Promise<void> {
  const { signal, onStep, preview = false } = options;
  const total = denoiser.shape.steps;
  const { latents } = denoiser;
  const runStep = async (step: number) => {
    const running = denoiser.step.run();
    const reading = preview ? latents.read() : undefined;
    const [, data] = await Promise.all([running, reading]);
    signal?.throwIfAborted();
    onStep?.({ step, total, ...(data && { latents: { data, shape: latents.shape } }) });
  };

  const queued: Promise<void>[] = [];
  const enqueue = (job: Promise<void>) => {
    job.catch(() => {}); // awaited below, in order; a later one may fail first
    queued.push(job);
  };
  try {
    enqueue(denoiser.prepare.run());
    for (let step = 1; step <= total; step++) {
      signal?.throwIfAborted();
      enqueue(runStep(step));
      if (queued.length > QUEUED_STEPS) await queued.shift();
    }
    await Promise.all(queued);
    signal?.throwIfAborted();
  } finally {
    await Promise.allSettled(queued);
  }
}
