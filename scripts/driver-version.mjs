// The NVIDIA driver's own number, such as 580.159.04: what the kernel module says of itself, else what nvidia-smi says.
// (The addon's `cudaInfo().driver` is the newest CUDA version that the driver supports.)
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

const NUMBER = /\b\d+\.\d+(?:\.\d+)?\b/;

/** @returns {string | null} null where there is no driver */
export function driverVersion({ moduleText = readModuleText, smiText = askSmi } = {}) {
  const [module] = /^NVRM version:.*$/m.exec(moduleText()) ?? [""];
  return (NUMBER.exec(module) ?? NUMBER.exec(smiText()))?.[0] ?? null;
}

function readModuleText() {
  try {
    return readFileSync("/proc/driver/nvidia/version", "utf8");
  } catch {
    return "";
  }
}

function askSmi() {
  const parameters = ["--query-gpu=driver_version", "--format=csv,noheader"];
  const { status, stdout } = spawnSync("nvidia-smi", parameters, { encoding: "utf8", timeout: 10_000 });
  return status === 0 ? stdout : "";
}
