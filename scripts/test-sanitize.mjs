// npm run test:sanitize: the tests of the native code (test/native, test/runtime, test/nn), with the addon built with
// AddressSanitizer and UndefinedBehaviorSanitizer; once for each instruction set that this processor has.
//
// Node is not built with the sanitizers, so their runtime is preloaded. Leaks are looked for at the end of each process; Node
// itself leaves memory to the system at exit, so only leaks with our code among their callers count. vitest runs the tests in
// threads: it ends the processes of its other pool by a signal, before they can look for leaks.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { main, ready, root, run } from "./ready.mjs";

const folders = ["test/native", "test/runtime", "test/nn"];
const logs = join(root, "build/sanitize/logs");

/** The runtime libraries of the compiler that built the addon. libstdc++ goes along: ASan wraps its throw. */
function preload() {
  const compiler = process.env.CXX || "c++";
  return ["libasan.so", "libstdc++.so.6"].map((name) => {
    const path = spawnSync(compiler, [`-print-file-name=${name}`], { encoding: "utf8" }).stdout?.trim();
    if (!path || !existsSync(path))
      throw new Error(`${compiler} has no ${name}: install its sanitizer runtime`);
    return path;
  });
}

function variants() {
  const flags = existsSync("/proc/cpuinfo") ? readFileSync("/proc/cpuinfo", "utf8") : "";
  return [
    "baseline",
    ...(/\bavx2\b/.test(flags) ? ["avx2"] : []),
    ...(/\bavx512bw\b/.test(flags) ? ["avx512"] : []),
  ];
}

const ours = /fluxwarp\.node|flux_cpu_tests|\/csrc\/|\/test\/native\//;
// A promise that is pending when its worker is terminated: Node-API frees one by settling it, which nobody can do any more.
const abandoned = /#1 .* in napi_create_promise/;

/** Memory that our code asked for, itself or through Node-API. What V8 took for itself on the way is V8's. */
function isOurLeak(block) {
  const frames = block.split("\n").slice(1);
  const first = frames.findIndex((frame) => ours.test(frame));
  return (
    first >= 0 &&
    !frames.slice(0, first).some((frame) => frame.includes(" in v8::")) &&
    !abandoned.test(block)
  );
}

/** Blocks of the sanitizers' logs that are our fault. */
function findings() {
  return readdirSync(logs)
    .flatMap((name) =>
      readFileSync(join(logs, name), "utf8").split(/\n(?=(?:Direct|Indirect) leak of)|\n\n+/),
    )
    .filter((block) =>
      /^(Direct|Indirect) leak of/.test(block)
        ? isOurLeak(block)
        : /ERROR: AddressSanitizer|runtime error:/.test(block),
    );
}

await main(async () => {
  await ready({ native: false });
  const { buildNative } = await import("./native/build.mjs");
  const addon = buildNative({ sanitize: true });
  const tests = folders.filter((folder) => existsSync(join(root, folder)));
  let status = 0;
  for (const variant of variants()) {
    console.error(`sanitizers: ${tests.join(", ")} with FLUX_SIMD=${variant}`);
    rmSync(logs, { recursive: true, force: true });
    mkdirSync(logs, { recursive: true });
    const options = process.argv.slice(2).map((option) => option.replaceAll("{simd}", variant));
    const vitest = ["node_modules/vitest/vitest.mjs", "run", "--pool=threads", ...tests, ...options];
    const tested = run(process.execPath, vitest, {
      FLUX_SIMD: variant,
      FLUXWARP_PREBUILD: join(dirname(addon), "../.."),
      FLUX_NATIVE_BUILD: join(root, "build/sanitize"),
      LD_PRELOAD: preload().join(":"),
      // Logs keep the findings of a worker whose output vitest swallows; leaks are judged below, not by the exit status.
      ASAN_OPTIONS: `log_path=${logs}/log:detect_leaks=1:detect_stack_use_after_return=0:allocator_may_return_null=1`,
      LSAN_OPTIONS: "exitcode=0",
      UBSAN_OPTIONS: `print_stacktrace=1:log_path=${logs}/log`,
    });
    const found = findings();
    for (const block of found) console.error(`\n${block}`);
    if (tested !== 0 || found.length > 0) status = 1;
    console.error(
      `sanitizers (${variant}): tests ${tested === 0 ? "passed" : "FAILED"}, ${found.length} findings in the logs`,
    );
  }
  return status;
});
