// Which linears get slots, and of what rank.

import { checkOptions, type OptionNames, shown } from "../arguments.js";
import { badArgument } from "../errors.js";
import type { Linear } from "../nn/linear.js";
import { type Adapter, ranksOf } from "./adapter.js";
import type { Sites } from "./sites.js";
import { paddedRank, type Slots } from "./slots.js";

/** What `enableLoraHotswap` takes. */
export interface HotswapOptions {
  /** Ranks that fit beside every target: of one adapter, or of all that are active together. 128 by default. */
  targetRank?: number;
  /**
   * The layers that get slots, as PEFT's `target_modules` names them: by the whole name, or by its end after a dot (`"to_q"`,
   * `"ff.net.2"`). All linear layers of the transformer and of CLIP by default.
   */
  targets?: readonly string[];
}

const NAMES: OptionNames<HotswapOptions> = { targetRank: true, targets: true };

/** @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for an option or a rank that is none, or targets that are no list. */
export function checkHotswap(options: HotswapOptions): void {
  checkOptions("enableLoraHotswap()", options, NAMES);
  const { targetRank = 128, targets } = options;
  if (!Number.isInteger(targetRank) || targetRank < 1 || targetRank > 4096) {
    throw badArgument(`targetRank is a whole number from 1 to 4096, not ${shown(targetRank)}`);
  }
  const isList = Array.isArray(targets) && targets.length > 0;
  if (targets !== undefined && !isList)
    throw badArgument('targets is a list of layers\' names, such as ["to_q", "to_v"]');
}

/**
 * The ranks of all slots that these options ask for, after `checkHotswap`.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` for a target that no layer is called by.
 */
export function hotswapRanks(
  { targetRank = 128, targets }: HotswapOptions,
  sites: Sites,
): Map<Linear, number> {
  const all = [...sites.transformer, ...sites.text_encoder];
  const ranks = new Map<Linear, number>();
  const rank = paddedRank(targetRank);
  if (targets === undefined) {
    for (const [, { linear }] of all) ranks.set(linear, rank);
    return ranks;
  }
  for (const target of targets) {
    const found = all.filter(([name]) => name === target || name.endsWith(`.${target}`));
    if (found.length === 0) {
      throw badArgument(
        `no layer is called ${JSON.stringify(target)}; targets are such as "to_q", "ff.net.2" or "proj_mlp"`,
      );
    }
    for (const [, { linear }] of found) ranks.set(linear, rank);
  }
  return ranks;
}

/** The rank that adapters need together, of every linear that they change: of its part that needs most. */
export function jointRanks(adapters: readonly Adapter[]): Map<Linear, number> {
  const sums = new Map<Linear, number[]>();
  for (const adapter of adapters) {
    for (const [linear, parts] of ranksOf(adapter)) {
      const sum = sums.get(linear);
      sums.set(linear, sum === undefined ? parts : sum.map((rank, part) => rank + parts[part]!));
    }
  }
  return new Map([...sums].map(([linear, parts]) => [linear, Math.max(...parts)]));
}

/**
 * These adapters must fit into slots of fixed size together.
 * @throws FluxError `ERR_FLUX_BAD_ARGUMENT` that says by how much their ranks are too large, or which layers have no slot.
 */
export function requireRoom(slots: Slots, names: readonly string[], adapters: readonly Adapter[]): void {
  const ranks = jointRanks(adapters);
  const who = names.map((name) => JSON.stringify(name)).join(" and ");
  const without = [...ranks.keys()].filter((linear) => slots.rankOf(linear) === 0);
  if (without.length > 0) {
    const first = without.slice(0, 3).map((linear) => linear.names[0]);
    throw badArgument(
      `the targets of enableLoraHotswap leave out ${without.length} layers that ${who} would change, such as ` +
        `${first.join(", ")}; name them in targets, too, or leave targets out`,
    );
  }
  const overs = [...ranks].map(([linear, rank]) => ({ linear, rank, over: rank - slots.rankOf(linear) }));
  const worst = overs.reduce((a, b) => (b.over > a.over ? b : a), overs[0]!);
  if (overs.length === 0 || worst.over <= 0) return;
  const together = names.length === 1 ? "needs" : "together need";
  throw badArgument(
    `${who} ${together} rank ${worst.rank} in ${worst.linear.names[0]}, ${worst.over} more than the slot's ` +
      `${slots.rankOf(worst.linear)}; call enableLoraHotswap with a targetRank of ${Math.max(...ranks.values())} or more` +
      (names.length === 1 ? "" : ", or use fewer adapters at once"),
  );
}

/** The ranks of slots that hold what is wanted now and each of the adapters that are loaded; none shrinks. */
export function growingRanks(
  slots: Slots | undefined,
  wanted: readonly Adapter[],
  loaded: readonly Adapter[],
): { ranks: Map<Linear, number>; grew: boolean } {
  const needed = [wanted, ...loaded.map((adapter) => [adapter])].map(jointRanks);
  const ranks = new Map<Linear, number>();
  for (const linear of slots?.linears ?? []) ranks.set(linear, slots!.rankOf(linear));
  let grew = false;
  for (const [linear, rank] of needed.flatMap((joint) => [...joint])) {
    if (rank <= (ranks.get(linear) ?? 0)) continue;
    ranks.set(linear, paddedRank(rank));
    grew = true;
  }
  return { ranks, grew };
}
