// Arguments → checks → tile → tensor maps → launch.
#include <algorithm>
#include <string>

#include "launch.cuh"
#include "lora/launchers.h"
#include "tensor_map.h"

namespace flux::kernels {
namespace lora {
namespace {

constexpr int kHopperRows = 128;

int64_t element_bytes(const DownProjection& call) { return call.operand == Element::kE4M3 ? 1 : 2; }

template <typename T>
bool aligned(const GemmRows<T>& rows, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.row_stride * bytes % 16 == 0 &&
         rows.batch_stride * bytes % 16 == 0;
}

Status check(const DownProjection& call) {
  if (call.operand != Element::kE4M3 && call.operand != Element::kBF16)
    return Status::unsupported("down_project: x is e4m3 or bf16");
  if (call.k < 16 || call.k % 16 != 0 || call.ranks < 16 || call.ranks % 16 != 0 ||
      std::max(call.k, call.ranks) > INT32_MAX / 4) {
    return Status::bad_argument("down_project: K = " + std::to_string(call.k) + " and " +
                                std::to_string(call.ranks) + " ranks must be positive multiples of 16");
  }
  if (call.groups == nullptr || call.group_count < 1 || call.group_count > kGemmMaxGroups)
    return Status::bad_argument("down_project: a launch takes 1 to 4 groups");
  for (int i = 0; i < call.group_count; ++i) {
    const DownGroup& group = call.groups[i];
    if (group.rows < 1 || group.batches < 1 || group.batches * group.rows > INT32_MAX)
      return Status::bad_argument("down_project: a group has no rows or too many");
    if (group.x.data == nullptr || group.down == nullptr || group.scale == nullptr ||
        group.low.data == nullptr)
      return Status::bad_argument("down_project: x, down, scale or low is null");
    if (!aligned(group.x, element_bytes(call)) || !aligned(group.low, 2) ||
        !aligned(GemmRows<const void>{group.down, call.k, 0}, element_bytes(call)) ||
        !aligned(GemmRows<const void>{group.scale, 0, 0}, 4)) {
      return Status::bad_argument("down_project: matrices and their strides must be multiples of 16 bytes");
    }
    if (group.x.row_stride < call.k || group.low.row_stride < call.ranks)
      return Status::bad_argument("down_project: rows of x are at least K apart, of low as many as ranks");
  }
  return {};
}

// Tiles of all groups; `rows` × `columns` each.
int count_tiles(const DownProjection& call, int rows, int columns, Params* params) {
  params->k = int(call.k);
  params->ranks = int(call.ranks);
  params->column_blocks = int((call.ranks + columns - 1) / columns);
  int64_t tiles = 0;
  for (int i = 0; i < call.group_count; ++i) {
    GroupParams& to = params->groups[i];
    to.group = call.groups[i];
    to.row_blocks = int((to.group.rows + rows - 1) / rows);
    tiles += to.row_blocks * to.group.batches * params->column_blocks;
    to.tile_end = int(tiles);
  }
  return int(tiles);
}

Status make_maps(const DownProjection& call, int columns, GroupParams* params) {
  const DownGroup& group = params->group;
  TensorMapSpec spec;
  spec.data = group.x.data;
  spec.element = call.operand;
  spec.rank = 3;
  spec.columns = call.k;
  spec.rows = group.rows;
  spec.batches = group.batches;
  spec.row_stride = group.x.row_stride;
  spec.batch_stride = group.x.batch_stride;
  spec.box_columns = int(128 / element_bytes(call));
  spec.box_rows = kHopperRows;
  spec.swizzle = Swizzle::k128;
  if (Status status = make_tensor_map(spec, &params->x); !status.ok()) return status;
  spec = TensorMapSpec{};
  spec.data = group.down;
  spec.element = call.operand;
  spec.columns = call.k;
  spec.rows = call.ranks;
  spec.row_stride = call.k;
  spec.box_columns = int(128 / element_bytes(call));
  spec.box_rows = columns;
  spec.swizzle = Swizzle::k128;
  return make_tensor_map(spec, &params->down);
}

// Into how many runs K is cut. Measured at 4608 rows on H200 (bench/NOTES.md): five of 16 ranks, four of 64 and three of 128 are
// quickest, so many as one round of CTAs holds; wide tiles gain from three even where these are more than a round.
int parts_of(int tiles, int columns, int k_blocks) {
  constexpr int kMostParts = 8;  // CTAs of a cluster, on any device
  const int percent = columns == 16 ? 140 : columns == 64 ? 110 : 90;
  const int fitting = device_multiprocessors() * percent / 100 / tiles;
  return std::min({std::max(fitting, columns == 128 ? 3 : 1), kMostParts, k_blocks});
}

// Many ranks are a product like any other, whose tiles then fill most of the GPU and share what they load. Measured at 4608 rows,
// K = 3072: 17 µs in place of 26 for 512 ranks, 20 in place of 14 for 256. Sums over a longer K are better cut into runs.
bool is_product(const DownProjection& call) {
  constexpr int64_t kMostColumns = 2 * 192, kMostK = 4096;
  int64_t row_blocks = 0;
  for (int i = 0; i < call.group_count; ++i)
    row_blocks += call.groups[i].batches * ((call.groups[i].rows + kHopperRows - 1) / kHopperRows);
  return call.operand == Element::kE4M3 && call.ranks > kMostColumns && call.k <= kMostK &&
         row_blocks * ((call.ranks + 191) / 192) * 2 > device_multiprocessors();
}

Status launch_product(const DownProjection& call, cudaStream_t stream) {
  GemmGroup groups[kGemmMaxGroups];
  for (int i = 0; i < call.group_count; ++i) {
    const DownGroup& from = call.groups[i];
    GemmGroup& to = groups[i];
    to.batches = from.batches;
    to.rows = from.rows;
    to.a = from.x;
    to.w = from.down;
    to.w_row_stride = call.k;
    to.w_scale = from.scale;
    to.c = from.low;
  }
  Gemm gemm;
  gemm.n = call.ranks;
  gemm.k = call.k;
  gemm.groups = groups;
  gemm.group_count = call.group_count;
  return gemm_hopper(gemm, stream);
}

}  // namespace
}  // namespace lora

Status down_project_portable(const DownProjection& call, cudaStream_t stream) {
  if (Status status = lora::check(call); !status.ok()) return status;
  lora::Params params{};
  const int tiles = lora::count_tiles(call, 64, 64, &params);
  return lora::launch_portable(params, call.operand == Element::kE4M3, tiles, stream);
}

Status down_project(const DownProjection& call, cudaStream_t stream) {
  if (device_architecture() != 90) return down_project_portable(call, stream);
  if (Status status = lora::check(call); !status.ok()) return status;
  if (lora::is_product(call)) return lora::launch_product(call, stream);
  lora::Params params{};
  const int columns = call.ranks <= 16 ? 16 : call.ranks <= 64 ? 64 : 128;
  const int tiles = lora::count_tiles(call, lora::kHopperRows, columns, &params);
  const int64_t block = 128 / lora::element_bytes(call);
  params.k_blocks = int((call.k + block - 1) / block);
  for (int i = 0; i < call.group_count; ++i) {
    if (Status status = lora::make_maps(call, columns, &params.groups[i]); !status.ok()) return status;
  }
  return lora::launch_hopper(params, call.operand == Element::kE4M3, columns, tiles,
                             lora::parts_of(tiles, columns, params.k_blocks), stream);
}

}  // namespace flux::kernels
