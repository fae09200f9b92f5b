"""The work of `npm run bench -- image` through PyTorch, in the same session of the GPU as ours: the power limit decides both.

    python3 bench/peers/image.py [--only eager,compiled,fp8,encoders] [--json FILE]

Steps are FLUX.1's transformer at full size (flux.py) with cuDNN attention, captured as a CUDA graph, sustained over 56 steps:
eager bf16 and compiled blocks in bf16 (1024² only), compiled blocks with per-row fp8 linears. Encoders are transformers' T5-XXL (512 tokens) and
CLIP-L in bf16 with random weights, as a CUDA graph.
"""

import argparse
import json

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from flux import inputs, random_transformer

# case, image tokens, text tokens
SIZES = [("dev 1024²", 4096, 512), ("dev 512²", 1024, 512), ("schnell 1024²", 4096, 256), ("kontext 1024²", 8192, 512)]
RECIPES = {
    "eager": ("bf16", "eager bf16, CUDA graph", False),
    "compiled": ("bf16", "compiled blocks bf16, CUDA graph", True),
    "fp8": ("fp8", "compiled blocks, fp8 per row, CUDA graph", True),
}


def sustained_ms(call, times):
    """Milliseconds a call, replayed as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(max(2, times // 4)):
        graph.replay()
    begin.record()
    for _ in range(times):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / times


def step_rows(recipe):
    precision, label, compiled = RECIPES[recipe]
    model = random_transformer(precision)
    if compiled:
        model.compile_blocks()
    for case, image_tokens, text_tokens in SIZES if precision == "fp8" else SIZES[:1]:
        given = inputs(image_tokens, text_tokens)
        ms = sustained_ms(lambda: model(*given), 56 if image_tokens == 4096 else 40)
        yield {"case": f"{case} step", "peer": label, "precision": precision, "ms": round(ms, 3)}


def encoder_rows():
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    shared = {"device": "cuda", "dtype": torch.bfloat16}
    t5 = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    clip = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
    )
    for case, build, tokens in [("T5, 512 tokens", lambda: T5EncoderModel(t5), 512), ("CLIP", lambda: CLIPTextModel(clip), 77)]:
        with torch.device("cuda"):
            model = build().to(**shared).eval().requires_grad_(False)
        ids = torch.randint(0, 30000, (1, tokens), device="cuda")
        yield {"case": case, "peer": "transformers bf16, eager", "precision": "bf16", "ms": round(eager_ms(lambda: model(ids)), 3)}
        model.forward = torch.compile(model.forward)
        yield {"case": case, "peer": "transformers bf16, compiled", "precision": "bf16", "ms": round(eager_ms(lambda: model(ids)), 3)}


def eager_ms(call, times=20):
    for _ in range(3):
        call()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / times


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="eager,compiled,fp8,encoders")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    rows = []
    with torch.no_grad(), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        for name in arguments.only.split(","):
            if name == "encoders":
                continue
            for row in step_rows(name):
                rows.append(row)
                print(row["case"], "|", row["peer"], "|", row["ms"], flush=True)
            torch.cuda.empty_cache()
    if "encoders" in arguments.only:
        with torch.no_grad():
            for row in encoder_rows():
                rows.append(row)
                print(row["case"], "|", row["peer"], "|", row["ms"], flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file)


if __name__ == "__main__":
    main()
