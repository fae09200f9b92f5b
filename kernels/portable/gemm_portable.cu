// Arguments → checks → the portable kernel.
#include "portable/portable.h"

#include "portable/kernel.cuh"

namespace flux::kernels {
namespace portable {
namespace {

bool aligned(const void* data, int64_t row_stride, int64_t batch_stride, int element) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_stride * element % 16 == 0 &&
         batch_stride * element % 16 == 0;
}

Status refuse(const std::string& what) { return Status::bad_argument("gemm_portable: " + what); }

Status check_group(const Gemm& call, const GemmGroup& group) {
  const bool codes = call.operand == Element::kE4M3, qkv = call.epilogue == GemmEpilogue::kQkv;
  const int element = codes ? 1 : 2;
  const int output = call.output == Element::kF32 ? 4 : call.output == Element::kE4M3 ? 1 : 2;
  if (group.batches < 1 || group.rows < 1 || group.batches * group.rows > INT32_MAX)
    return refuse("a group has no rows or too many");
  if (group.a.data == nullptr || group.w == nullptr || group.c.data == nullptr)
    return refuse("a, w or c is null");
  if (!aligned(group.a.data, group.a.row_stride, group.a.batch_stride, element) ||
      !aligned(group.w, group.w_row_stride, 0, element) ||
      !aligned(group.c.data, group.c.row_stride, group.c.batch_stride, qkv ? 2 : output)) {
    return refuse("a, w, c and their strides must be multiples of 16 bytes");
  }
  if (group.a.row_stride < call.k || group.w_row_stride < call.k)
    return refuse("rows of a and w are at least K apart");
  if (codes && (group.a_scale == nullptr || group.w_scale == nullptr))
    return refuse("e4m3 operands need a_scale and w_scale");
  if (call.output == Element::kE4M3 && (group.c_scale == nullptr || group.bounds == nullptr))
    return refuse("output e4m3 needs c_scale and bounds");
  if (call.low_rank > 0) {
    if (group.low.data == nullptr || group.up == nullptr) return refuse("low or up is null");
    if (!aligned(group.low.data, group.low.row_stride, group.low.batch_stride, 2) ||
        !aligned(group.up, call.low_rank, 0, 2) || group.low.row_stride < call.low_parts * call.low_rank) {
      return refuse("low, up and their strides must be multiples of 16 bytes, and low's rows hold all parts");
    }
  }
  if (call.epilogue == GemmEpilogue::kGateResidual) {
    if (group.residual.data == nullptr) return refuse("residual is null");
    if (!aligned(group.residual.data, group.residual.row_stride, group.residual.batch_stride, 2)) {
      return refuse("the residual and its strides must be multiples of 16 bytes");
    }
  }
  if (qkv) {
    if (group.norm_q == nullptr || group.norm_k == nullptr || group.rope == nullptr)
      return refuse("q and k need norm_q, norm_k and rope");
    const bool mlp = call.n > 3 * call.heads * kTile;
    if (mlp && (group.mlp.data == nullptr ||
                !aligned(group.mlp.data, group.mlp.row_stride, group.mlp.batch_stride, 2))) {
      return refuse("mlp must be given, it and its strides multiples of 16 bytes");
    }
  }
  return {};
}

Status check_low_rank(const Gemm& call) {
  if (call.low_rank == 0) return {};
  if (call.low_rank < 16 || call.low_rank % 16 != 0 || call.low_rank > kGemmMaxLowRank ||
      call.low_parts < 1 || call.low_parts > kGemmMaxParts || call.low_begin[0] != 0) {
    return refuse("a low-rank branch has a multiple of 16 ranks and 1 to 4 parts from column 0 on");
  }
  for (int part = 1; part < call.low_parts; ++part) {
    const int64_t begin = call.low_begin[part];
    if (begin <= call.low_begin[part - 1] || begin >= call.n)
      return refuse("parts of a low-rank branch begin where those of W do");
    if (begin % kTile != 0)
      return Status::unsupported("gemm_portable: parts of a low-rank branch begin at multiples of 128");
  }
  return {};
}

Status check(const Gemm& call) {
  if (call.n < 16 || call.k < 16 || call.n % 16 || call.k % 16 || call.n > INT32_MAX / 4 ||
      call.k > INT32_MAX / 4) {
    return refuse("N = " + std::to_string(call.n) + " and K = " + std::to_string(call.k) +
                  " must be positive multiples of 16; pad the weight with zeros");
  }
  if (call.groups == nullptr || call.group_count < 1 || call.group_count > kGemmMaxGroups) {
    return refuse(std::to_string(call.group_count) + " groups; a launch takes 1 to " +
                  std::to_string(kGemmMaxGroups));
  }
  const bool codes = call.operand == Element::kE4M3, linear = call.epilogue == GemmEpilogue::kLinear;
  const bool to_f32 = call.output == Element::kF32, to_codes = call.output == Element::kE4M3;
  const bool known = (codes || call.operand == Element::kBF16) &&
                     (call.output == Element::kBF16 || (linear && (to_f32 || (to_codes && codes))));
  if (!known || (call.epilogue == GemmEpilogue::kQkv && call.heads_as != QkvHeads::kRows)) {
    return Status::unsupported(
        "gemm_portable: no kernel for this combination of operand, output and epilogue; see portable.h");
  }
  if (call.epilogue == GemmEpilogue::kQkv && (call.heads < 1 || 3 * call.heads * kTile > call.n)) {
    return refuse(std::to_string(call.heads) +
                  " heads of q, k and v do not fit in N = " + std::to_string(call.n));
  }
  if (Status status = check_low_rank(call); !status.ok()) return status;
  for (int i = 0; i < call.group_count; ++i) {
    if (Status status = check_group(call, call.groups[i]); !status.ok()) return status;
  }
  return {};
}

template <Products kProducts>
Status launch_products(const Gemm& call, const Params& params, int tiles, cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    return launch("gemm_portable", kernel, dim3(tiles), dim3(kThreads), kSharedBytes, stream, params);
  };
  switch (call.epilogue) {
    case GemmEpilogue::kGateResidual:
      return run(gemm_kernel<kProducts, GateResidual>);
    case GemmEpilogue::kQkv:
      return run(gemm_kernel<kProducts, Qkv>);
    default:
      return run(gemm_kernel<kProducts, Linear>);
  }
}

Status gemm_by(const Gemm& call, bool expanded, cudaStream_t stream) {
  if (Status status = check(call); !status.ok()) return status;
  const int architecture = device_architecture();
  if (architecture < 80) return Status::unsupported("gemm_portable needs compute capability 8.0 or newer");
  Params params{};
  params.column_blocks = int((call.n + kTile - 1) / kTile);
  params.n = int(call.n);
  params.k = int(call.k);
  params.output = call.output;
  params.activation = call.activation;
  params.heads = int(call.heads);
  params.low_rank = call.low_rank;
  params.low_parts = call.low_parts;
  for (int part = 0; part < kGemmMaxParts; ++part) params.low_begin[part] = call.low_begin[part];
  params.eps = call.eps;
  int64_t tiles = 0;
  for (int i = 0; i < call.group_count; ++i) {
    params.groups[i] = call.groups[i];
    params.row_blocks[i] = int((call.groups[i].rows + kTile - 1) / kTile);
    tiles += params.row_blocks[i] * call.groups[i].batches * params.column_blocks;
    if (tiles > INT32_MAX) return refuse("more than 2^31 tiles");
    params.tile_end[i] = int(tiles);
  }
  if (call.operand == Element::kBF16)
    return launch_products<Products::kBf16>(call, params, int(tiles), stream);
  if (expanded || architecture < 89)
    return launch_products<Products::kExpanded>(call, params, int(tiles), stream);
  return launch_products<Products::kE4m3>(call, params, int(tiles), stream);
}

}  // namespace
}  // namespace portable

Status gemm_portable(const Gemm& call, cudaStream_t stream) { return portable::gemm_by(call, false, stream); }

Status gemm_portable_expanded(const Gemm& call, cudaStream_t stream) {
  return portable::gemm_by(call, true, stream);
}

}  // namespace flux::kernels
