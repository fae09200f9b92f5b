// npm run test:gpu: on a machine with a GPU, the kernels' own tests (test/kernels), the short ones once more under
// compute-sanitizer where it is installed, then the CUDA backend through Node (test/gpu); what they said goes to
// test/gpu/report.json. CI has no GPU: it checks that report against the sources (scripts/check-gpu-report.mjs).
//
//   npm run test:gpu                              builds what is out of date first
//   node scripts/test-gpu.mjs --built             runs what lies in build/ and dist/, needs no npm packages but those at run time
//   … --sanitize conv/ --sanitize norm            all such cases under compute-sanitizer in place of the short ones
//   node scripts/test-gpu.mjs --pending "reason"  no run: says why one has to wait
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { driverVersion } from "./driver-version.mjs";
import { memcheckCases } from "./memcheck-cases.mjs";
import { sourcesDigest } from "./sources-digest.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const reportFile = join(root, "test/gpu/report.json");
const { values: options } = parseArgs({
  options: {
    built: { type: "boolean", default: false },
    pending: { type: "string" },
    sanitize: { type: "string", multiple: true, default: [] },
    kernels: {
      type: "string",
      default: process.env.FLUX_KERNEL_TESTS ?? "build/kernel-tests/test/kernels/flux_kernel_tests",
    },
  },
});

if (options.pending !== undefined) {
  writeReport({ sources: sourcesDigest(), pending: options.pending });
} else {
  if (!options.built) await build();
  const kernels = kernelTests();
  const suites = [kernels.suite, sanitizedKernelTests(kernels.tests), ...nodeTests()];
  const total = (key) => suites.reduce((sum, suite) => sum + suite[key], 0);
  const { deviceInfo } = await import("../dist/index.js");
  const { cuda } = deviceInfo();
  writeReport({
    sources: sourcesDigest(),
    pending: "",
    device: cuda.devices[0]?.name ?? "none",
    driver: driverVersion(),
    date: new Date().toISOString().slice(0, 10),
    passed: total("passed"),
    failed: total("failed"),
    skipped: total("skipped"),
    suites,
  });
  process.exitCode = total("failed") === 0 ? 0 : 1;
}

/** The addon with CUDA, dist/, the kernels' tests, and test/gpu as JavaScript. */
async function build() {
  const { ready } = await import("./ready.mjs");
  await ready();
  const steps = [
    ["npx", ["tsc", "-p", "tsconfig.gpu.json"]],
    ["cmake", ["-S", ".", "-B", "build/kernel-tests", "-DFLUX_CUDA=ON", "-DFLUX_KERNEL_TESTS=ON"]],
    ["cmake", ["--build", "build/kernel-tests", "--target", "flux_kernel_tests", "--parallel", "2"]],
  ];
  for (const [command, parameters] of steps) {
    const { status } = spawnSync(command, parameters, { cwd: root, stdio: "inherit" });
    if (status !== 0) throw new Error(`${command} ${parameters.join(" ")} failed`);
  }
}

function kernelTests() {
  const { tests } = runKernels(join(root, options.kernels), []);
  return { tests, suite: kernelSuite("kernels", tests) };
}

/**
 * Again under memcheck: `--sanitize`, else what is short of all families. An invalid access ends the program with a status of its
 * own.
 */
function sanitizedKernelTests(tests) {
  const name = "kernels, compute-sanitizer memcheck";
  if (spawnSync("compute-sanitizer", ["--version"]).error)
    return { name, passed: 0, failed: 0, skipped: 1, failures: [] };
  const chosen =
    options.sanitize.length > 0
      ? options.sanitize.flatMap((part) => ["--filter", part])
      : memcheckCases(tests).flatMap((test) => ["--only", test]);
  const tool = ["--tool", "memcheck", "--error-exitcode", "9", join(root, options.kernels)];
  const sanitized = runKernels("compute-sanitizer", [...tool, ...chosen]);
  const suite = kernelSuite([name, ...options.sanitize].join(" "), sanitized.tests);
  if (sanitized.status !== 0 && suite.failed === 0) {
    suite.failed += 1;
    suite.failures.push(`exit status ${sanitized.status}`);
  }
  return suite;
}

function runKernels(command, parameters) {
  const json = join(mkdtempSync(join(tmpdir(), "fluxwarp-gpu-")), "kernels.json");
  const golden = join(root, "test/golden/cases");
  const all = [...parameters, "--tests", "--quick", "--golden", golden, "--json", json];
  const { status } = spawnSync(command, all, { stdio: "inherit" });
  const { tests } = existsSync(json) ? JSON.parse(readFileSync(json, "utf8")) : { tests: [] };
  return { status, tests };
}

function kernelSuite(name, tests) {
  if (tests.length === 0)
    return { name, passed: 0, failed: 1, skipped: 0, failures: ["no report: did they start?"] };
  const failures = tests.filter((test) => !test.passed).map((test) => `${test.name}: ${test.failures[0]}`);
  return { name, passed: tests.length - failures.length, failed: failures.length, skipped: 0, failures };
}

function nodeTests() {
  const folder = join(root, "build/gpu-tests");
  const files = readdirSync(folder).filter((file) => file.endsWith(".test.js"));
  return files.map((file) => {
    const parameters = ["--test", "--test-reporter=tap", join(folder, file)];
    const { stdout } = spawnSync(process.execPath, parameters, {
      cwd: root,
      encoding: "utf8",
      maxBuffer: 2 ** 26,
    });
    console.log(stdout);
    const count = (key) => Number(new RegExp(`^# ${key} (\\d+)`, "m").exec(stdout)?.[1] ?? 0);
    const failures = [...stdout.matchAll(/^not ok \d+ - (.*)$/gm)].map((match) => match[1]);
    const failed = count("fail") + count("cancelled");
    return {
      name: file.replace(".test.js", ""),
      passed: count("pass"),
      failed,
      skipped: count("skipped"),
      failures,
    };
  });
}

function writeReport(report) {
  writeFileSync(reportFile, `${JSON.stringify(report, null, 2)}\n`);
  console.log(
    `${reportFile}: ${report.pending || `${report.passed} passed, ${report.failed} failed, ${report.skipped} skipped`}`,
  );
}
