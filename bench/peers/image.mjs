// bench/peers/image.py as a process that is told what to measure, so that it measures right after we do.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** A graph is compiled in well under this; a peer that hangs must not hold the benchmark. */
const PATIENCE_MS = 120_000;

/** Starts it; it answers in order. */
export function startPeers() {
  const script = fileURLToPath(new URL("image.py", import.meta.url));
  const child = spawn("python3", [script, "--serve"], { stdio: ["pipe", "pipe", "inherit"] });
  const waiting = [];
  const give = (answer) => waiting.shift()?.(answer);
  let ended = false;
  const end = (reason) => {
    if (!ended && reason) console.error(`bench/peers/image.py ${reason}: its rows have no peers`);
    ended = true;
    while (waiting.length > 0) give(undefined);
  };
  child.on("error", () => end("did not start (it needs python3 with PyTorch)"));
  child.on("exit", (code) => end(`ended with ${code}`));
  child.stdin.on("error", () => {});
  createInterface({ input: child.stdout }).on("line", (line) => {
    if (line.startsWith("{") || line.startsWith("[")) give(JSON.parse(line));
    else console.error(line);
  });
  let before = Promise.resolve();
  const askNow = async (words) => {
    if (ended) return undefined;
    const answer = new Promise((resolve) => waiting.push(resolve));
    const timer = setTimeout(() => {
      end(`has not answered to ${words.join(" ")}`);
      child.kill();
    }, PATIENCE_MS);
    child.stdin.write(`${JSON.stringify(words)}\n`);
    const said = await answer;
    clearTimeout(timer);
    if (said?.error === undefined) return said;
    console.error(`bench/peers/image.py, ${words.join(" ")}: ${said.error}`);
    return undefined;
  };
  return {
    /** @returns what it answers; undefined when it failed at that, has ended, or takes too long. */
    ask(...words) {
      const answer = before.then(() => askNow(words));
      before = answer;
      return answer;
    },
    end() {
      end();
      child.kill();
    },
  };
}
