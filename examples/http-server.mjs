// Pictures over HTTP: GET /?prompt=…&seed=… answers with a JPEG, GET /raw?prompt=… with the bytes of its pixels. A client
// that leaves stops its picture. Requests are served in the order in which they come.
//
//   node examples/http-server.mjs path/to/FLUX.1-schnell 8080
import { createServer } from "node:http";
import { FluxError, FluxPipeline } from "fluxwarp";

const [model = "models/tiny", port = "8080"] = process.argv.slice(2);
const pipe = await FluxPipeline.fromPretrained(model);

async function answer(request, response) {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  const prompt = searchParams.get("prompt");
  if (pathname !== "/" && pathname !== "/raw") return void response.writeHead(404).end();
  if (!prompt) return void response.writeHead(400).end("say what to draw: /?prompt=a+cat");
  const client = new AbortController();
  response.on("close", () => client.abort());
  const seed = searchParams.get("seed");
  const { images } = await pipe.generate({
    prompt,
    ...(seed && { seed: Number(seed) }),
    signal: client.signal,
  });
  const [{ width, height, data }] = images;
  if (pathname === "/raw") {
    // Row-major RGB, 3 bytes a pixel.
    response.setHeader("x-size", `${width}x${height}`);
    response.setHeader("content-type", "application/octet-stream").end(data);
  } else {
    response.setHeader("content-type", "image/jpeg").end(await images[0].toBuffer("jpeg"));
  }
}

const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    if (response.destroyed) return; // the client left
    const isTheirs = FluxError.is(error, "ERR_FLUX_BAD_ARGUMENT");
    response.writeHead(isTheirs ? 400 : 500, { "content-type": "text/plain" }).end(error.message);
  });
});
server.on("error", (error) => {
  console.error(error.message); // the port is taken, for example
  process.exit(1);
});
server.listen(Number(port), () => console.log(`http://localhost:${server.address().port}/?prompt=a+cat`));
process.once("SIGTERM", () => {
  server.close(() => pipe.dispose());
});
