// The digest that ties a GPU test report to the sources that it was made with. Prints it when run.
import { fileURLToPath } from "node:url";
import { digestFiles } from "./native/digest.mjs";

/** SHA-256 (hex) over the files of kernels/, csrc/ and lib/. */
export function sourcesDigest() {
  return digestFiles(fileURLToPath(new URL("..", import.meta.url)), ["kernels", "csrc", "lib"]);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(sourcesDigest());
