// Arguments → checks → tile → tensor maps → launch.
#include "gemm/gemm.h"

#include <algorithm>
#include <cstdint>

#include "gemm/params.h"
#include "gemm/tile_choice.h"
#include "tensor_map.h"

namespace flux::kernels {
namespace gemm {
namespace {

int64_t bytes_of(Element element) {
  switch (element) {
    case Element::kF32:
    case Element::kI32:
      return 4;
    case Element::kBF16:
    case Element::kF16:
      return 2;
    case Element::kE4M3:
    case Element::kU8:
      return 1;
  }
  return 1;
}

Status bad(int group, const std::string& what) {
  return Status::bad_argument("gemm group " + std::to_string(group) + ": " + what);
}

// `width` elements a row must fit between one row and the next, and TMA wants multiples of 16 bytes.
Status check_matrix(int group, const char* name, const GemmRows<const void>& matrix, Element element,
                    int64_t width, int64_t batches) {
  const int64_t bytes = bytes_of(element);
  const auto misaligned = [&](int64_t stride) { return stride * bytes % 16 != 0; };
  if (matrix.data == nullptr) return bad(group, std::string(name) + " is null");
  if (reinterpret_cast<uintptr_t>(matrix.data) % 16 != 0)
    return bad(group, std::string(name) + " is not 16-byte aligned");
  if (matrix.row_stride < width || matrix.row_stride > INT32_MAX / 64 || misaligned(matrix.row_stride) ||
      (batches > 1 && (matrix.batch_stride < 0 || misaligned(matrix.batch_stride)))) {
    return bad(group, std::string(name) + " has strides " + std::to_string(matrix.row_stride) + ", " +
                          std::to_string(matrix.batch_stride) + "; a row needs " + std::to_string(width) +
                          " elements, and strides multiples of " + std::to_string(16 / bytes));
  }
  return {};
}

GemmRows<const void> constant(const GemmRows<void>& rows) {
  return {rows.data, rows.row_stride, rows.batch_stride};
}

// Columns of the widest output, and of what lies beyond q, k and v.
int64_t head_columns(const Gemm& call) {
  return call.epilogue == GemmEpilogue::kQkv ? 3 * call.heads * 128 : 0;
}
bool has_mlp(const Gemm& call) { return call.epilogue == GemmEpilogue::kQkv && call.n > head_columns(call); }
bool writes_c(const Gemm& call) {
  return call.epilogue != GemmEpilogue::kQkv || call.heads_as == QkvHeads::kRows;
}
int64_t c_columns(const Gemm& call) {
  return call.epilogue == GemmEpilogue::kQkv ? head_columns(call) : call.n;
}
Element c_element(const Gemm& call) {
  return call.epilogue == GemmEpilogue::kQkv ? Element::kBF16 : call.output;
}

Status check_heads(const Gemm& call, int index) {
  const GemmGroup& group = call.groups[index];
  if (group.norm_q == nullptr || group.norm_k == nullptr || group.rope_pairs == nullptr) {
    return bad(index, "q and k need norm_q, norm_k and rope_pairs");
  }
  if (call.heads_as == QkvHeads::kRows) return {};
  const PackedQkv& packed = group.packed;
  if (packed.query == nullptr || packed.key == nullptr || packed.value == nullptr ||
      packed.query_rows == nullptr || packed.key_blocks == nullptr) {
    return bad(index, "packed heads need query, key, value, query_rows and key_blocks");
  }
  const int64_t end = group.first_token + group.rows;
  if (group.first_token < 0 || group.first_token % 64 != 0 || group.packed_tokens > INT32_MAX / 128 ||
      end > group.packed_tokens || (end % 64 != 0 && end != group.packed_tokens)) {
    return bad(index, "packed heads hold tokens " + std::to_string(group.first_token) + " to " +
                          std::to_string(end) + " of " + std::to_string(group.packed_tokens) +
                          "; both ends must be multiples of 64, the sequence's own end apart");
  }
  return {};
}

// Parts begin where tiles do.
Status check_low_rank(const Gemm& call) {
  if (call.low_rank == 0) return {};
  if (call.low_rank < 16 || call.low_rank % 16 != 0 || call.low_rank > kGemmMaxLowRank) {
    return Status::bad_argument("gemm: a low-rank branch has a multiple of 16 ranks up to " +
                                std::to_string(kGemmMaxLowRank) + ", not " + std::to_string(call.low_rank));
  }
  if (call.low_parts < 1 || call.low_parts > kGemmMaxParts || call.low_begin[0] != 0) {
    return Status::bad_argument("gemm: a low-rank branch has 1 to " + std::to_string(kGemmMaxParts) +
                                " parts, the first from column 0 on");
  }
  if (call.operand == Element::kE4M3 && call.output == Element::kF32)
    return Status::unsupported("gemm: fp8 products in f32 have no low-rank branch");
  const bool heads = call.epilogue == GemmEpilogue::kQkv;
  if (heads && call.low_parts != (has_mlp(call) ? 4 : 3))
    return Status::bad_argument("gemm: the low-rank branch of q, k, v has a part for each, and one beyond");
  for (int part = 1; part < call.low_parts; ++part) {
    const int64_t begin = call.low_begin[part], before = call.low_begin[part - 1];
    if (begin <= before || begin >= call.n || (heads && begin != part * call.heads * 128))
      return Status::bad_argument("gemm: parts of a low-rank branch begin where those of W do");
    if (!heads && begin % kTileColumns != 0)
      return Status::unsupported("gemm: parts of a low-rank branch begin at multiples of 192");
  }
  return {};
}

Status check_group(const Gemm& call, int index) {
  const GemmGroup& group = call.groups[index];
  if (group.rows < 1 || group.batches < 1 || group.rows > INT32_MAX / 2 || group.batches > INT32_MAX / 2) {
    return bad(index, std::to_string(group.batches) + " batches of " + std::to_string(group.rows) + " rows");
  }
  Status status = check_matrix(index, "a", group.a, call.operand, call.k, group.batches);
  if (!status.ok()) return status;
  status = check_matrix(index, "w", {group.w, group.w_row_stride, 0}, call.operand, call.k, 1);
  if (!status.ok()) return status;
  if (writes_c(call)) {
    status = check_matrix(index, "c", constant(group.c), c_element(call), c_columns(call), group.batches);
    if (!status.ok()) return status;
  }
  if (has_mlp(call)) {
    status = check_matrix(index, "mlp", constant(group.mlp), call.output, call.n - head_columns(call),
                          group.batches);
    if (!status.ok()) return status;
  }
  if (call.operand == Element::kE4M3 && group.w_scale == nullptr)
    return bad(index, "e4m3 operands need w_scale");
  if (call.low_rank > 0) {
    const int64_t ranks = call.low_parts * call.low_rank;
    status = check_matrix(index, "low", group.low, Element::kBF16, ranks, group.batches);
    if (!status.ok()) return status;
    status = check_matrix(index, "up", {group.up, call.low_rank, 0}, Element::kBF16, call.low_rank, 1);
    if (!status.ok()) return status;
  }
  if (call.output == Element::kE4M3 && (group.c_scale == nullptr || group.bounds == nullptr))
    return bad(index, "output e4m3 needs c_scale and bounds");
  if (call.epilogue == GemmEpilogue::kQkv) return check_heads(call, index);
  if (call.epilogue == GemmEpilogue::kGateResidual)
    return check_matrix(index, "residual", group.residual, Element::kBF16, call.n, group.batches);
  return {};
}

Status check(const Gemm& call) {
  if (call.n < 16 || call.k < 16 || call.n % 16 != 0 || call.k % 16 != 0 || call.n > INT32_MAX / 2 ||
      call.k > INT32_MAX / 2) {
    return Status::bad_argument("gemm: N = " + std::to_string(call.n) + " and K = " + std::to_string(call.k) +
                                " must be positive multiples of 16; pad the weight with zeros");
  }
  if (call.groups == nullptr || call.group_count < 1 || call.group_count > kGemmMaxGroups) {
    return Status::bad_argument("gemm: " + std::to_string(call.group_count) +
                                " groups; a launch takes 1 to " + std::to_string(kGemmMaxGroups));
  }
  if (call.epilogue == GemmEpilogue::kQkv && (call.heads < 1 || head_columns(call) > call.n)) {
    return Status::bad_argument("gemm: " + std::to_string(call.heads) +
                                " heads of q, k and v do not fit in N = " + std::to_string(call.n));
  }
  if (const Status status = check_low_rank(call); !status.ok()) return status;
  for (int i = 0; i < call.group_count; ++i) {
    const Status status = check_group(call, i);
    if (!status.ok()) return status;
  }
  return {};
}

TensorMapSpec rows_spec(const GemmRows<const void>& matrix, Element element, const GemmGroup& group,
                        int64_t columns) {
  TensorMapSpec spec;
  spec.data = matrix.data;
  spec.element = element;
  spec.rank = 3;
  spec.columns = columns;
  spec.rows = group.rows;
  spec.batches = group.batches;
  spec.row_stride = matrix.row_stride;
  spec.batch_stride = matrix.batch_stride;
  spec.swizzle = Swizzle::k128;
  return spec;
}

// As it lies in shared memory on its way out (warp_panels.cuh): 16 rows × 128 bytes, or of e4m3 64.
Status make_panel_map(const GemmRows<const void>& matrix, Element element, const GemmGroup& group,
                      int64_t columns, CUtensorMap* map) {
  TensorMapSpec spec = rows_spec(matrix, element, group, columns);
  spec.box_columns = element == Element::kF32 ? 32 : 64;
  spec.box_rows = 16;
  spec.swizzle = element == Element::kE4M3 ? Swizzle::k64 : Swizzle::k128;
  return make_tensor_map(spec, map);
}

// The operands of k-blocks: 128 bytes a row, as many rows as a CTA loads at once.
Status make_a_map(const GemmRows<const void>& a, Element element, const GemmGroup& group, int64_t columns,
                  const TileShape& tile, CUtensorMap* map) {
  TensorMapSpec spec = rows_spec(a, element, group, columns);
  spec.box_columns = int(128 / bytes_of(element));
  spec.box_rows = tile.multicast == Multicast::kA ? tile.rows / 2 : tile.rows;
  return make_tensor_map(spec, map);
}

Status make_w_map(const Gemm& call, const void* w, Element element, int64_t columns, int64_t row_stride,
                  const TileShape& tile, CUtensorMap* map) {
  TensorMapSpec spec;
  spec.data = w;
  spec.element = element;
  spec.columns = columns;
  spec.rows = call.n;
  spec.row_stride = row_stride;
  spec.box_columns = int(128 / bytes_of(element));
  spec.box_rows = call.epilogue == GemmEpilogue::kQkv ? 64
                  : tile.multicast == Multicast::kW   ? kTileColumns / 2
                                                      : kTileColumns;
  spec.swizzle = Swizzle::k128;
  return make_tensor_map(spec, map);
}

Status make_maps(const Gemm& call, const GemmGroup& group, const TileShape& tile, GroupParams* params) {
  Status status = make_a_map(group.a, call.operand, group, call.k, tile, &params->a);
  if (status.ok())
    status = make_w_map(call, group.w, call.operand, call.k, group.w_row_stride, tile, &params->w);
  if (status.ok() && call.low_rank > 0) {
    status = make_a_map(group.low, Element::kBF16, group, call.low_parts * call.low_rank, tile, &params->low);
    if (status.ok())
      status = make_w_map(call, group.up, Element::kBF16, call.low_rank, call.low_rank, tile, &params->up);
  }

  if (status.ok() && writes_c(call))
    status = make_panel_map(constant(group.c), c_element(call), group, c_columns(call), &params->c);
  if (status.ok() && call.epilogue == GemmEpilogue::kGateResidual)
    status = make_panel_map(group.residual, Element::kBF16, group, call.n, &params->residual);
  if (status.ok() && has_mlp(call)) {
    status =
        make_panel_map(constant(group.mlp), call.output, group, call.n - head_columns(call), &params->mlp);
  }
  return status;
}

// Row blocks of a band (schedule.cuh): as many as keep A's part of it in about a third of L2, so that W streams by once;
// beyond that, squares.
int band_blocks(const Gemm& call, const TileShape& tile, int64_t total_blocks, int clusters) {
  constexpr int64_t kResidentBytes = int64_t{18} << 20;
  const int64_t block_bytes = int64_t(tile.cluster_rows()) * call.k * bytes_of(call.operand);
  int64_t square = 1;
  while (square * square * tile.cluster_rows() < int64_t(clusters) * tile.cluster_columns()) ++square;
  const int64_t most = std::max(square, kResidentBytes / block_bytes);
  const int64_t bands = (total_blocks + most - 1) / most;
  return int((total_blocks + bands - 1) / bands);  // bands of equal height
}

bool in_place(const GemmGroup& group) {
  return group.residual.data == group.c.data && group.residual.row_stride == group.c.row_stride &&
         (group.batches == 1 || group.residual.batch_stride == group.c.batch_stride);
}

Status fill_params(const Gemm& call, const TileShape& tile, int most_clusters, GemmParams* params) {
  params->n = int(call.n);
  params->k_blocks = int((call.k * bytes_of(call.operand) + 127) / 128);
  params->column_blocks = int(column_blocks(call, tile));
  params->low_rank = int(call.low_rank);
  params->low_blocks = int((call.low_rank + 63) / 64);
  params->low_parts = call.low_parts;
  params->low_is_next = call.low_is_next && call.low_rank > 0;
  for (int part = 0; part < kGemmMaxParts; ++part) params->low_begin[part] = int(call.low_begin[part]);
  params->activation = call.activation;
  params->heads = int(call.heads);
  params->eps = call.eps;
  int64_t tiles = 0;
  for (int i = 0; i < call.group_count; ++i) {
    const GemmGroup& group = call.groups[i];
    GroupParams& to = params->groups[i];
    const Status status = make_maps(call, group, tile, &to);
    if (!status.ok()) return status;
    to.a_scale = call.operand == Element::kE4M3 ? group.a_scale : nullptr;
    to.w_scale = call.operand == Element::kE4M3 ? group.w_scale : nullptr;
    to.bias = group.bias;
    to.gate = call.epilogue == GemmEpilogue::kGateResidual ? group.gate : nullptr;
    to.adds =
        call.epilogue == GemmEpilogue::kGateResidual && call.operand == Element::kE4M3 && in_place(group);
    to.norm_q = group.norm_q;
    to.norm_k = group.norm_k;
    to.rope_pairs = group.rope_pairs;
    to.packed = group.packed;
    to.packed_tokens = int(group.packed_tokens);
    to.first_token = int(group.first_token);
    to.key_offset = group.key_offset;
    to.c_scale = group.c_scale;
    to.bounds = group.bounds;
    to.a_scale_batch_stride = group.a_scale_batch_stride;
    to.gate_batch_stride = group.gate_batch_stride;
    to.c_scale_batch_stride = group.c_scale_batch_stride;
    to.rows = int(group.rows);
    to.row_blocks = int(row_blocks(group, tile));
    to.total_blocks = int(to.row_blocks * group.batches);
    to.band_blocks = band_blocks(call, tile, to.total_blocks, most_clusters);
    tiles += int64_t(to.total_blocks) * params->column_blocks;
    if (tiles > INT32_MAX) return bad(i, "more than 2^31 tiles");
    to.tile_end = int(tiles);
  }
  const int64_t rest = cuts_last_wave(tile, tiles, most_clusters) ? tiles % most_clusters : 0;
  params->first_half = int(tiles - rest);
  params->tiles = int(tiles + rest);
  return {};
}

struct Gpu {
  int architecture = 0;
  int multiprocessors = 0;
};

Gpu current_gpu() {
  int device = 0, major = 0, minor = 0;
  Gpu gpu;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&gpu.multiprocessors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess) {
    gpu.architecture = 10 * major + minor;
  }
  return gpu;
}

}  // namespace
}  // namespace gemm

Status gemm_hopper(const Gemm& call, cudaStream_t stream) {
  Status status = gemm::check(call);
  if (!status.ok()) return status;
  const gemm::Gpu gpu = gemm::current_gpu();
  if (gpu.architecture != 90) return Status::unsupported("gemm_hopper runs on compute capability 9.0 alone");
  const gemm::Instance* instance = gemm::choose_instance(call, gpu.multiprocessors);
  if (instance == nullptr) {
    return Status::unsupported(
        "gemm: no kernel for this combination of operand, output and epilogue; see gemm/gemm.h");
  }
  const int most_clusters = std::max(gpu.multiprocessors / instance->tile.cluster(), 1);
  gemm::GemmParams params{};
  status = gemm::fill_params(call, instance->tile, most_clusters, &params);
  if (!status.ok()) return status;
  return instance->launch(params, std::min(params.tiles, most_clusters), stream);
}

std::string gemm_hopper_tile(const Gemm& call) {
  const int multiprocessors = gemm::current_gpu().multiprocessors;
  const gemm::Instance* instance = gemm::choose_instance(call, multiprocessors);
  if (instance == nullptr) return "none";
  const gemm::TileShape& tile = instance->tile;
  std::string text = std::to_string(tile.rows) + "x" + std::to_string(gemm::kTileColumns);
  if (tile.multicast == gemm::Multicast::kW) text += ", sharing W";
  if (tile.multicast == gemm::Multicast::kA) text += ", sharing A";
  const int clusters = std::max(multiprocessors / tile.cluster(), 1);
  if (gemm::cuts_last_wave(tile, gemm::cluster_tiles(call, tile), clusters)) text += ", last wave in halves";
  return text;
}

}  // namespace flux::kernels
