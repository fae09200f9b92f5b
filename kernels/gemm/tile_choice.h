// Which tile a product gets.
#pragma once

#include "gemm/instance.h"

namespace flux::kernels::gemm {

// The instance that computes `call` in the least estimated time on a GPU of `multiprocessors`; nullptr when none does.
const Instance* choose_instance(const Gemm& call, int multiprocessors);

// Cluster tiles of a group with this tile.
int64_t row_blocks(const GemmGroup& group, const TileShape& tile);  // of one batch
int64_t column_blocks(const Gemm& call, const TileShape& tile);
int64_t cluster_tiles(const Gemm& call, const TileShape& tile);  // of all groups

// Whether the last wave's tiles are halved (schedule.cuh).
bool cuts_last_wave(const TileShape& tile, int64_t tiles, int64_t clusters);

}  // namespace flux::kernels::gemm
