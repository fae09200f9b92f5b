// Adapters that wait in host memory, ready to be copied to the device.

import { totalmem } from "node:os";
import { FluxError } from "../errors.js";
import type { Device } from "../runtime/device.js";
import { type Adapter, readAdapter } from "./adapter.js";
import { type LoraFile, openLoraFile } from "./file.js";
import type { Sites } from "./sites.js";

/** A quarter of the machine's memory, and at most 8 GiB: twelve adapters of rank 64 over all layers of FLUX.1. */
export const DEFAULT_POOL_BYTES = Math.min(8 * 2 ** 30, Math.floor(totalmem() / 4));

/**
 * Adapters stay in host memory until the budget is spent; then the least recently used go, and are read again when they are
 * needed. What came as bytes cannot be read again and stays until it is forgotten.
 */
export class AdapterPool {
  /** In the order of their use, the latest last. */
  readonly #resident = new Set<Adapter>();
  /** What is being read, by identity. */
  readonly #reading = new Map<string, Promise<Adapter>>();
  /** How many uses need an adapter to stay. */
  readonly #used = new Map<Adapter, number>();
  #disposed = false;

  constructor(
    readonly device: Device,
    readonly sites: Sites,
    readonly budget = DEFAULT_POOL_BYTES,
  ) {}

  /** Of all adapters in host memory. */
  get bytes(): number {
    return [...this.#resident].reduce((sum, adapter) => sum + adapter.bytes, 0);
  }

  /**
   * The adapter of a file, or of a file's bytes. A file that is in memory and has not changed is not read again.
   * @throws FluxError as `readAdapter` does.
   */
  async read(source: string | Uint8Array): Promise<Adapter> {
    const file = await openLoraFile(source);
    const [known] = this.#residentsOf(file);
    return known ?? this.#readFile(file);
  }

  /** Does something with adapters in host memory: those that went are read again, and none goes meanwhile. */
  async with<T>(adapters: readonly Adapter[], use: () => Promise<T>): Promise<T> {
    for (const adapter of adapters) this.#used.set(adapter, (this.#used.get(adapter) ?? 0) + 1);
    try {
      for (const adapter of adapters) await this.#fetch(adapter);
      this.#requireAlive();
      return await use();
    } finally {
      for (const adapter of adapters) {
        const left = this.#used.get(adapter)! - 1;
        if (left > 0) this.#used.set(adapter, left);
        else this.#used.delete(adapter);
      }
      this.#trim();
    }
  }

  /** Nobody has a name for this adapter any more: what came as bytes goes at once, a file when its turn comes. */
  forget(adapter: Adapter): void {
    if (adapter.identity === undefined) this.#evict(adapter);
  }

  dispose(): void {
    this.#disposed = true;
    for (const adapter of this.#resident) this.#evict(adapter);
  }

  #requireAlive(): void {
    if (!this.#disposed) return;
    throw new FluxError("ERR_FLUX_DISPOSED", "the pipeline was disposed meanwhile; load it again");
  }

  async #fetch(adapter: Adapter): Promise<void> {
    this.#requireAlive();
    if (adapter.memory === undefined) {
      const file = await openLoraFile(adapter.location);
      if (file.identity !== adapter.identity) {
        throw new FluxError(
          "ERR_FLUX_BAD_WEIGHTS",
          `${adapter.location} has changed since it was loaded, and is no longer in memory; load it again.`,
        );
      }
      // The same file gives the same layout: only the memory is new. What is in use, under another name, keeps its own.
      const again =
        this.#residentsOf(file).find((other) => !this.#used.has(other)) ?? (await this.#readFile(file));
      adapter.memory = again.memory;
      this.#resident.delete(again);
      again.memory = undefined;
    }
    this.#touch(adapter);
  }

  /** More than one when a file was read again under another name. */
  #residentsOf(file: LoraFile): Adapter[] {
    if (file.identity === undefined) return [];
    return [...this.#resident].filter(({ identity }) => identity === file.identity);
  }

  #readFile(file: LoraFile): Promise<Adapter> {
    const { identity } = file;
    const reading = identity === undefined ? undefined : this.#reading.get(identity);
    if (reading !== undefined) return reading;
    const started = readAdapter(this.device, this.sites, file).then((adapter) => {
      this.#touch(adapter);
      if (this.#disposed) this.#evict(adapter);
      return adapter;
    });
    if (identity === undefined) return started;
    this.#reading.set(identity, started);
    return started.finally(() => this.#reading.delete(identity));
  }

  /** Makes it the latest. */
  #touch(adapter: Adapter): void {
    this.#resident.delete(adapter);
    this.#resident.add(adapter);
    this.#trim(adapter);
  }

  #trim(latest?: Adapter): void {
    let { bytes } = this;
    for (const adapter of this.#resident) {
      if (bytes <= this.budget) return;
      if (adapter === latest || adapter.identity === undefined || this.#used.has(adapter)) continue;
      this.#evict(adapter);
      bytes -= adapter.bytes;
    }
  }

  #evict(adapter: Adapter): void {
    adapter.memory?.dispose();
    adapter.memory = undefined;
    this.#resident.delete(adapter);
  }
}
