// npm start: brings the clone to readiness, then makes an image. Options after -- go to `fluxwarp generate`.
import { findModel } from "./find-model.mjs";
import { main, ready, run } from "./ready.mjs";

await main(async () => {
  const options = process.argv.slice(2);
  const given = (...names) =>
    options.some((option) => names.some((name) => option === name || option.startsWith(`${name}=`)));
  const added = given("--prompt", "-p") ? [] : ["--prompt", "a red circle above a blue square"];
  if (!given("--model", "-m", "--help", "-h")) {
    const model = findModel();
    if (model === undefined) {
      throw new Error("there is no model in models/: name a FLUX.1 folder with npm start -- --model PATH");
    }
    added.push("--model", model);
  }
  await ready();
  return run(process.execPath, ["dist/cli/main.js", "generate", ...added, ...options]);
});
