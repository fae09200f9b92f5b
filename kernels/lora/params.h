// What the kernels of down_project are given, by value.
#pragma once

#include <cuda.h>

#include "lora/lora.h"

namespace flux::kernels::lora {

struct GroupParams {
  CUtensorMap x;     // [batches, rows, K], box 128 rows × 128 bytes
  CUtensorMap down;  // [ranks, K], box as many ranks as a tile × 128 bytes
  DownGroup group;
  int row_blocks;  // of one batch
  int tile_end;    // tiles of this and all earlier groups
};

struct Params {
  GroupParams groups[kGemmMaxGroups];
  int k;
  int k_blocks;
  int ranks;
  int column_blocks;
};

struct Tile {
  const GroupParams* group;
  int batch;
  int row;     // first, within the batch
  int column;  // first
};

// Columns change fastest: neighbours share x.
template <int kRows, int kColumns>
__device__ __forceinline__ Tile tile_at(const Params& params, int index) {
  int which = 0;
  while (index >= params.groups[which].tile_end) ++which;
  if (which > 0) index -= params.groups[which - 1].tile_end;
  const GroupParams& group = params.groups[which];
  const int block = index / params.column_blocks;
  return {&group, block / group.row_blocks, block % group.row_blocks * kRows,
          index % params.column_blocks * kColumns};
}

}  // namespace flux::kernels::lora
