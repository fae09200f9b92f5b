// What the portable GEMM's kernel is given, by value.
#pragma once

#include "gemm/gemm.h"

namespace flux::kernels::portable {

inline constexpr int kTile = 128;  // rows and columns of a thread block's tile

struct Params {
  GemmGroup groups[kGemmMaxGroups];
  int tile_end[kGemmMaxGroups];    // tiles of this and all earlier groups
  int row_blocks[kGemmMaxGroups];  // of one batch
  int column_blocks;
  int n, k;
  Element output;
  Activation activation;
  int heads;
  int64_t low_rank;
  int low_parts;
  int64_t low_begin[kGemmMaxParts];
  float eps;
};

// Of one tile; `group` points into Params.
struct Tile {
  const GemmGroup* group;
  int batch;
  int row;     // first, within the batch
  int column;  // first
};

}  // namespace flux::kernels::portable
