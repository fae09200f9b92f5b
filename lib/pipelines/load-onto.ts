import { FluxError } from "../errors.js";
import type { WeightComponent } from "../loaders/single-file.js";
import type { Precision } from "../nn/scope.js";
import { Device, type DeviceName } from "../runtime/device.js";
import type { AttentionType } from "../runtime/heads.js";
import { attentionType } from "./attention-type.js";
import { type Checkpoint, type CheckpointParts, type LoadProgress, loadCheckpoint } from "./checkpoint.js";
import type { Variant } from "./conditioning/variant.js";
import type { RandomCheckpointOptions } from "./random-checkpoint.js";
import type { SingleFileParts } from "./single-file.js";

export interface FromPretrainedOptions {
  /** `"auto"` (the default: a GPU where there is one), `"cpu"`, `"cuda:0"`. Or a Device of one's own, which the pipeline does not dispose. */
  device?: DeviceName | Device;
  /** What the linears compute in: `"bf16"` (a GPU's default), `"f32"` (the CPU's default) or `"fp8"` (both; the default where the weights are stored in it). */
  precision?: Precision;
  /** What the text encoders' linears compute in, where it is to differ from `precision`. */
  textEncoderPrecision?: Precision;
  /**
   * What attention multiplies in. 8 bits: `"int8"` (q·k in int8, P·V in e4m3; the default of `"fp8"` on a Hopper GPU) or `"fp8"` (both in
   * e4m3, less exact). Otherwise `"bf16"`: the activations' own type, which is f32 on the CPU. The CPU emulates 8 bits.
   */
  attention?: AttentionType;
  /** CPU threads, 1 to 1024; all cores by default. Images do not depend on it. */
  threads?: number;
  /**
   * What the checkpoint is, where its files do not tell: `"kontext"` for FLUX.1-Kontext-dev's transformer in a folder of another
   * pipeline class. By default what model_index.json and the transformer's widths say.
   */
  variant?: Variant;
  /** Host memory for adapters that were read, in bytes; the least recently used go first. By default a quarter of the machine's, at most 8 GiB. */
  loraPoolBytes?: number;
  /**
   * Draw `generate` calls that wait one behind the other and agree in size, steps and guidance as one batch, of this many images at most; `true`
   * means 4. Each keeps its own seed, prompt, guidance scale and promise. Off by default: a batch takes more memory.
   */
  batchConcurrent?: boolean | number;
  /** Ends the loading, which gives back what was loaded; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called as weights arrive, component after component. */
  onProgress?: (progress: LoadProgress) => void;
}

/** How a single file is loaded. */
export interface FromSingleFileOptions extends FromPretrainedOptions, SingleFileParts {}

/** How a pipeline without a checkpoint is made. */
export interface FromConfigOptions extends FromPretrainedOptions, RandomCheckpointOptions {
  /** There is nothing else to make weights of than random numbers. */
  weights: "random";
}

/** A checkpoint on a device. */
export interface LoadedCheckpoint {
  readonly device: Device;
  /** The device was opened for it. */
  readonly ownsDevice: boolean;
  readonly checkpoint: Checkpoint;
}

/**
 * Opens the device and loads what `open` gives. On a failure nothing stays open.
 * @throws FluxError as `open`, `Device.open` and `loadCheckpoint` do.
 */
export async function loadOnto(
  open: () => Promise<CheckpointParts>,
  options: FromPretrainedOptions,
): Promise<LoadedCheckpoint> {
  const { threads, precision, textEncoderPrecision } = options;
  const ownsDevice = !(options.device instanceof Device);
  const device = options.device instanceof Device ? options.device : Device.open(options.device, { threads });
  try {
    for (const wanted of [precision, textEncoderPrecision]) precisionOn(device, wanted);
    const parts = await open();
    const ofStored = (component: WeightComponent) => (parts.stored.has(component) ? "fp8" : undefined);
    const transformer = precisionOn(device, precision ?? ofStored("transformer"));
    const textEncoders = precisionOn(device, textEncoderPrecision ?? precision ?? ofStored("text_encoder_2"));
    const attention = attentionType(options.attention, transformer, device);
    const precisions = { transformer, textEncoders, attention };
    return { device, ownsDevice, checkpoint: await loadCheckpoint(parts, device, precisions, options) };
  } catch (error) {
    if (ownsDevice) device.dispose();
    throw error;
  }
}

/** What the linears compute in on this device, by default what a checkpoint's bf16 weights need. */
function precisionOn(device: Device, wanted: Precision | undefined): Precision {
  const exact = device.dtype;
  if (wanted === undefined || wanted === exact || wanted === "fp8") return wanted ?? exact;
  throw new FluxError(
    "ERR_FLUX_UNSUPPORTED",
    `precision "${wanted}" is not there on ${device.name}; use "${exact}" or "fp8"`,
  );
}
