"""The work of `npm run bench -- image` through PyTorch, in the same run on the GPU as ours: the power limit decides both.

    python3 bench/peers/image.py [--only eager,compiled,fp8,fp8-tuned,encoders] [--shapes "dev 1024²,dev 512²"]
    python3 bench/peers/image.py --serve      answers commands, a line of JSON each, so that it measures in turn with us

Steps are FLUX.1's transformer at full size (flux.py) with cuDNN attention, as a CUDA graph, sustained: eager bf16, compiled blocks in
bf16, compiled blocks with per-row fp8 linears, and these with element-wise kernels searched for. Every shape is compiled for itself.
Encoders are transformers' T5-XXL (512 tokens) and CLIP-L in bf16 with random weights.
"""

import argparse
import json
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from flux import compiled_blocks, inputs, random_transformer

# image tokens, text tokens
SHAPES = {
    "dev 1024²": (4096, 512),
    "dev 512²": (1024, 512),
    "schnell 1024²": (4096, 256),
    "kontext 1024²": (8192, 512),
}
# precision, what it is called, the compiler's options where blocks are compiled
RECIPES = {
    "eager": ("bf16", "eager bf16, CUDA graph", None),
    "compiled": ("bf16", "compiled blocks bf16, CUDA graph", {}),
    "fp8": ("fp8", "compiled blocks, fp8 per row, CUDA graph", {}),
    # 13 s a shape, of which the search for these kernels takes 8
    "fp8-tuned": (
        "fp8",
        "compiled blocks, fp8 per row, element-wise kernels searched for, CUDA graph",
        {"max_autotune_pointwise": True},
    ),
}
WARM_MS, MEASURED_MS = 700, 1500


class Steps:
    """The model in each precision, and the graph of every recipe and shape that was asked for."""

    def __init__(self):
        self.models, self.graphs = {}, {}

    def model(self, precision):
        if precision not in self.models:
            self.models[precision] = random_transformer(precision)
        return self.models[precision]

    @torch.no_grad()
    def capture(self, recipe, shape):
        begun = time.monotonic()
        precision, _, options = RECIPES[recipe]
        model, given = self.model(precision), inputs(*SHAPES[shape])
        blocks = {} if options is None else compiled_blocks(options or None)
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(2):
                    model(*given, **blocks)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                model(*given, **blocks)
        self.graphs[recipe, shape] = graph, given
        torch.cuda.empty_cache()
        return {"seconds": round(time.monotonic() - begun, 1)}

    def time(self, recipe, shape):
        graph, _ = self.graphs[recipe, shape]
        precision, label, _ = RECIPES[recipe]
        ms = sustained_ms(graph.replay)
        return {"case": f"{shape} step", "peer": label, "precision": precision, "ms": round(ms, 3)}


def sustained_ms(call):
    """Milliseconds a call, after warming up."""
    once = timed_ms(call, 2)
    timed_ms(call, max(2, round(WARM_MS / once)))
    return timed_ms(call, max(5, round(MEASURED_MS / once)))


def timed_ms(call, times):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / times


@torch.no_grad()
def encoder_rows(name):
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    t5 = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    clip = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
    )
    build, tokens = {"T5, 512 tokens": (lambda: T5EncoderModel(t5), 512), "CLIP": (lambda: CLIPTextModel(clip), 77)}[name]
    with torch.device("cuda"):
        model = build().to(device="cuda", dtype=torch.bfloat16).eval().requires_grad_(False)
    ids = torch.randint(0, 30000, (1, tokens), device="cuda")
    rows = []
    for label in ("transformers bf16, eager", "transformers bf16, compiled"):
        if label.endswith("compiled"):
            model.forward = torch.compile(model.forward)
        timed_ms(lambda: model(ids), 3)
        rows.append({"case": name, "peer": label, "precision": "bf16", "ms": round(timed_ms(lambda: model(ids), 20), 3)})
    return rows


def serve(steps):
    actions = {"capture": steps.capture, "time": steps.time, "encoder": encoder_rows}
    for line in sys.stdin:
        action, *words = json.loads(line)
        try:
            answer = actions[action](*words)
        except Exception as error:  # one recipe that fails leaves the others
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="eager,compiled,fp8,fp8-tuned,encoders")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    steps = Steps()
    if arguments.serve:
        return serve(steps)
    for recipe in arguments.only.split(","):
        rows = []
        if recipe == "encoders":
            rows = [row for name in ("T5, 512 tokens", "CLIP") for row in encoder_rows(name)]
        else:
            for shape in arguments.shapes.split(","):
                steps.capture(recipe, shape)
                rows.append(steps.time(recipe, shape))
        for row in rows:
            print(row["case"], "|", row["peer"], "|", row["ms"], flush=True)


if __name__ == "__main__":
    main()
