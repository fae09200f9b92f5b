#include "gemm/tile_choice.h"

#include <algorithm>

namespace flux::kernels::gemm {
namespace {

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Relative rate of a tile's main loop, and what a tile costs beyond it, in k-blocks: epilogue and refilling the pipeline.
struct TileRate {
  TileShape tile;
  double rate;
  double extra_blocks;
};

// H200, sustained TFLOP/s with bias, fp8 | bf16 (bench/NOTES.md). In both large tiles the main loop runs at the tensor cores'
// full rate, as clock stamps in the kernel show, so waves and the cost of a tile decide.
constexpr TileRate kRates[] = {
    // Fewest bytes from L2 a product. Full waves at N = 9216 and 21504: 1155, 1205 | 666, 657.
    {kTile128x256, 1.00, 6.0},
    // 97 % full waves at M = 4608, N = 3072 and 12288, where 128x256 has 82 and 94: 1281, 1172 | 676, 654 against
    // 1132, 1160 | 594, 627.
    {kTile192x192, 1.00, 5.4},
    // For what the others fill less than a wave with: T5 and CLIP. Its rate is shared memory's, 160 of 128 bytes a clock, on
    // paper, its overhead an estimate; neither is measured.
    {kTile128x128, 0.80, 6.0},
};

double estimated_time(const Gemm& call, const TileRate& candidate, int multiprocessors) {
  int64_t tiles = 0;
  for (int i = 0; i < call.group_count; ++i) {
    tiles += call.groups[i].batches * row_blocks(call.groups[i], candidate.tile);
  }
  tiles *= column_blocks(call, candidate.tile);
  const int64_t clusters = multiprocessors / candidate.tile.cluster;
  const int64_t waves = divide_up(tiles, std::max<int64_t>(clusters, 1));
  const double blocks =
      double(call.k) * (call.operand == Element::kBF16 ? 2 : 1) / 128 + candidate.extra_blocks;
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
