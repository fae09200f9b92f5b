#include "gemm/tile_choice.h"

#include <algorithm>

namespace flux::kernels::gemm {
namespace {

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Relative rate of a tile inside a full wave, and the k-blocks that a tile costs beyond its own (pipeline fill, epilogue).
struct TileRate {
  TileShape tile;
  double rate;
  double extra_blocks;
};

constexpr TileRate kRates[] = {
    {kTile128x256, 1.00, 1.0},
    {kTile192x192, 0.99, 1.0},
    {kTile128x128, 0.80, 2.0},
};

double estimated_time(const Gemm& call, const TileRate& candidate, int multiprocessors) {
  int64_t tiles = 0;
  for (int i = 0; i < call.group_count; ++i) {
    tiles += call.groups[i].batches * row_blocks(call.groups[i], candidate.tile);
  }
  tiles *= column_blocks(call, candidate.tile);
  const int64_t clusters = multiprocessors / candidate.tile.cluster;
  const int64_t waves = divide_up(tiles, std::max<int64_t>(clusters, 1));
  const double blocks = double(call.k) * (call.operand == Element::kBF16 ? 2 : 1) / 128 + candidate.extra_blocks;
  return double(waves) * blocks * candidate.tile.rows * candidate.tile.columns / candidate.rate;
}

}  // namespace

int64_t row_blocks(const GemmGroup& group, const TileShape& tile) {
  return divide_up(group.rows, int64_t(tile.rows) * tile.cluster);
}

int64_t column_blocks(const Gemm& call, const TileShape& tile) { return divide_up(call.n, tile.columns); }

const Instance* choose_instance(const Gemm& call, int multiprocessors) {
  const Instance* best = nullptr;
  double best_time = 0;
  for (const InstanceList& list : {linear_e4m3(), linear_bf16(), gate_residual(), qkv()}) {
    for (const Instance* instance = list.data; instance != list.data + list.count; ++instance) {
      if (!instance->computes(call)) continue;
      for (const TileRate& candidate : kRates) {
        if (candidate.tile != instance->tile) continue;
        const double time = estimated_time(call, candidate, multiprocessors);
        if (best == nullptr || time < best_time) {
          best = instance;
          best_time = time;
        }
      }
    }
  }
  return best;
}

}  // namespace flux::kernels::gemm
