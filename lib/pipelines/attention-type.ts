import { shown } from "../arguments.js";
import { badArgument, FluxError } from "../errors.js";
import type { Precision } from "../nn/scope.js";
import { type Device, deviceInfo } from "../runtime/device.js";
import type { AttentionType } from "../runtime/heads.js";

/**
 * What the transformer's attention multiplies in: as asked, or `"int8"` beside fp8 linears on a GPU that has the kernels, else `"bf16"`.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a type that is none; `ERR_FLUX_UNSUPPORTED` on a GPU without 8-bit attention.
 */
export function attentionType(
  asked: AttentionType | undefined,
  precision: Precision,
  device: Device,
): AttentionType {
  if (asked !== undefined && asked !== "bf16" && asked !== "fp8" && asked !== "int8") {
    throw badArgument(`attention is "int8", "fp8" or "bf16", not ${shown(asked)}`);
  }
  const lacking = device.kind === "cuda" && !isHopper(device);
  if (asked === undefined) return precision === "fp8" && device.kind === "cuda" && !lacking ? "int8" : "bf16";
  if (asked !== "bf16" && lacking) {
    throw new FluxError(
      "ERR_FLUX_UNSUPPORTED",
      `attention "${asked}" needs a GPU of compute capability 9.0 (Hopper); use attention "bf16" on ${device.name}`,
    );
  }
  return asked;
}

function isHopper({ name }: Device): boolean {
  const gpu = deviceInfo().cuda.devices.find(({ index }) => `cuda:${index}` === name);
  return gpu?.computeCapability === "9.0";
}
