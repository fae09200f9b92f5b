"""Attention through PyTorch on the shapes of the kernels' benchmarks: every backend of scaled_dot_product_attention that takes the
shape, and for the VAE's head of 512, which only slow ones take, matmul, softmax, matmul.

    python3 bench/peers/attention.py [--json FILE]

Prints one row a case and backend: milliseconds sustained over at least a second, buffers rotated beyond L2, replayed as a CUDA
graph. The names are those of flux_kernel_tests --bench --filter attention/bf16.
"""

import argparse
import json
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

L2_BYTES = torch.cuda.get_device_properties(0).L2_cache_size
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def heads_first(tokens, heads, head_dim):
    return torch.randn(1, tokens, heads, head_dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)


def cases():
    """name, tokens, heads, head_dim, keyword arguments of scaled_dot_product_attention"""
    for tokens in (4352, 4608, 8704):
        yield str(tokens), tokens, 24, 128, {}
    bias = torch.randn(1, 64, 512, 512, device="cuda", dtype=torch.bfloat16)
    yield "t5", 512, 64, 64, {"attn_mask": bias, "scale": 1.0}
    yield "clip", 77, 12, 64, {"is_causal": True}
    yield "vae", 16384, 1, 512, {}


def through_matmul(q, k, v):
    scores = torch.baddbmm(torch.empty((), device=q.device, dtype=q.dtype).expand(q.shape[1], q.shape[2], k.shape[2]), q[0],
                           k[0].transpose(-1, -2), beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(torch.softmax(scores, -1), v[0])


def sustained_ms(function, sets):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for operands in sets[:2] * 2:
            function(*operands)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for operands in sets:
                function(*operands)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        stream.synchronize()
        replays = max(3, int(500 / begin.elapsed_time(end)) + 1)
        for _ in range(replays):
            graph.replay()
        begin.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        stream.synchronize()
    return begin.elapsed_time(end) / replays / len(sets)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--filter", action="append", default=[], help="only cases whose name holds one of these")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(1)
    rows = []
    for name, tokens, heads, head_dim, keywords in cases():
        if arguments.filter and not any(part in f"attention/bf16/{name}" for part in arguments.filter):
            continue
        elements = tokens * heads * head_dim
        sets = [tuple(heads_first(tokens, heads, head_dim) for _ in range(3))
                for _ in range(min(32, max(2, 4 * L2_BYTES // (8 * elements) + 1)))]
        functions = {}
        for backend, value in BACKENDS.items():
            def attend(q, k, v, value=value):
                with sdpa_kernel(value):
                    return F.scaled_dot_product_attention(q, k, v, **keywords)
            functions[backend] = attend
        if head_dim > 256:
            functions["matmul"] = through_matmul
        for backend, function in functions.items():
            try:
                ms = sustained_ms(function, sets)
            except RuntimeError as error:
                print({"case": f"attention/bf16/{name}", "backend": backend, "refused": str(error)[:60]}, flush=True)
                torch.cuda.synchronize()
                continue
            row = {"case": f"attention/bf16/{name}", "backend": backend, "ms": ms,
                   "tflops": 4 * heads * tokens**2 * head_dim / ms / 1e9}
            rows.append(row)
            print(row, flush=True)
        del sets
        torch.cuda.empty_cache()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"bench": "attention-peers", "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows},
                      file, indent=2)


if __name__ == "__main__":
    main()
