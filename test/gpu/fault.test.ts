// A CUDA fault ends the process's context: every later call has to say so, and nothing may hang. A file of its own, since nothing
// after it in this process can use the GPU.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Device } from "../../dist/runtime/device.js";

test("after a fault the Device is lost: what was queued and what comes later fails and says so", {
  timeout: 60_000,
}, async () => {
  const device = Device.open("cuda:0");
  const sigmas = device.buffer("f32", [4]);
  const index = device.buffer("i32", [1]);
  const row = device.buffer("f32", [1024]);
  const plan = device.record("fault", (g) => g.eulerStep(row, row, sigmas, index));
  await index.write(Int32Array.of(0));
  await plan.run();
  await index.write(Int32Array.of(2 ** 31 - 2)); // 8 GiB behind the table
  const outcomes = await Promise.allSettled([plan.run(), plan.run(), row.read()]);
  assert.ok(outcomes.some(({ status }) => status === "rejected"));
  for (const outcome of outcomes) {
    if (outcome.status === "rejected") assert.equal(outcome.reason.code, "ERR_FLUX_CUDA");
  }
  const lost = { code: "ERR_FLUX_CUDA", message: /lost.*restart the process/ };
  await assert.rejects(row.read(), lost);
  await assert.rejects(row.write(new Float32Array(1024)), lost);
  await assert.rejects(plan.run(), lost);
  assert.throws(() => device.buffer("f32", [16]), lost);
  plan.dispose();
  for (const buffer of [sigmas, index, row]) buffer.dispose();
  device.dispose();
});
