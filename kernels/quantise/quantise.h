// Quantisation to e4m3: activations a token at a time while running, weights a channel at a time at load.
// The definition of scale and codes, with zero rows, infinities and NaN, is in quantise/e4m3.cuh.
#pragma once

#include "status.h"

namespace flux::kernels {

// Rows of a [batch, rows, width] view in bf16 → codes at the same kind of strides and one scale a row.
struct QuantiseRows {
  const void* x = nullptr;  // bf16; x and its strides are multiples of 16 bytes
  int64_t x_batch_stride = 0;
  int64_t x_row_stride = 0;
  uint8_t* codes = nullptr;  // codes and its strides are multiples of 8 bytes
  int64_t codes_batch_stride = 0;
  int64_t codes_row_stride = 0;
  float* scale = nullptr;  // [batch · rows]
  int batch = 1;
  int rows = 0;
  int width = 0;  // a multiple of 8, at most 16384
};
Status quantise_rows(const QuantiseRows& quantise, cudaStream_t stream);

// A weight [channels, width] of `type` (kF32, kF16 or kBF16), rows row_stride apart, any width ≥ 1, any alignment that
// the type allows → codes [channels, width], contiguous, and one scale a channel.
Status quantise_weight(const void* weight, Element type, int channels, int width, int64_t row_stride,
                       uint8_t* codes, float* scale, cudaStream_t stream);

// What a linear's result can reach, for an output quantised before its rows' maxima are known: bounds[0] = 448·√width·max‖w_n‖
// over the channels of codes [channels, width] × scale [channels], bounds[1] = max|bias| (0 without). Codes x of a row with
// scale s then give |s·Σ x·w_n + bias_n| ≤ s·bounds[0] + bounds[1].
Status weight_bounds(const uint8_t* codes, const float* scale, const float* bias, int channels, int width,
                     float* bounds, cudaStream_t stream);

}  // namespace flux::kernels
