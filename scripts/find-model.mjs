// The model to use when none is named: the first folder of models/ that holds one, else the small test model of a sibling
// folder shared/.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** @returns {string | undefined} path of a folder with a model_index.json */
export function findModel() {
  const models = join(root, "models");
  const shipped = existsSync(models) ? readdirSync(models).sort() : [];
  const folders = [...shipped.map((name) => join(models, name)), join(root, "../shared/golden/tiny-flux")];
  return folders.find((folder) => existsSync(join(folder, "model_index.json")));
}
