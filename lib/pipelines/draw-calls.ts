import { FluxError } from "../errors.js";
import { type Call, watchersOf } from "./call.js";
import { runSteps } from "./denoise-loop.js";
import type { Denoisers } from "./denoisers.js";
import { allFinite, type HostTensor } from "./host-tensor.js";
import type { Output } from "./output.js";

/** Draws calls of one batch; each promise settles when its own images are there. */
export async function drawCalls(
  calls: readonly Call[],
  { denoisers, output }: { denoisers: Denoisers; output: Output },
): Promise<void> {
  const begun = performance.now();
  const drawn = await denoisers.use(calls, async (denoiser) => {
    const encoded = performance.now();
    await runSteps(denoiser, watchersOf(calls));
    if (!calls.some(({ isWanted }) => isWanted)) return undefined;
    const latents = { data: await denoiser.latents.read(), shape: denoiser.latents.shape };
    return { encoded, latents, denoised: performance.now(), cache: await denoiser.cacheReport() };
  });
  if (drawn === undefined) return;
  const { encoded, latents, denoised, cache } = drawn;
  for (const { call, rows } of rowsOf(latents, calls)) {
    if (!call.isWanted) continue;
    try {
      requireFinite(rows);
      const decoding = performance.now();
      const pictures = await output.of(call.request, rows, call.options.signal);
      const timings = {
        encode: encoded - begun,
        denoise: denoised - encoded,
        decode: performance.now() - decoding,
      };
      call.resolve({ ...pictures, seed: call.request.seed, ...(cache && { cache }), timings });
    } catch (error) {
      call.reject(error);
    }
  }
}

/** The rows of a batch that are each call's, in order. */
function* rowsOf(
  { data, shape }: HostTensor,
  calls: readonly Call[],
): Iterable<{ call: Call; rows: HostTensor }> {
  const length = data.length / shape[0]!;
  let first = 0;
  for (const call of calls) {
    const { batch } = call.request;
    const own = data.subarray(first * length, (first + batch) * length);
    yield { call, rows: { data: calls.length === 1 ? own : own.slice(), shape: shape.with(0, batch) } };
    first += batch;
  }
}

/** Finite weights can still overflow: better an error than a black image. */
function requireFinite({ data }: HostTensor): void {
  if (allFinite(data)) return;
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    "the transformer produced NaN or infinite latents; the checkpoint is damaged, or embeddings, guidanceScale or trueCfgScale are far out of range",
  );
}
