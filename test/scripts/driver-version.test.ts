import { expect, it } from "vitest";

type Read = () => string;
const file = new URL("../../scripts/driver-version.mjs", import.meta.url).href;
const { driverVersion }: { driverVersion: (from: { moduleText: Read; smiText: Read }) => string | null } =
  await import(file);

// /proc/driver/nvidia/version of the two kinds of kernel module, as NVIDIA's README and the open module's source print it.
const PROPRIETARY = `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
`;
const OPEN = `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U22)
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)
`;

const refuse: Read = () => {
  throw new Error("the kernel module has said it already");
};

it("reads the kernel module's number", () => {
  expect(driverVersion({ moduleText: () => PROPRIETARY, smiText: refuse })).toBe("535.183.01");
  expect(driverVersion({ moduleText: () => OPEN, smiText: refuse })).toBe("580.159.04");
});

it("asks nvidia-smi where the module says nothing, once for several GPUs", () => {
  expect(driverVersion({ moduleText: () => "", smiText: () => "580.159.04\n580.159.04\n" })).toBe(
    "580.159.04",
  );
  expect(driverVersion({ moduleText: () => "", smiText: () => "591.44\n" })).toBe("591.44");
});

it("is null without a driver", () => {
  expect(driverVersion({ moduleText: () => "", smiText: () => "" })).toBeNull();
});
