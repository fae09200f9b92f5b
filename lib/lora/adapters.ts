// The adapters of a pipeline: which are loaded, which are active, and the slots that hold what is in effect.

import { badArgument, FluxError } from "../errors.js";
import type { Linear } from "../nn/linear.js";
import type { Device } from "../runtime/device.js";
import { type Adapter, ranksOf } from "./adapter.js";
import type { LoraChoice } from "./choices.js";
import type { LoraFormat } from "./format.js";
import { type FusedWeight, fusedWeights, type Originals, releaseFused } from "./fuse.js";
import type { UnusedKey } from "./pairs.js";
import { AdapterPool } from "./pool.js";
import type { Sites } from "./sites.js";
import { type Applied, type NextWeights, Slots } from "./slots.js";
import { growingRanks, type HotswapOptions, hotswapRanks, requireRoom } from "./targets.js";

/** What `listAdapters` tells of one adapter. */
export interface AdapterInfo {
  readonly name: string;
  readonly active: boolean;
  /** Its weight while it is active, or with which it was fused; else 0. */
  readonly weight: number;
  /** It is a part of the model's weights: see `fuseLora`. */
  readonly fused: boolean;
  /** Of its file. */
  readonly location: string;
  readonly format: LoraFormat;
  /** The largest of its layers' ranks. */
  readonly rank: number;
  /** How many layers it changes. */
  readonly layers: number;
  /** The tensors of its file that do nothing, and why. */
  readonly unused: readonly UnusedKey[];
}

/** What a change asks of the pipeline. */
export interface AdapterHooks {
  /** Recordings with the old slots or weights cannot be used any more. */
  forgetPlans(): void;
  /** CLIP gives other embeddings from now on. */
  forgetEmbeddings(): void;
  readonly originals: Originals;
}

/** An adapter in the order in which they act, under its name. */
type Chosen = Required<LoraChoice>;

interface State {
  readonly loaded: ReadonlyMap<string, Adapter>;
  readonly active: readonly Chosen[];
  readonly enabled: boolean;
  /** What is in the weights; it stays there when its name is deleted. */
  readonly fused: readonly (Applied & { readonly name: string })[];
  readonly hotswap: HotswapOptions | undefined;
}

/**
 * What changes something is to be called in the pipeline's turn, one call after another. A call that throws leaves everything
 * as it was.
 */
export class Adapters {
  readonly pool: AdapterPool;
  #state: State = { loaded: new Map(), active: [], enabled: true, fused: [], hotswap: undefined };
  #slots: Slots | undefined;
  #disposed = false;
  /** What the weights give beside what they were loaded with. */
  #inWeights: readonly Applied[] = [];
  /** What the slots give; undefined after a write that failed. */
  #applied: readonly Applied[] | undefined = [];

  constructor(
    readonly device: Device,
    readonly sites: Sites,
    readonly hooks: AdapterHooks,
    poolBytes?: number,
  ) {
    this.pool = new AdapterPool(device, sites, poolBytes);
  }

  /** Slots of fixed size from now on; what is loaded and active stays so. */
  async enableHotswap(options: HotswapOptions): Promise<void> {
    const ranks = hotswapRanks(options, this.sites);
    const slots = await Slots.allocate(this.device, ranks);
    const next = { ...this.#state, hotswap: options };
    try {
      for (const [name, adapter] of next.loaded) requireRoom(slots, [name], [adapter]);
      const active = chosenIn(next);
      const adapters = appliedIn(next, active).map(({ adapter }) => adapter);
      requireRoom(
        slots,
        active.map(({ name }) => name),
        adapters,
      );
      await this.#fillSlots(slots, appliedIn(next, chosenIn(next)));
    } catch (error) {
      slots.dispose();
      throw error;
    }
    this.#replaceSlots(slots);
    this.#state = next;
  }

  /**
   * Gives an adapter a name and makes it the only active one; with `replace` it takes the place of the adapter of that name,
   * active or not.
   * @returns its name.
   */
  async add(adapter: Adapter, given: string | undefined, replace: boolean): Promise<string> {
    const { loaded, hotswap } = this.#state;
    const name = given ?? freeName(loaded);
    if (replace && !loaded.has(name)) {
      throw badArgument(`hotswap: true replaces a loaded adapter, and ${absent(name, loaded)}`);
    }
    if (replace && isFused(name, this.#state)) throw badArgument(inWeights(name));
    if (!replace && loaded.has(name)) {
      throw badArgument(
        `an adapter called ${JSON.stringify(name)} is loaded; choose another adapterName, replace it with hotswap: true, or delete it`,
      );
    }
    if (hotswap !== undefined) requireRoom(this.#slots!, [name], [adapter]);
    const next = { ...this.#state, loaded: new Map(loaded).set(name, adapter) };
    await this.#enter(replace ? next : { ...next, active: [{ name, weight: 1 }] });
    return name;
  }

  async setActive(choices: readonly LoraChoice[]): Promise<void> {
    await this.#enter({ ...this.#state, active: checkChoices(choices, this.#state) });
  }

  async setEnabled(enabled: boolean): Promise<void> {
    await this.#enter({ ...this.#state, enabled });
  }

  /** What is fused stays in the weights. */
  async delete(names: readonly string[]): Promise<void> {
    const { loaded, active } = this.#state;
    for (const name of names) if (!loaded.has(name)) throw badArgument(absent(name, loaded));
    const left = new Map([...loaded].filter(([name]) => !names.includes(name)));
    const stillActive = active.filter(({ name }) => left.has(name));
    await this.#enter({ ...this.#state, loaded: left, active: stillActive });
  }

  /** Makes adapters a part of the weights, those that are active by default; each with its weight times `scale`. */
  async fuse(names: readonly string[] | undefined, scale: number): Promise<void> {
    const { loaded, active, fused } = this.#state;
    const chosen = names ?? active.map(({ name }) => name).filter((name) => !isFused(name, this.#state));
    if (chosen.length === 0) throw badArgument("there is no active adapter to fuse; load one, or name it");
    const added = chosen.map((name) => {
      const adapter = loaded.get(name);
      if (adapter === undefined) throw badArgument(absent(name, loaded));
      if (isFused(name, this.#state)) throw badArgument(inWeights(name));
      const weight = scale * (active.find((choice) => choice.name === name)?.weight ?? 1);
      return { name, adapter, weight };
    });
    await this.#enter({ ...this.#state, fused: [...fused, ...added] });
  }

  /** The weights are the checkpoint's again, byte for byte. */
  async unfuse(): Promise<void> {
    if (this.#state.fused.length > 0) await this.#enter({ ...this.#state, fused: [] });
  }

  /**
   * Puts into effect what the next picture is to have: these adapters, or those that are active.
   * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for an adapter that is not loaded, or ranks that do not fit together.
   */
  async apply(choices: readonly LoraChoice[] | undefined): Promise<void> {
    const chosen = choices === undefined ? chosenIn(this.#state) : checkChoices(choices, this.#state);
    await this.#put(this.#state, chosen);
  }

  list(): AdapterInfo[] {
    const { loaded, active, fused } = this.#state;
    return [...loaded].map(([name, adapter]) => {
      const choice = active.find((other) => other.name === name);
      const inWeights = fused.find((other) => other.name === name);
      const { location, description, pieces, unused } = adapter;
      return {
        name,
        active: choice !== undefined,
        weight: (inWeights ?? choice)?.weight ?? 0,
        fused: inWeights !== undefined,
        location,
        format: description.format,
        rank: Math.max(0, ...[...ranksOf(adapter).values()].flat()),
        layers: pieces.length,
        unused,
      };
    });
  }

  /** Bytes of the slots on the device. */
  get slotBytes(): number {
    return this.#slots?.bytes ?? 0;
  }

  dispose(): void {
    this.#disposed = true;
    this.#slots?.dispose();
    this.pool.dispose();
  }

  async #enter(next: State): Promise<void> {
    await this.#put(next, chosenIn(next));
    this.#leave(next);
  }

  /** The new state; what it has no name for is given back. */
  #leave(next: State): void {
    const known = (state: State) =>
      new Set([...state.loaded.values(), ...state.fused.map(({ adapter }) => adapter)]);
    const before = known(this.#state);
    this.#state = next;
    const after = known(next);
    for (const adapter of before) if (!after.has(adapter)) this.pool.forget(adapter);
  }

  /** Puts into effect what is fused, in the weights, and what is chosen, in slots. */
  async #put(state: State, chosen: readonly Chosen[]): Promise<void> {
    const wanted = appliedIn(state, chosen);
    const weights = await this.#makeWeights(state.fused);
    try {
      await this.#putSlots(state, chosen, wanted, weights);
      this.#requireAlive();
    } catch (error) {
      if (weights !== undefined) releaseFused(weights);
      throw error;
    }
    if (weights !== undefined) this.#install(weights, state.fused);
  }

  /** The weights with these adapters in them, of the linears whose weights change; undefined when nothing does. */
  async #makeWeights(applied: readonly Applied[]): Promise<Map<Linear, FusedWeight> | undefined> {
    if (sameApplied(applied, this.#inWeights)) return undefined;
    const linears = new Set<Linear>();
    for (const { adapter } of [...this.#inWeights, ...applied]) {
      for (const { linear } of adapter.pieces) linears.add(linear);
    }
    const adapters = applied.map(({ adapter }) => adapter);
    return this.pool.with(adapters, () => fusedWeights(this.device, linears, applied, this.hooks.originals));
  }

  /** At once: nobody sees a part of it, and nothing can fail in between. */
  #install(weights: ReadonlyMap<Linear, FusedWeight>, applied: readonly Applied[]): void {
    this.hooks.forgetPlans();
    this.hooks.forgetEmbeddings();
    for (const [linear, { parameter, bounds }] of weights) {
      linear.parameter.take(parameter);
      linear.release();
      linear.bounds = bounds;
    }
    this.#inWeights = applied;
  }

  /** Puts adapters into the slots, and makes the slots that they need. */
  async #putSlots(
    state: State,
    chosen: readonly Chosen[],
    wanted: readonly Applied[],
    weights: NextWeights | undefined,
  ): Promise<void> {
    const adapters = wanted.map(({ adapter }) => adapter);
    if (state.hotswap !== undefined) {
      requireRoom(
        this.#slots!,
        chosen.map(({ name }) => name),
        adapters,
      );
      return this.#writeSlots(wanted, weights);
    }
    const waiting = [...state.loaded].filter(([name]) => !isFused(name, state)).map(([, adapter]) => adapter);
    if (waiting.length === 0) {
      this.#replaceSlots(undefined);
      return;
    }
    const { ranks, grew } = growingRanks(this.#slots, adapters, waiting);
    if (!grew) return this.#writeSlots(wanted, weights);
    const slots = await Slots.allocate(this.device, ranks);
    try {
      await this.#fillSlots(slots, wanted, weights);
    } catch (error) {
      slots.dispose();
      throw error;
    }
    this.#replaceSlots(slots);
  }

  async #writeSlots(wanted: readonly Applied[], weights: NextWeights | undefined): Promise<void> {
    if (this.#slots === undefined) return;
    const next = weights !== undefined && this.#slots.dependsOn(weights) ? weights : undefined;
    if (next === undefined && sameApplied(wanted, this.#applied)) return;
    const clipChanges = !sameApplied(this.#onClip(wanted), this.#applied && this.#onClip(this.#applied));
    this.#applied = undefined;
    if (clipChanges) this.hooks.forgetEmbeddings();
    await this.#fillSlots(this.#slots, wanted, next);
  }

  async #fillSlots(slots: Slots, wanted: readonly Applied[], next?: NextWeights): Promise<void> {
    const adapters = wanted.map(({ adapter }) => adapter);
    const missing = next === undefined ? slots.missing(adapters) : adapters;
    await this.pool.with(missing, () => slots.write(wanted, next));
    this.#applied = wanted;
  }

  #replaceSlots(slots: Slots | undefined): void {
    if (slots === this.#slots) return;
    if (this.#disposed) slots?.dispose();
    this.#requireAlive();
    this.hooks.forgetPlans();
    this.hooks.forgetEmbeddings();
    this.#slots?.dispose();
    this.#slots = slots;
    if (slots === undefined) this.#applied = [];
    slots?.attach();
  }

  /** It may have been disposed while something was awaited. */
  #requireAlive(): void {
    if (!this.#disposed) return;
    throw new FluxError("ERR_FLUX_DISPOSED", "the pipeline was disposed meanwhile; load it again");
  }

  #onClip(applied: readonly Applied[]): Applied[] {
    const linears = new Set([...this.sites.text_encoder.values()].map(({ linear }) => linear));
    return applied.filter(({ adapter }) => adapter.pieces.some(({ linear }) => linears.has(linear)));
  }
}

/** What acts by default: not what is in the weights already. */
function chosenIn(state: State): Chosen[] {
  return state.enabled ? state.active.filter(({ name }) => !isFused(name, state)) : [];
}

function isFused(name: string, { fused }: State): boolean {
  return fused.some((other) => other.name === name);
}

function appliedIn({ loaded }: State, chosen: readonly Chosen[]): Applied[] {
  return chosen.map(({ name, weight }) => ({ adapter: loaded.get(name)!, weight }));
}

function sameApplied(a: readonly Applied[], b: readonly Applied[] | undefined): boolean {
  if (b === undefined || a.length !== b.length) return false;
  return a.every(({ adapter, weight }, i) => adapter === b[i]!.adapter && weight === b[i]!.weight);
}

function checkChoices(choices: readonly LoraChoice[], state: State): Chosen[] {
  const { loaded } = state;
  const names = choices.map(({ name }) => name);
  return choices.map(({ name, weight = 1 }, i) => {
    if (!loaded.has(name)) throw badArgument(absent(name, loaded));
    if (isFused(name, state)) throw badArgument(inWeights(name));
    if (names.indexOf(name) !== i) throw badArgument(`the adapter ${JSON.stringify(name)} is named twice`);
    return { name, weight };
  });
}

function freeName(loaded: ReadonlyMap<string, Adapter>): string {
  for (let i = 0; ; i++) if (!loaded.has(`default_${i}`)) return `default_${i}`;
}

function absent(name: string, loaded: ReadonlyMap<string, Adapter>): string {
  const others = loaded.size === 0 ? "none is" : `loaded are ${quoted([...loaded.keys()])}`;
  return `no adapter called ${JSON.stringify(name)} is loaded; ${others}`;
}

function inWeights(name: string): string {
  return `the adapter ${JSON.stringify(name)} is fused into the weights; call unfuseLora first`;
}

function quoted(names: readonly string[]): string {
  return names.map((name) => JSON.stringify(name)).join(" and ");
}
