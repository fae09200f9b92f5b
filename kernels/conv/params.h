// What a convolution kernel is given, by value: it must stay valid in a captured graph.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace flux::kernels::conv {

// A tap: where its operand begins in the halo, and which tap of W it is.
struct Tap {
  uint16_t halo;  // in units of 16 bytes from the halo's first pixel
  uint16_t weight;
};

// Taps that read the same halo. A convolution of stride 1 is one segment; of stride 2 there is one for each parity of row and
// column, whose pixels x's tensor map shows as neighbours.
struct Segment {
  int taps;
  int down, right;   // of the halo's first pixel against the tile's
  int first_column;  // of the tensor map's innermost axis: 0, or `channels` for odd columns
  int row_parity;
};

inline constexpr int kMaxSegments = 4;
inline constexpr int kMaxTaps = 9;

struct ConvParams {
  CUtensorMap x;  // [batch, rows, row parity, columns, channels], box halo × 64 channels
  CUtensorMap w;  // [out_channels, taps · channels], box kTileN / 2 × 64
  CUtensorMap
      residual;  // [batch, out_height, out_width, out_channels], box of a part of a tile × 64 channels
  CUtensorMap
      result;  // [batch, rows, row phase, columns, channels (column phase)], the same; where channels are rows
  Segment segments[kMaxSegments];
  Tap taps[kMaxTaps];
  int segment_count;
  int chunks;  // of 64 input channels
  int k_blocks;
  int phase_taps;  // of W for each phase; 0 without phases

  __nv_bfloat16* y;
  const float* bias;
  const float2* affine;  // [batch, channels]
  float2* sums;          // [batch, parts, out_channels / 2]
  bool adds_residual;

  int batch, height, width, channels;  // of x
  int out_height, out_width, out_channels;
  int grid_height, grid_width;         // output pixels, of one phase
  int spread;                          // between the output pixels of a phase: 2, else 1
  int phases;                          // 4, else 1
  int clusters_across, clusters_down;  // cluster tiles of one phase of one image
  bool pairs_down;                     // the cluster's second tile is below the first, not to the right
  int image_tiles;                     // cluster tiles of one image and column block
  int tiles;                           // of all
  int parts;                           // of the sums that this launch fills; the others become zeros
};

}  // namespace flux::kernels::conv
