// Kernels alone, without Node: flux_kernel_tests --bench, each case sustained over a second with a check of its result, beside the same work through
// PyTorch in the same run (bench/peers).
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../scripts/ready.mjs";

const EXECUTABLE = process.env.FLUX_KERNEL_TESTS ?? "build/kernel-tests/test/kernels/flux_kernel_tests";

/** What a peer's row says in our unit, and what it is called. */
const PEERS = {
  gemm: (row) => ({ name: row.case.includes("fp8") ? "torch._scaled_mm" : "torch.matmul", value: row.value }),
  attention: (row) => ({ name: `SDPA ${row.backend}`, value: row.tflops }),
  norm: (row) => ({ name: row.peer, value: row.gbPerSecond }),
};
/** Cases of a benchmark by parts of their names, in runs of ours and then the peer's, so that both meet the same clocks and heat. */
const RUNS = {
  gemm: [
    [
      "gemm/fp8/bias/4608x",
      "gemm/fp8/gelu/4608x",
      "gemm/fp8/gate_residual/4608x",
      "gemm/fp8/qkv/4608x",
      "gemm/fp8/qkv_packed/int8/4608x",
      "gemm/fp8/qkv_packed/int8_codes/4608x",
      "gemm/fp8/gelu/4096+512x",
      "gemm/fp8/gate_residual/4096+512x",
      "gemm/fp8/qkv_packed/int8/4096+512x",
    ],
    ["gemm/fp8/bias/4352x"],
    [
      "gemm/fp8/bias/8704x",
      "gemm/fp8/qkv_packed/int8/8704x",
      "gemm/fp8/qkv_packed/int8_codes/8704x",
      "gemm/fp8/qkv_packed/int8/8192+512x",
    ],
    ["gemm/bf16/bias/4608x", "gemm/bf16/gelu/4608x", "gemm/bf16/gate_residual/4608x", "gemm/bf16/qkv/4608x"],
  ],
  attention: [["attention/"]],
  // Those that have a target, in a minute with their peers.
  norm: [
    [
      "layer_norm_modulate/1x4608x3072",
      "layer_norm_modulate/1x8704x3072",
      "quantise/rows/1x4608x3072",
      "group_norm/1x262144x256",
      "gemv/1x18432",
      "gemv/28x18432",
    ],
  ],
};

/**
 * Rows of ours as soon as they are measured, then again with the peer's figures: what ends the run in between leaves the first.
 * @param {keyof typeof PEERS} family
 * @param {{ filter?: string[], peers?: string[] }} [options] other parts of names: fewer cases. No peers where `peers` is empty
 */
export function* kernelRows(family, { filter, peers: names } = {}) {
  const executable = join(root, EXECUTABLE);
  if (!existsSync(executable)) {
    throw new Error(`${EXECUTABLE} is not there: npm run test:gpu builds it, on a machine with a GPU`);
  }
  const cases = (parts) => parts.flatMap((part) => ["--filter", part]);
  const peers = join(root, `bench/peers/${family}.py`);
  const runs = filter ? [filter] : RUNS[family];
  for (const parts of runs) {
    const ours = runTo("ours.json", executable, ["--bench", ...cases(parts)]).rows;
    for (const row of ours) yield besideBias(row, ours);
    if (names?.length === 0) continue;
    const theirs = runTo("peers.json", "python3", [peers, ...cases(parts)]);
    for (const row of ours) {
      const sameCase = (theirs.rows ?? theirs).filter((peer) => peer.case === row.case);
      if (sameCase.length > 0) yield withPeer(row, sameCase, PEERS[family]);
    }
  }
}

/** A product's epilogue beside the same product that adds a bias alone, in one group, where this run measured both. */
function besideBias(row, ours) {
  const [, operand, rows, shape] = /^gemm\/(\w+)\/(?!bias\/).*\/([\d+]+)(x\d+x\d+)$/.exec(row.case) ?? [];
  const m = rows?.split("+").reduce((sum, part) => sum + Number(part), 0);
  const bias = ours.find((other) => other.case === `gemm/${operand}/bias/${m}${shape}`);
  const name = `the same with a bias alone${rows?.includes("+") ? ", not grouped" : ""}`;
  return bias === undefined ? row : withPeer(row, [bias], ({ value }) => ({ name, value }));
}

/** The best of the peers; rates, so more is better. */
function withPeer(row, peers, read) {
  const [best] = peers.map(read).toSorted((a, b) => b.value - a.value);
  const rounded = (value) => Number(value.toPrecision(4));
  return { ...row, peer: best.name, peerValue: rounded(best.value), ratio: rounded(row.value / best.value) };
}

/** What a program writes where --json says. */
function runTo(name, command, parameters) {
  const file = join(mkdtempSync(join(tmpdir(), "fluxwarp-bench-")), name);
  const { status } = spawnSync(command, [...parameters, "--json", file], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (status === 0) return JSON.parse(readFileSync(file, "utf8"));
  if (name === "ours.json")
    throw new Error(`${command} found a wrong result or did not run (status ${status})`);
  console.error(`${parameters[0]} did not run (it needs python3 with PyTorch): no peers in these rows`);
  return { rows: [] };
}
