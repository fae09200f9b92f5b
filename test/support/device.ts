// Devices for tests, and the shortest way to compute something on one.

import { onTestFinished } from "vitest";
import { Buffer, type TypedArrays } from "../../lib/runtime/buffer.js";
import { Device } from "../../lib/runtime/device.js";
import type { DType } from "../../lib/runtime/dtype.js";
import type { Recorder, Tensor } from "../../lib/runtime/recorder.js";

/** A CPU device, disposed when the running test ends. */
export function cpuDevice(threads = 2): Device {
  const device = Device.open("cpu", { threads });
  onTestFinished(() => device.dispose());
  return device;
}

/** A Buffer that holds `data`. */
export function bufferOf<D extends DType>(
  device: Device,
  dtype: D,
  shape: readonly number[],
  data: TypedArrays[D],
): Buffer<D> {
  const buffer = device.buffer(dtype, shape);
  // Jobs run in order: whatever reads it later sees the data. A failure shows there, too.
  buffer.write(data).catch(() => {});
  return buffer;
}

/** An f32 Buffer of a tensor of the golden data. */
export function bufferFrom(
  device: Device,
  tensor: { shape: readonly number[]; data: Float32Array },
): Buffer<"f32"> {
  return bufferOf(device, "f32", tensor.shape, tensor.data);
}

type Results<T> = { [K in keyof T]: Float32Array };

/** Records `build`, runs it once and reads what it returned: f32 values by name. */
export async function compute<T extends Record<string, Tensor>>(
  device: Device,
  build: (g: Recorder) => T,
): Promise<Results<T>> {
  const arrays = await computeTyped(device, build);
  return arrays as Results<T>;
}

/** As `compute`, for results of any dtype. */
export async function computeTyped(
  device: Device,
  build: (g: Recorder) => Record<string, Tensor>,
): Promise<Record<string, TypedArrays[DType]>> {
  const outputs: Record<string, Buffer> = {};
  const plan = device.record("test", (g) => {
    for (const [name, tensor] of Object.entries(build(g))) {
      const { dtype, shape } = tensor instanceof Buffer ? tensor.value : tensor;
      outputs[name] = device.buffer(dtype, shape);
      g.copy(tensor, outputs[name]);
    }
  });
  try {
    await plan.run();
    const results: Record<string, TypedArrays[DType]> = {};
    for (const [name, buffer] of Object.entries(outputs)) results[name] = await buffer.read();
    return results;
  } finally {
    plan.dispose();
    for (const buffer of Object.values(outputs)) buffer.dispose();
  }
}
