// Which block computes what. Blocks are persistent: block c of G takes query tiles c, c + G, ... while whole waves last.
//
// A slice's last query tile may be a part of one, which has queries for one warpgroup only and takes less time for it. Such tiles come
// after all whole ones: first the whole tiles of every slice, then every slice's part.
//
// The last one-and-a-bit waves are cut along the keys instead, so that every block gets the same amount of work: their tiles of
// K key tiles each form a line, a key tile of a whole query tile being `kWhole` units long and one of a part `part` units,
// of which block c takes the c-th G-th part. That is at least a whole query tile long, so a query tile lies in at most two
// blocks. The block that has its last keys starts with them, publishes its accumulator and goes on; the block that has its
// first keys computes them last and merges. Nobody waits for a block that waits. Boundaries depend on shapes and G alone, so
// results repeat bit for bit.
#pragma once

#include <cstdint>

namespace flux::kernels::attention {

struct Work {
  int slice, query_tile;
  int begin, end;  // key tiles
};

struct Schedule {
  static constexpr int kWhole = 18;

  int slices, whole_tiles;  // per slice
  int part;       // units of a key tile of a slice's last query tile where that is a part of one, or 0
  int key_tiles;  // per query tile
  int waves;      // whole waves, taken tile by tile
  bool split;     // the rest is cut along the keys

  static Schedule make(int slices, int whole_tiles, int part, int key_tiles, int blocks, bool may_split) {
    const int whole = slices * whole_tiles, tiles = whole + (part > 0 ? slices : 0);
    const int work = (whole * kWhole + slices * part) / (blocks * kWhole);  // in waves of whole tiles
    if (!may_split || work == 0 || tiles <= blocks || (part == 0 && tiles % blocks == 0)) {
      return {slices, whole_tiles, part, key_tiles, (tiles + blocks - 1) / blocks, false};
    }
    const int waves = work - 1 < whole / blocks ? work - 1 : whole / blocks;
    return {slices, whole_tiles, part, key_tiles, waves, true};
  }

  // The i-th piece of work of this block; false when there is none.
  __device__ __forceinline__ bool get(int i, Work& work) const {
    if (i < waves) {
      work.begin = 0;
      work.end = key_tiles;
      return locate(i * int(gridDim.x) + int(blockIdx.x), work);
    }
    if (!split) return false;
    const int first = waves * gridDim.x, whole = slices * whole_tiles - first;
    const int64_t parts_at = int64_t(whole) * key_tiles * kWhole;  // on the line
    const int64_t units = parts_at + int64_t(slices) * key_tiles * part;
    const int start = int(units * blockIdx.x / gridDim.x), stop = int(units * (blockIdx.x + 1) / gridDim.x);
    const int before = start < parts_at ? start / (key_tiles * kWhole)
                                        : whole + (start - int(parts_at)) / (key_tiles * part);
    const int tile = before + (i - waves), length = tile < whole ? kWhole : part;
    const int at =
        tile < whole ? tile * key_tiles * kWhole : int(parts_at) + (tile - whole) * key_tiles * part;
    if (at >= stop || length == 0) return false;
    work.begin = start > at ? (start - at) / length : 0;
    work.end = min(key_tiles, (stop - at) / length);
    return work.begin < work.end && locate(first + tile, work);
  }

 private:
  __device__ __forceinline__ bool locate(int tile, Work& work) const {
    const int part_slice = tile - slices * whole_tiles;
    if (part_slice < 0) {
      work.slice = tile / whole_tiles;
      work.query_tile = tile % whole_tiles;
      return true;
    }
    work.slice = part_slice;
    work.query_tile = whole_tiles;
    return part > 0 && part_slice < slices;
  }
};

}  // namespace flux::kernels::attention
