// Which block computes what. Blocks are persistent: block c of G takes query tiles c, c + G, ... while whole waves last.
//
// The last one-and-a-bit waves are cut along the keys instead, so that every block gets the same number of key tiles: their
// R tiles (G < R < 2G) of K key tiles each form a line of R·K units, of which block c takes the c-th G-th part. A part is at
// least K long, so a query tile lies in at most two blocks. The block that has its last keys starts with them, publishes
// its accumulator and goes on; the block that has its first keys computes them last and merges. Nobody waits for a block that
// waits. Boundaries depend on shapes and G alone, so results repeat bit for bit.
#pragma once

#include <cstdint>

namespace flux::kernels::attention {

struct Work {
  int tile;        // query tile, the fastest axis of (slice, query tile)
  int begin, end;  // key tiles
};

struct Schedule {
  int tiles;      // query tiles over all slices
  int key_tiles;  // per query tile
  int waves;      // whole waves, taken tile by tile
  bool split;     // the rest is cut along the keys

  static Schedule make(int tiles, int key_tiles, int blocks, bool may_split) {
    if (!may_split || tiles <= blocks || tiles % blocks == 0) {
      return {tiles, key_tiles, (tiles + blocks - 1) / blocks, false};
    }
    return {tiles, key_tiles, tiles / blocks - 1, true};
  }

  // The i-th piece of work of this block; false when there is none.
  __device__ __forceinline__ bool get(int i, Work& work) const {
    if (i < waves) {
      work = {i * int(gridDim.x) + int(blockIdx.x), 0, key_tiles};
      return work.tile < tiles;
    }
    if (!split) return false;
    const int first_tile = waves * gridDim.x;
    const int64_t units = int64_t(tiles - first_tile) * key_tiles;
    const int start = int(units * blockIdx.x / gridDim.x), stop = int(units * (blockIdx.x + 1) / gridDim.x);
    const int piece = start / key_tiles + (i - waves);
    const int from = max(start, piece * key_tiles), to = min(stop, (piece + 1) * key_tiles);
    if (from >= to) return false;
    work = {first_tile + piece, from - piece * key_tiles, to - piece * key_tiles};
    return true;
  }
};

}  // namespace flux::kernels::attention
