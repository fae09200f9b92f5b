"""The GEMM benchmarks' work through PyTorch: torch._scaled_mm per row with fast accumulation, and torch.matmul.

    python3 bench/peers/gemm.py [--seconds S] [--filter CASE]… [--json FILE]

Prints one row a case with the name that flux_kernel_tests --bench --filter gemm gives its own: TFLOP/s sustained over S
seconds (1 unless given), buffers rotated beyond L2, replayed as a CUDA graph. Run it in the same run on the GPU as the
kernels' benchmark, since the power limit decides both.
"""

import argparse
import json

import torch

FLUX_SHAPES = [(9216, 3072), (12288, 3072), (3072, 12288), (21504, 3072), (3072, 15360), (3072, 3072)]
L2_BYTES = torch.cuda.get_device_properties(0).L2_cache_size


def quantise(x):
    scale = x.float().abs().amax(dim=-1, keepdim=True) / 448.0
    return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def fp8_case(m, n, k):
    a, a_scale = quantise(torch.randn(m, k, device="cuda"))
    w, w_scale = quantise(torch.randn(n, k, device="cuda") * 0.02)
    bias = torch.randn(n, device="cuda", dtype=torch.bfloat16)
    return lambda: torch._scaled_mm(
        a, w.t(), scale_a=a_scale, scale_b=w_scale.t(), bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def bf16_case(m, n, k):
    a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02
    out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    return lambda: torch.matmul(a, w.t(), out=out)


def sustained_ms(calls, seconds):
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def replay(times):
        begin.record()
        for _ in range(times):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / times / len(calls)

    once = replay(3)
    return replay(max(3, int(seconds * 1e3 / once / len(calls))))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json")
    parser.add_argument("--filter", action="append", default=[], help="only cases whose name holds one of these")
    options = parser.parse_args()
    rows = []
    for family, case, bytes_per_element in (("fp8", fp8_case, 1), ("bf16", bf16_case, 2)):
        for m in (4608, 4352, 8704):
            for n, k in FLUX_SHAPES:
                name = f"gemm/{family}/bias/{m}x{n}x{k}"
                if options.filter and not any(part in name for part in options.filter):
                    continue
                size = (m + n) * k * bytes_per_element + 2 * m * n
                calls = [case(m, n, k) for _ in range(max(2, 4 * L2_BYTES // size + 1))]
                ms = sustained_ms(calls, options.seconds)
                row = {"case": name, "ms": ms, "value": 2 * m * n * k / ms / 1e9}
                print(f"{row['case']:36s} {ms:8.4f} ms {row['value']:7.0f} TFLOP/s", flush=True)
                rows.append({**row, "unit": "TFLOP/s"})
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
