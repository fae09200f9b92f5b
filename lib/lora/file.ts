// Adapter files: a path, a folder that holds one, or bytes.

import { readdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { badArgument, FluxError } from "../errors.js";
import { fileError } from "../loaders/file-error.js";
import { readJson } from "../loaders/json-fields.js";
import { openSafetensors, parseSafetensors, type SafetensorsFile } from "../loaders/safetensors.js";
import type { TensorEntry } from "../loaders/safetensors-header.js";
import type { Device } from "../runtime/device.js";
import { elementsOf } from "../runtime/dtype.js";
import { HostMemory, type StoredMatrix } from "../runtime/host-memory.js";
import { native } from "../runtime/native.js";

/** An adapter file of which the header was read and found right. */
export interface LoraFile {
  /** For messages. */
  readonly location: string;
  readonly header: SafetensorsFile;
  /** PEFT's adapter_config.json beside it. */
  readonly adapterConfig: unknown;
  /** Of a file on disk: another one when the file changes. */
  readonly identity: string | undefined;
  /** Of a file in memory. */
  readonly bytes: Uint8Array | undefined;
}

/** What diffusers and PEFT call the file in a folder. */
const FILE_NAMES = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"];

/**
 * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` for a file that is missing, damaged or no safetensors file, `ERR_FLUX_IO` when it
 *   cannot be read, `ERR_FLUX_BAD_ARGUMENT` for a source that is neither a path nor bytes.
 */
export async function openLoraFile(source: string | Uint8Array): Promise<LoraFile> {
  if (source instanceof Uint8Array) {
    const location = "the adapter in memory";
    const header = parseSafetensors(source, location);
    return { location, header, adapterConfig: undefined, identity: undefined, bytes: source };
  }
  if (typeof source !== "string" || source === "") {
    throw badArgument("an adapter is the path of a .safetensors file, or its bytes in a Uint8Array");
  }
  const path = await locate(source);
  const [header, identity] = [await openSafetensors(path), await identityOf(path)];
  const config = join(dirname(path), "adapter_config.json");
  const isThere = await stat(config).then(
    () => true,
    () => false,
  );
  const adapterConfig = isThere ? await readJson(config) : undefined;
  return { location: path, header, adapterConfig, identity, bytes: undefined };
}

/** Device, inode, size and time of change of a file. */
export async function identityOf(path: string): Promise<string> {
  try {
    const { dev, ino, size, mtimeNs } = await stat(path, { bigint: true });
    return [dev, ino, size, mtimeNs].join(":");
  } catch (error) {
    throw fileError(path, error, "ERR_FLUX_BAD_WEIGHTS");
  }
}

async function locate(path: string): Promise<string> {
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    (error) => {
      throw fileError(path, error, "ERR_FLUX_BAD_WEIGHTS");
    },
  );
  if (!isFolder) return path;
  const present = (await readdir(path)).filter((name) => name.endsWith(".safetensors"));
  const named = FILE_NAMES.find((name) => present.includes(name));
  const found = named ?? (present.length === 1 ? present[0] : undefined);
  if (found !== undefined) return join(path, found);
  throw new FluxError(
    "ERR_FLUX_BAD_WEIGHTS",
    `${path} has ${present.length} .safetensors files, none of them called ${FILE_NAMES.join(" or ")}. Give the path of the file.`,
  );
}

/** The data of an adapter file while it is read: mapped, or a copy of the bytes. */
export class LoraData {
  readonly #source: StoredMatrix["source"];

  /** @throws FluxError `ERR_FLUX_IO`, `ERR_FLUX_OUT_OF_MEMORY`. */
  constructor(device: Device, { location, bytes }: LoraFile) {
    if (bytes === undefined) {
      this.#source = new (native().Mapping)(location);
    } else {
      const memory = new HostMemory(device, bytes.length);
      memory.native.write(bytes, 0);
      this.#source = memory;
    }
  }

  /** A tensor as a matrix, its first axis the rows; or some of its rows. */
  matrix({ begin, end, dtype, shape }: TensorEntry, firstRow = 0, count = shape[0] ?? 1): StoredMatrix {
    const [rows = 1, ...rest] = shape;
    const rowBytes = (end - begin) / rows;
    return {
      source: this.#source,
      begin: begin + firstRow * rowBytes,
      dtype: NATIVE_DTYPES[dtype]!,
      rows: count,
      columns: elementsOf(rest),
    };
  }

  /** What is queued still finds it. */
  close(): void {
    if (this.#source instanceof HostMemory) this.#source.dispose();
    else this.#source.close();
  }
}

const NATIVE_DTYPES: Readonly<Partial<Record<TensorEntry["dtype"], StoredMatrix["dtype"]>>> = {
  F32: "f32",
  BF16: "bf16",
  F16: "f16",
  F8_E4M3: "f8e4m3",
  F8_E5M2: "f8e5m2",
};
