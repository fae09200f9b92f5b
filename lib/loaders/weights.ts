// The tensors of one model by name, wherever they lie: one safetensors file, or shards with an index.

import { readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { FluxError } from "../errors.js";
import { fileError } from "./file-error.js";
import { openSafetensors, type SafetensorsFile } from "./safetensors.js";
import { quoted } from "./safetensors-header.js";
import type { LocatedTensor, TensorSource } from "./tensor-source.js";

/** Names of weight files without their ending, as diffusers and transformers write them. */
const BASE_NAMES = ["diffusion_pytorch_model", "model"] as const;
const INDEX_SUFFIX = ".safetensors.index.json";

/** A view of all tensors of one or several safetensors files, by name. */
export class WeightSource implements TensorSource {
  /** What the caller opened, for messages. */
  readonly location: string;
  readonly files: readonly SafetensorsFile[];
  readonly #tensors: ReadonlyMap<string, LocatedTensor>;

  private constructor(location: string, files: readonly SafetensorsFile[]) {
    this.location = location;
    this.files = files;
    const tensors = new Map<string, LocatedTensor>();
    for (const file of files) {
      for (const entry of file.tensors.values()) {
        const other = tensors.get(entry.name);
        if (other !== undefined) {
          throw badWeights(
            `Tensor ${quoted(entry.name)} is in both ${other.file.path} and ${file.path}. ` +
              "Remove the shard that does not belong to this model.",
          );
        }
        tensors.set(entry.name, { ...entry, file });
      }
    }
    this.#tensors = tensors;
  }

  /**
   * Opens the weights of a model by their headers.
   *
   * @param folderOrFile A component's folder, a .safetensors file, or an index (.safetensors.index.json) with its shards beside it.
   * @param baseName For a folder: the file's name without ".safetensors". Default: "diffusion_pytorch_model", then "model".
   * @throws FluxError ERR_FLUX_BAD_WEIGHTS naming the file, shard or tensor that is missing or damaged.
   */
  static async open(folderOrFile: string, baseName?: string): Promise<WeightSource> {
    const path = await locate(folderOrFile, baseName === undefined ? BASE_NAMES : [baseName]);
    const files = path.endsWith(INDEX_SUFFIX) ? await openShards(path) : [await openSafetensors(path)];
    return new WeightSource(folderOrFile, files);
  }

  /** Names of all tensors. */
  names(): IterableIterator<string> {
    return this.#tensors.keys();
  }

  /** All tensors, in the order of files and of their data in them. */
  tensors(): IterableIterator<LocatedTensor> {
    return this.#tensors.values();
  }

  /** The tensor of this name, or undefined. */
  find(name: string): LocatedTensor | undefined {
    return this.#tensors.get(name);
  }
}

async function locate(folderOrFile: string, baseNames: readonly string[]): Promise<string> {
  let isFolder: boolean;
  try {
    isFolder = (await stat(folderOrFile)).isDirectory();
  } catch (error) {
    throw fileError(folderOrFile, error, "ERR_FLUX_BAD_WEIGHTS");
  }
  if (!isFolder) return folderOrFile;

  const present = await readdir(folderOrFile).catch((error) => {
    throw fileError(folderOrFile, error, "ERR_FLUX_BAD_WEIGHTS");
  });
  const candidates = baseNames.flatMap((name) => [`${name}.safetensors`, `${name}${INDEX_SUFFIX}`]);
  const found = candidates.find((name) => present.includes(name));
  if (found === undefined) {
    const others = present.length > 0 ? `It has only ${present.slice(0, 12).join(", ")}` : "It is empty";
    throw badWeights(
      `${folderOrFile} has none of ${candidates.join(", ")}. ${others}. Download the weights in safetensors format.`,
    );
  }
  return join(folderOrFile, found);
}

async function openShards(indexPath: string): Promise<SafetensorsFile[]> {
  const shardOfTensor = await readIndex(indexPath);
  const folder = dirname(indexPath);
  const shardNames = [...new Set(shardOfTensor.values())].sort();
  const shards = new Map<string, SafetensorsFile>();
  for (const name of shardNames) {
    const path = join(folder, name);
    const isThere = await stat(path).then(
      () => true,
      () => false,
    );
    if (!isThere) {
      throw badWeights(
        `Shard ${path}, named by ${basename(indexPath)}, is not there. Download the missing shard.`,
      );
    }
    shards.set(name, await openSafetensors(path));
  }
  for (const [tensor, shardName] of shardOfTensor) {
    if (!shards.get(shardName)?.tensors.has(tensor)) {
      throw badWeights(
        `${indexPath} says that tensor ${quoted(tensor)} is in ${shardName}, but it is not. ` +
          "Download the index and its shards again, all from one place.",
      );
    }
  }
  return [...shards.values()];
}

async function readIndex(path: string): Promise<Map<string, string>> {
  const wrong = (what: string) => badWeights(`${path} is not a usable index: ${what}. Download it again.`);
  let root: unknown;
  try {
    root = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    if (error instanceof SyntaxError) throw wrong(`it is not valid JSON (${error.message})`);
    throw fileError(path, error, "ERR_FLUX_BAD_WEIGHTS");
  }
  const weightMap = (root as { weight_map?: unknown } | null)?.weight_map;
  if (typeof weightMap !== "object" || weightMap === null || Array.isArray(weightMap)) {
    throw wrong('it has no object "weight_map"');
  }
  const shardOfTensor = new Map<string, string>();
  for (const [tensor, shard] of Object.entries(weightMap)) {
    // A plain name only: an index must not reach files outside its folder.
    if (typeof shard !== "string" || !/^[^/\\]+\.safetensors$/.test(shard)) {
      throw wrong(`tensor ${quoted(tensor)} is not mapped to the name of a .safetensors file beside it`);
    }
    shardOfTensor.set(tensor, shard);
  }
  if (shardOfTensor.size === 0) throw wrong('its "weight_map" is empty');
  return shardOfTensor;
}

function badWeights(message: string): FluxError {
  return new FluxError("ERR_FLUX_BAD_WEIGHTS", message);
}
