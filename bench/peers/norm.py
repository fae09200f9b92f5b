"""The norm, quantise and small-M work through PyTorch, eager and compiled, on the shapes of the kernels' benchmarks.

    python3 bench/peers/norm.py [--json FILE] [--filter TEXT]... [--eager]

Prints one row a case, of the faster of eager and torch.compile, as a tenth of a second of each shows: milliseconds sustained over at
least a second, buffers rotated beyond L2, replayed as a CUDA graph so that launches cost neither side anything. Linears are cuBLAS
either way and run eagerly alone. Compiling takes most of the time: --filter norm/, quantise/ and gemv/ in calls of their own where a
call must be short.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F

E4M3_MAX = 448.0
L2_BYTES = torch.cuda.get_device_properties(0).L2_cache_size


def quantise(x):
    scale = x.abs().amax(dim=-1, keepdim=True).float() / E4M3_MAX
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale


def modulate(x, shift, scale):
    return (F.layer_norm(x, (x.shape[-1],), eps=1e-6) * (1 + scale) + shift).to(x.dtype)


def modulate_quantise(x, shift, scale):
    return quantise(modulate(x, shift, scale))


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def group_norm_silu(x, weight, bias):
    return F.silu(F.group_norm(x, 32, weight, bias, 1e-6))


def gated(a, b):
    return F.gelu(a, approximate="tanh") * b


def linear(x, weight, bias):
    return F.linear(x, weight, bias)


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def image(side, channels):
    return normal(1, channels, side, side).to(memory_format=torch.channels_last)


def cases():
    """name, function, one set of operands, the bytes that the work needs at the least"""
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "f32")):
        yield (f"norm/layer_norm_modulate/1x4608x3072/{name}-to-e4m3", modulate_quantise,
               lambda d=dtype: (normal(4608, 3072), normal(3072).to(d), normal(3072).to(d)), 4608 * 3072 * 3)
    yield ("norm/layer_norm_modulate/1x4608x3072/f32-to-bf16", modulate,
           lambda: (normal(4608, 3072), normal(3072).float(), normal(3072).float()), 4608 * 3072 * 4)
    yield ("norm/rms_norm/1x512x4096/bf16-to-bf16", rms_norm, lambda: (normal(512, 4096), normal(4096)),
           512 * 4096 * 4)
    for width in (3072, 12288, 15360):
        yield f"quantise/rows/1x4608x{width}", quantise, lambda w=width: (normal(4608, w),), 4608 * width * 3
    for side, channels in ((512, 256), (1024, 128)):
        yield (f"group_norm/1x{side * side}x{channels}/32/silu", group_norm_silu,
               lambda s=side, c=channels: (image(s, c), normal(c), normal(c)), side * side * channels * 6)
    for m in (1, 28, 64):
        yield (f"gemv/{m}x18432x3072/bf16-to-bf16", linear,
               lambda m=m: (normal(m, 3072), normal(18432, 3072), normal(18432)), 18432 * 3072 * 2)
    yield "elementwise/multiply/gelu/512x10240", gated, lambda: (normal(512, 10240), normal(512, 10240)), 512 * 10240 * 6


def sustained_ms(function, sets, milliseconds):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for operands in sets[:2] * 2:
            function(*operands)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for operands in sets:
                function(*operands)
        graph.replay()
        stream.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        stream.synchronize()
        replays = max(3, int(milliseconds / begin.elapsed_time(end)) + 1)
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
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    torch.manual_seed(1)
    rows = []
    for name, function, make, needed in cases():
        if arguments.filter and not any(part in name for part in arguments.filter):
            continue
        begin = time.time()
        sets = [make() for _ in range(min(64, max(2, 4 * L2_BYTES // needed + 1)))]
        ways = {"torch eager": function}
        if not arguments.eager and function is not linear:
            torch._dynamo.reset()
            ways["torch.compile"] = torch.compile(function, dynamic=False)
        quick = {way: sustained_ms(run, sets, 100) for way, run in ways.items()}
        best = min(quick, key=quick.get)
        ms = sustained_ms(ways[best], sets, 1000)
        row = {"case": name, "peer": best, "ms": ms, "gbPerSecond": needed / ms / 1e6, "quick": quick,
               "seconds": round(time.time() - begin, 1)}
        rows.append(row)
        print(row, flush=True)
        del sets
        torch.cuda.empty_cache()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"bench": "norm-peers", "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}, file,
                      indent=2)


if __name__ == "__main__":
    main()
