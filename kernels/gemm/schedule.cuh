// Which tiles a cluster computes, and in which order.
//
// Persistent: cluster c of C takes cluster tiles c, c + C, ... of one list over all groups. Within a group the list runs over
// bands of `band_blocks` row blocks; in a band the row block changes fastest, so the clusters at work at one time share
// a near-square patch of A and W, which then comes from L2. The launcher picks the band.
//
// A last wave that would keep at most half of the clusters busy is cut: from `first_half` on an index is one row block of a tile
// of two, the upper or the lower one. It loads as much as a tile and multiplies half of it, which takes about two thirds of the time.
#pragma once

#include "gemm/config.cuh"
#include "gemm/params.h"
#include "ptx/cluster.cuh"

namespace flux::kernels::gemm {

struct Tile {
  const GroupParams* group;
  int group_index;
  int batch;
  int row;           // first row, within the batch, of this CTA's tile
  int column_block;  // of the cluster
  int column;        // first column of this CTA's tile
  int row_blocks;    // of a math warpgroup
};

template <typename Config>
__device__ __forceinline__ uint32_t cluster_rank() {
  return Config::kCluster == 1 ? 0 : ptx::cluster_ctarank();
}

template <typename Config>
__device__ __forceinline__ int first_column(int column_block) {
  return column_block * Config::kClusterColumns +
         (Config::kSharesA ? int(cluster_rank<Config>()) * Config::kTileN : 0);
}

template <typename Config>
__device__ __forceinline__ Tile tile_at(const GemmParams& params, int index) {
  int half = 0, row_blocks = Config::kRowBlocks;
  if (Config::kRowBlocks == 2 && index >= params.first_half) {
    row_blocks = 1;
    half = (index - params.first_half) % 2;
    index -= (index - params.first_half + 1) / 2;
  }
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
  const int first_row = Config::kSharesW ? int(cluster_rank<Config>()) * Config::kTileM : 0;
  return {&group,       group_index,
          batch,        row_block * Config::kClusterRows + first_row + 64 * half,
          column_block, first_column<Config>(column_block),
          row_blocks};
}

// Row blocks of a math warpgroup in tile `index`.
template <typename Config>
__device__ __forceinline__ int row_blocks_of(const GemmParams& params, int index) {
  return Config::kRowBlocks == 2 && index >= params.first_half ? 1 : Config::kRowBlocks;
}

// The rows of W that a tile's columns are, in three runs of 64: where each begins.
struct ColumnRuns {
  int first[3];
};

inline __device__ ColumnRuns consecutive_columns(const Tile& tile) {
  return {{tile.column, tile.column + 64, tile.column + 128}};
}

}  // namespace flux::kernels::gemm
