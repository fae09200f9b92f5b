#!/usr/bin/env node
// Stands in for node-gyp under prebuildify: `rebuild --target=… --arch=… --release …` runs the CMake build. A Node-API addon
// is the same for every Node version, so the target plays no part; the architecture has to be this machine's.
import { buildNative } from "./build.mjs";

const parameters = process.argv.slice(2);
const arch = parameters.find((parameter) => parameter.startsWith("--arch="))?.slice("--arch=".length);
if (parameters[0] !== "rebuild")
  throw new Error(`node-gyp shim: only "rebuild" is known, not "${parameters[0]}"`);
if (parameters.includes("--debug")) throw new Error("node-gyp shim: prebuilds are release builds");
if (arch !== undefined && arch !== process.arch) {
  throw new Error(`node-gyp shim: cannot build for ${arch} on ${process.arch}`);
}
buildNative();
