// Which tiles a cluster computes, and in which order.
//
// Persistent: cluster c of C takes tiles c, c + C, ... of a list that runs over column blocks, then images, then rows and
// columns of tiles, then phases, so that clusters at work at one time share W and neighbouring pixels in L2.
#pragma once

#include "conv/config.cuh"
#include "conv/params.h"

namespace flux::kernels::conv {

struct Tile {
  int image;  // column block · batch + batch index: what sums are kept apart for
  int batch;
  int column;  // first output channel
  int phase;
  int y, x;  // first pixel, in the grid of one phase
};

template <typename Config>
__device__ __forceinline__ Tile tile_at(const ConvParams& params, int index, uint32_t rank) {
  Tile tile;
  tile.image = index / params.image_tiles;
  int rest = index - tile.image * params.image_tiles;
  const int column_block = tile.image / params.batch;
  tile.batch = tile.image - column_block * params.batch;
  tile.column = column_block * Config::kTileN;
  tile.phase = rest & (params.phases - 1);
  rest /= params.phases;
  const int row = rest / params.clusters_across, column = rest - row * params.clusters_across;
  const int second = int(rank);
  tile.y = (params.pairs_down ? 2 * row + second : row) * Config::kTileHeight;
  tile.x = (params.pairs_down ? column : 2 * column + second) * Config::kTileWidth;
  return tile;
}

}  // namespace flux::kernels::conv
