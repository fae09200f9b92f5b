// Which tiles a cluster computes, and in which order.
//
// Persistent: cluster c of C takes tiles c, c + C, ... of one list over all groups. Within a group the list runs over
// bands of `band_blocks` row blocks; in a band the row block changes fastest, so the clusters at work at one time share
// a near-square patch of A and W, which then comes from L2. The launcher picks the band.
#pragma once

#include "gemm/config.cuh"
#include "gemm/params.h"

namespace flux::kernels::gemm {

struct Tile {
  const GroupParams* group;
  int batch;
  int row;     // first row, within the batch, of this CTA's tile
  int column;  // first column
};

template <typename Config>
__device__ __forceinline__ Tile tile_at(const GemmParams& params, int index, uint32_t cluster_rank) {
  int group_index = 0;
  while (index >= params.groups[group_index].tile_end) ++group_index;
  const GroupParams& group = params.groups[group_index];
  if (group_index > 0) index -= params.groups[group_index - 1].tile_end;

  const int band_tiles = group.band_blocks * params.column_blocks;
  const int band = index / band_tiles;
  const int in_band = index - band * band_tiles;
  const int blocks = min(group.band_blocks, group.total_blocks - band * group.band_blocks);
  const int column_block = in_band / blocks;
  const int block = band * group.band_blocks + in_band - column_block * blocks;
  const int batch = block / group.row_blocks;
  const int row_block = block - batch * group.row_blocks;
  return {&group, batch, (row_block * Config::kCluster + int(cluster_rank)) * Config::kTileM,
          column_block * Config::kTileN};
}

}  // namespace flux::kernels::gemm
