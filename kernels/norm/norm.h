// Normalisation: rows of a [batch, rows, width] view in bf16 → bf16 or e4m3 codes with a scale a row; images by groups.
#pragma once

#include "status.h"

namespace flux::kernels {

// The rows to normalise and where they go. Row r of batch b starts at x + b · x_batch_stride + r · x_row_stride.
// width is a multiple of 8, at most 16384; x, y and all strides are multiples of 16 bytes (8 for e4m3 codes).
// y may be x itself (same strides, bf16).
struct NormRows {
  const void* x = nullptr;  // bf16
  int64_t x_batch_stride = 0;
  int64_t x_row_stride = 0;
  void* y = nullptr;  // y_type
  int64_t y_batch_stride = 0;
  int64_t y_row_stride = 0;
  Element y_type = Element::kBF16;  // kBF16, or kE4M3 by the definition in quantise/e4m3.cuh
  float* y_scale = nullptr;         // [batch · rows] with kE4M3, else unused
  int batch = 1;
  int rows = 0;
  int width = 0;
  float epsilon = 1e-6f;
};

// shift and scale [batch, width], rows of one batch batch_stride elements apart. Both null: nothing is modulated.
struct Modulation {
  const void* shift = nullptr;
  const void* scale = nullptr;
  int64_t batch_stride = 0;
};

// Rows with the modulation that they get.
struct ModulatedRows {
  NormRows rows;
  Modulation modulation;
};

inline constexpr int kNormMaxGroups = 2;

// y = x̂ · (1 + scale) + shift with x̂ = (x − mean) / √(variance + ε), biased variance. Up to two groups of rows, the text and image of
// a double block, of one width, y_type and epsilon; in one launch where the width is 3072. Groups write nothing of each other's.
// type: of shift and scale, kBF16 or kF32.
Status layer_norm_modulate(const ModulatedRows* groups, int count, Element type, cudaStream_t stream);

// y = x̂ · weight + bias; weight, bias [width] of `type` (kBF16 or kF32).
Status layer_norm(const NormRows& rows, const void* weight, const void* bias, Element type,
                  cudaStream_t stream);

// y = x / √(mean(x²) + ε) · weight; weight [width] of `type` (kBF16 or kF32).
Status rms_norm(const NormRows& rows, const void* weight, Element type, cudaStream_t stream);

// Groups of neighbouring channels of a channels-last image x [batch, pixels, channels] in bf16, contiguous.
// y (bf16, may be x) = activation(x̂ · weight + bias), x̂ over all pixels and the channels of one group.
struct GroupNorm {
  const void* x = nullptr;
  void* y = nullptr;
  const float* weight = nullptr;  // [channels]
  const float* bias = nullptr;    // [channels]
  int batch = 1;
  int64_t pixels = 0;
  int channels = 0;  // a multiple of `groups` and of 8, at most 2048
  int groups = 0;
  float epsilon = 1e-6f;
  Activation activation = Activation::kNone;
};

// Sums of x − pivot and of its square for each channel over a run of pixels, in f32: sums [batch, parts, channels, 2]. Parts
// are disjoint and together hold every pixel.
struct GroupNormSums {
  const float* sums = nullptr;
  int parts = 0;
  int channels_per_sum = 1;      // 2: of pairs of channels, sums [batch, parts, channels / 2, 2]
  const void* pivots = nullptr;  // bf16 [batch, channels] at pivot_batch_stride; null: zero
  int64_t pivot_batch_stride = 0;
};

// What a convolution's epilogue and group_norm_pair_sums write: this many parts, pairs of channels, no pivot. Unused parts are
// zeros.
inline constexpr int kGroupNormSumParts = 160;
Status group_norm_pair_sums(const GroupNorm& norm, float* sums, cudaStream_t stream);

// How many parts group_norm_statistics writes for this shape on the current device, and the bytes that group_norm needs.
int group_norm_parts(const GroupNorm& norm);
int64_t group_norm_workspace_bytes(const GroupNorm& norm);

// The three steps: sums by part; their combination in f64 to one multiplier and one addend a channel, affine
// [batch, channels, 2] f32; and y = activation(x · multiplier + addend). Nothing is atomic: the order is fixed.
Status group_norm_statistics(const GroupNorm& norm, float* sums, cudaStream_t stream);
Status group_norm_affine(const GroupNorm& norm, const GroupNormSums& sums, float* affine,
                         cudaStream_t stream);
Status group_norm_apply(const GroupNorm& norm, const float* affine, cudaStream_t stream);

// All three. workspace: group_norm_workspace_bytes, 16-byte aligned.
Status group_norm(const GroupNorm& norm, void* workspace, cudaStream_t stream);

}  // namespace flux::kernels
