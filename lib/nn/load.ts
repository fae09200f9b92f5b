import { FluxError } from "../errors.js";
import type { SafetensorsFile } from "../loaders/safetensors.js";
import {
  type LocatedTensor,
  piecesOf,
  type RandomTensor,
  type StoredTensor,
  type TensorSource,
} from "../loaders/tensor-source.js";
import type { Device } from "../runtime/device.js";
import { elementsOf, sizeOf } from "../runtime/dtype.js";
import {
  type NativeLoadOrigin,
  type NativeLoadRequest,
  type NativeMapping,
  native,
} from "../runtime/native.js";
import type { Parameter } from "./parameter.js";

export interface LoadOptions {
  signal?: AbortSignal | undefined;
  /** After every tensor, or piece of one. Bytes as they are in the file. */
  onProgress?: ((progress: { loadedBytes: number; totalBytes: number }) => void) | undefined;
}

/** Enough that the device never waits for JavaScript; few, so that an abort is heard soon. */
const QUEUED_LOADS = 4;

const NATIVE_DTYPES: Readonly<Record<string, "f32" | "bf16" | "f16" | "f8e4m3">> = {
  F32: "f32",
  BF16: "bf16",
  F16: "f16",
  F8_E4M3: "f8e4m3",
};

/**
 * Fills parameters from a checkpoint: first everything is checked, then everything is loaded; on any failure all that was
 * allocated is given back.
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` that names every missing or misshapen tensor, or every tensor with NaN or
 *   infinite values; the signal's reason when it was aborted.
 */
export async function loadParameters(
  device: Device,
  parameters: readonly Parameter[],
  source: TensorSource,
  options: LoadOptions = {},
): Promise<void> {
  options.signal?.throwIfAborted();
  const { found, ...problems } = resolveAll(parameters, source);
  requireNone(problems, source);
  const totalBytes = [...found.values()].flat().reduce((sum, tensor) => sum + bytesOf(tensor), 0);
  const mappings = new Map<string, NativeMapping>();
  const damaged: string[] = [];
  let loadedBytes = 0;
  // One generator feeds all lanes: a lane that throws closes it, so the others end after the tensor that they are at.
  const loads = loadsOf(device, parameters, found, mappings);
  const lane = async () => {
    for (const { name, tensor, request } of loads) {
      const bad = await device.load(request);
      options.signal?.throwIfAborted();
      if (bad > 0) damaged.push(`${name} (${bad} of ${elementsOf(tensor.shape)} values)`);
      loadedBytes += bytesOf(tensor);
      options.onProgress?.({ loadedBytes, totalBytes });
    }
  };
  try {
    for (const parameter of parameters) allocate(device, parameter, found.get(parameter)!);
    const lanes = await Promise.allSettled(Array.from({ length: QUEUED_LOADS }, lane));
    for (const result of lanes) if (result.status === "rejected") throw result.reason;
    if (damaged.length > 0) {
      throw badWeights(source, `these tensors hold NaN or infinite values: ${damaged.join(", ")}`);
    }
  } catch (error) {
    for (const parameter of parameters) parameter.release();
    throw error;
  } finally {
    for (const mapping of mappings.values()) mapping.close();
  }
}

/**
 * Compares the tensors of a checkpoint with parameters, by their headers.
 * @returns A sentence for each tensor that is missing, misshapen or of a dtype that cannot be read; none when all will load.
 */
export function checkParameters(parameters: readonly Parameter[], source: TensorSource): string[] {
  const { missing, wrong } = resolveAll(parameters, source);
  return [...missing.map((name) => `${name} is missing`), ...wrong];
}

interface Problems {
  /** Names of tensors. */
  readonly missing: readonly string[];
  /** Clauses that begin with the tensor's name. */
  readonly wrong: readonly string[];
}

function resolveAll(
  parameters: readonly Parameter[],
  source: TensorSource,
): Problems & { found: Map<Parameter, StoredTensor[]> } {
  const found = new Map<Parameter, StoredTensor[]>();
  const missing: string[] = [];
  const wrong: string[] = [];
  for (const parameter of parameters) {
    const tensors: StoredTensor[] = [];
    parameter.spec.names.forEach((name, part) => {
      const tensor = source.find(name);
      const shape = parameter.spec.shapes[part]!;
      if (tensor === undefined) {
        missing.push(name);
      } else if (NATIVE_DTYPES[tensor.dtype] === undefined) {
        wrong.push(`${name} has dtype ${tensor.dtype} (F32, F16, BF16 and F8_E4M3 can be read)`);
      } else if (tensor.shape.join() !== shape.join()) {
        wrong.push(`${name} has shape [${tensor.shape.join(", ")}], not [${shape.join(", ")}]`);
      } else {
        tensors.push(tensor);
      }
    });
    found.set(parameter, tensors);
  }
  return { found, missing, wrong };
}

function requireNone({ missing, wrong }: Problems, source: TensorSource): void {
  const problems: string[] = [];
  if (missing.length > 0) problems.push(`missing: ${missing.join(", ")}`);
  if (wrong.length > 0) problems.push(`not as the config says: ${wrong.join("; ")}`);
  if (problems.length > 0) throw badWeights(source, problems.join("; "));
}

function allocate(device: Device, parameter: Parameter, tensors: readonly StoredTensor[]): void {
  const dtype = parameter.deviceDtype(
    tensors.map((tensor) => tensor.dtype),
    device.dtype,
  );
  parameter.fill(device.buffer(dtype, parameter.shapeOn(device.dtype)));
  if (dtype === "f8e4m3") parameter.fillScale(device.buffer("f32", [parameter.buffer.shape[0]!]));
}

interface Load {
  readonly name: string;
  readonly tensor: LocatedTensor | RandomTensor;
  readonly request: NativeLoadRequest;
}

/** One native request per piece of a tensor; the parts of a parameter lie one after another. */
function* loadsOf(
  device: Device,
  parameters: readonly Parameter[],
  found: ReadonlyMap<Parameter, readonly StoredTensor[]>,
  mappings: Map<string, NativeMapping>,
): Generator<Load> {
  for (const parameter of parameters) {
    const { buffer, scale, spec } = parameter;
    const rowBytes = buffer.bytes / buffer.shape[0]!;
    let row = 0;
    for (const [part, tensor] of found.get(parameter)!.entries()) {
      for (const piece of piecesOf(tensor)) {
        const request = {
          ...originOf(piece, mappings),
          from: NATIVE_DTYPES[piece.dtype]!,
          to: buffer.dtype,
          shape: piece.shape,
          layout: parameter.layoutOn(device.dtype),
          target: buffer.native,
          targetOffset: row * rowBytes,
          ...(scale !== undefined && { scale: scale.native, scaleOffset: row * 4 }),
        };
        row += piece.shape[0]!;
        yield { name: spec.names[part]!, tensor: piece, request };
      }
    }
  }
}

/** Files are mapped when they are first met. */
function originOf(
  piece: LocatedTensor | RandomTensor,
  mappings: Map<string, NativeMapping>,
): NativeLoadOrigin {
  if ("key" in piece) {
    const { key, mean, deviation } = piece;
    return { random: { key, mean, deviation } };
  }
  const mapped = ({ path }: SafetensorsFile) => {
    const file = mappings.get(path) ?? new (native().Mapping)(path);
    mappings.set(path, file);
    return file;
  };
  const { file, begin, scale } = piece;
  const origin = { file: mapped(file), begin };
  if (scale === undefined) return origin;
  if (typeof scale === "number") return { ...origin, factor: scale };
  return { ...origin, factors: mapped(scale.file), factorsBegin: scale.begin };
}

function bytesOf(tensor: StoredTensor): number {
  return elementsOf(tensor.shape) * sizeOf(NATIVE_DTYPES[tensor.dtype]!);
}

function badWeights(source: TensorSource, problem: string): FluxError {
  return new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${source.location}: ${problem}. Download or export the checkpoint again.`,
  );
}
