#include "gemm/tile_choice.h"

#include <algorithm>

namespace flux::kernels::gemm {
namespace {

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Relative rate of a tile's main loop, and what a tile costs beyond it, in k-blocks: with bias alone, and with more to do.
struct TileRate {
  TileShape tile;
  double rate;
  double bias_blocks;
  double busy_blocks;
};

// Fitted to H200 at M = 4608, fp8, sustained (bench/NOTES.md). Main loops run at one rate an element, so that waves and the
// cost of a tile decide.
constexpr TileRate kRates[] = {
    // Fewest bytes a product. 97 % full waves at M = 4608 and each N of FLUX.
    {kTile192, 1.00, 2.75, 5.0},
    // The epilogue is hidden but for the last tile's.
    {kTile128, 1.00, 1.2, 2.2},
    {kTile128Heads, 1.00, 1.2, 2.2},
    // For what the others fill less than a wave with: T5 and CLIP. On paper: shared memory feeds three quarters of its products.
    {kTile64, 0.75, 1.2, 2.2},
};

// Of a wave, by halves in place of tiles.
constexpr double kSavedByHalves = 0.3;

double estimated_time(const Gemm& call, const TileRate& candidate, int multiprocessors) {
  const int64_t tiles = cluster_tiles(call, candidate.tile);
  const int64_t clusters = std::max(multiprocessors / candidate.tile.cluster(), 1);
  const double waves = double(divide_up(tiles, clusters)) -
                       (cuts_last_wave(candidate.tile, tiles, clusters) ? kSavedByHalves : 0.0);
  const bool bias_alone = call.epilogue == GemmEpilogue::kLinear && call.activation == Activation::kNone;
  const double blocks = double(call.k) * (call.operand == Element::kBF16 ? 2 : 1) / 128 +
                        (bias_alone ? candidate.bias_blocks : candidate.busy_blocks);
  return waves * blocks * candidate.tile.rows / candidate.rate;
}

}  // namespace

int64_t row_blocks(const GemmGroup& group, const TileShape& tile) {
  return divide_up(group.rows, tile.cluster_rows());
}

int64_t column_blocks(const Gemm& call, const TileShape& tile) {
  if (call.epilogue != GemmEpilogue::kQkv) return divide_up(call.n, tile.cluster_columns());
  return call.heads + divide_up(call.n - 3 * call.heads * 128, tile.cluster_columns());  // see qkv.cuh
}

int64_t cluster_tiles(const Gemm& call, const TileShape& tile) {
  int64_t blocks = 0;
  for (int i = 0; i < call.group_count; ++i)
    blocks += call.groups[i].batches * row_blocks(call.groups[i], tile);
  return blocks * column_blocks(call, tile);
}

bool cuts_last_wave(const TileShape& tile, int64_t tiles, int64_t clusters) {
  const int64_t rest = tiles % clusters;
  return tile.order == Order::kInTurn && tile.rows == 128 && rest > 0 && 2 * rest <= clusters;
}

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
