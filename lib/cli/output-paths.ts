import { access } from "node:fs/promises";
import { extname } from "node:path";

const DEFAULT = "fluxwarp.png";

/** name.png for one image; name-1.png, name-2.png, … for several. */
export function outputPaths(output: string, count: number): string[] {
  if (count === 1) return [output];
  const [name, extension] = partsOf(output);
  return Array.from({ length: count }, (_, index) => `${name}-${index + 1}${extension}`);
}

/**
 * The same where no name was asked for: fluxwarp.png, or fluxwarp-2.png, … when that is there already. What was named is
 * overwritten; what was not is kept.
 */
export async function freeOutputPaths(count: number): Promise<string[]> {
  const [name, extension] = partsOf(DEFAULT);
  for (let number = 1; ; number++) {
    const paths = outputPaths(number === 1 ? DEFAULT : `${name}-${number}${extension}`, count);
    const found = await Promise.all(
      paths.map((path) =>
        access(path).then(
          () => true,
          () => false,
        ),
      ),
    );
    if (!found.includes(true)) return paths;
  }
}

function partsOf(output: string): [name: string, extension: string] {
  const extension = extname(output);
  return [output.slice(0, output.length - extension.length), extension];
}
