import { checkBoolean, checkOptions, type OptionNames, shown } from "../arguments.js";
import { badArgument } from "../errors.js";
import type { AdapterInfo, Adapters } from "../lora/adapters.js";
import { checkChoices, checkNames } from "../lora/choices.js";
import type { UnusedKey } from "../lora/pairs.js";
import { checkHotswap, type HotswapOptions } from "../lora/targets.js";

export interface LoadLoraOptions {
  /** What the other methods call it; `default_0`, `default_1` and so on by default. */
  adapterName?: string;
  /** Takes the place of the loaded adapter of that name, with its weight. */
  hotswap?: boolean;
}

export interface FuseLoraOptions {
  /** Those that are active by default. */
  adapterNames?: readonly string[];
  /** What their weights are multiplied by; 1 by default. */
  loraScale?: number;
}

const LOAD_NAMES: OptionNames<LoadLoraOptions> = { adapterName: true, hotswap: true };
const FUSE_NAMES: OptionNames<FuseLoraOptions> = { adapterNames: true, loraScale: true };

/** What `loadLoraWeights` found. */
export interface LoadedLora {
  readonly name: string;
  /** Tensors of the file that do nothing here, and why; a warning names them, too. */
  readonly unused: readonly UnusedKey[];
}

/** Of the names in a warning. */
const SHOWN_KEYS = 20;

/**
 * A pipeline's LoRA adapters, under diffusers' names. Calls and `generate` take effect one after another in the order in
 * which they were made, so that a change is seen by the pictures that are asked for after it, and by no other. A call that
 * fails changes nothing.
 */
export abstract class LoraLoader {
  /** @internal */
  protected abstract readonly adapters: Adapters;

  /** Does `work` when all earlier calls are done, if the pipeline still lives then. @internal */
  protected abstract inOrder<T>(work: () => Promise<T>): Promise<T>;

  /**
   * Makes room beside the layers once, so that later adapters are only copied into it: no plan is recorded again, whatever is
   * loaded, mixed, re-weighted or deleted. Without it the room grows with what is loaded, and plans are recorded again when it
   * does.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT`, `ERR_FLUX_OUT_OF_MEMORY`.
   */
  async enableLoraHotswap(options: HotswapOptions = {}): Promise<void> {
    checkHotswap(options);
    return this.inOrder(() => this.adapters.enableHotswap(options));
  }

  /**
   * Loads an adapter and makes it the only active one, as diffusers does. It is read while earlier calls still run. Formats:
   * diffusers and PEFT, kohya, OneTrainer, ComfyUI and ai-toolkit, XLabs, Black Forest Labs.
   * @param source A .safetensors file, a folder that holds one, or the bytes of one, which are copied at the call.
   * @throws FluxError `ERR_FLUX_BAD_WEIGHTS` that names what is wrong with the file, `ERR_FLUX_UNSUPPORTED` for a control adapter,
   *   `ERR_FLUX_BAD_ARGUMENT` for a name that is taken, or a rank that has no room.
   */
  async loadLoraWeights(source: string | Uint8Array, options: LoadLoraOptions = {}): Promise<LoadedLora> {
    checkOptions("loadLoraWeights()", options, LOAD_NAMES);
    const { adapterName, hotswap = false } = options;
    checkBoolean("hotswap", hotswap);
    if (adapterName !== undefined) checkNames([adapterName]);
    if (hotswap && adapterName === undefined) {
      throw badArgument("hotswap: true replaces a loaded adapter; say which one with adapterName");
    }
    const reading = this.adapters.pool.read(source instanceof Uint8Array ? source.slice() : source);
    reading.catch(() => {}); // said at its turn
    try {
      return await this.inOrder(async () => {
        const adapter = await reading;
        const name = await this.adapters.add(adapter, adapterName, hotswap);
        warnUnused(name, adapter.unused);
        return { name, unused: adapter.unused };
      });
    } catch (error) {
      reading.then(
        (adapter) => this.adapters.pool.forget(adapter),
        () => {},
      );
      throw error;
    }
  }

  /**
   * Chooses the adapters that act from now on, alone or mixed; all others are inactive.
   * @param weights One for all, or one for each; 1 by default.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a name that is not loaded or named twice, or a rank that has no room; `ERR_FLUX_OUT_OF_MEMORY`.
   */
  async setAdapters(
    names: string | readonly string[],
    weights: number | readonly number[] = 1,
  ): Promise<void> {
    const all = checkNames(typeof names === "string" ? [names] : names);
    const each = typeof weights === "number" ? all.map(() => weights) : weights;
    if (!Array.isArray(each) || each.length !== all.length) {
      throw badArgument(`weights is one number, or one for each of the ${all.length} adapters`);
    }
    const choices = checkChoices(all.map((name, i) => ({ name, weight: each[i]! })));
    return this.inOrder(() => this.adapters.setActive(choices));
  }

  /**
   * Forgets adapters. What is fused stays in the weights.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a name that is not loaded.
   */
  async deleteAdapters(names: string | readonly string[]): Promise<void> {
    const all = checkNames(typeof names === "string" ? [names] : names);
    return this.inOrder(() => this.adapters.delete(all));
  }

  /** Forgets all adapters; pictures are then, byte for byte, what they were before any was loaded. */
  unloadLoraWeights(): Promise<void> {
    return this.inOrder(() => this.adapters.delete(this.adapters.list().map(({ name }) => name)));
  }

  /** Lets the active adapters rest until `enableLora`. A call's own `loras` still act. */
  disableLora(): Promise<void> {
    return this.inOrder(() => this.adapters.setEnabled(false));
  }

  enableLora(): Promise<void> {
    return this.inOrder(() => this.adapters.setEnabled(true));
  }

  /**
   * Makes adapters a part of the weights, which are read anew from the checkpoint: a step then takes as long as without any.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a name that is not loaded, or when none is active; also when the checkpoint is no longer there, or there is no memory for a second copy of the weights that change.
   */
  async fuseLora(options: FuseLoraOptions = {}): Promise<void> {
    checkOptions("fuseLora()", options, FUSE_NAMES);
    const { adapterNames, loraScale = 1 } = options;
    if (!Number.isFinite(loraScale)) throw badArgument(`loraScale is a number, not ${shown(loraScale)}`);
    const names = adapterNames && checkNames(adapterNames);
    return this.inOrder(() => this.adapters.fuse(names, loraScale));
  }

  /** Reads the weights that were fused from the checkpoint again; nothing happens without any. */
  unfuseLora(): Promise<void> {
    return this.inOrder(() => this.adapters.unfuse());
  }

  /** Every adapter that is loaded now, and what it is. */
  listAdapters(): AdapterInfo[] {
    return this.adapters.list();
  }
}

function warnUnused(name: string, unused: readonly UnusedKey[]): void {
  if (unused.length === 0) return;
  const shown = unused.slice(0, SHOWN_KEYS).map(({ key, reason }) => `${key} (${reason})`);
  const more = unused.length > SHOWN_KEYS ? `, and ${unused.length - SHOWN_KEYS} more` : "";
  process.emitWarning(`adapter ${JSON.stringify(name)}: not used: ${shown.join(", ")}${more}`, {
    code: "FLUX_LORA_UNUSED_KEYS",
  });
}
