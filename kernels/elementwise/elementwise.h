// Steps of one result an element, and copies that choose or rearrange: nothing here is worth a matrix unit.
#pragma once

#include "status.h"

namespace flux::kernels {

// Rows of a [batch, rows, width] view; element (b, r, c) at data + b · batch_stride + r · row_stride + c.
struct ConstView {
  const void* data = nullptr;
  Element type = Element::kBF16;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
};
struct View {
  void* data = nullptr;
  Element type = Element::kBF16;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
};
struct Extent {
  int batch = 1;
  int rows = 1;
  int64_t width = 0;
};

// Operands are bf16, f16, f32 or u8 (0 … 255) each for itself; arithmetic is f32; a u8 result is rounded to nearest even and
// saturated. Outputs may be an input's own view. Widths that are multiples of 8 at 16-byte alignment take the fast path.
Status copy(const ConstView& x, const View& y, const Extent& extent, cudaStream_t stream);  // converts
Status activation(const ConstView& x, const View& y, const Extent& extent, Activation activation,
                  cudaStream_t stream);
Status add(const ConstView& a, const ConstView& b, const View& y, const Extent& extent, cudaStream_t stream);
// y = a − b
Status subtract(const ConstView& a, const ConstView& b, const View& y, const Extent& extent,
                cudaStream_t stream);
// y = x + *factor · a, the factor on the device; with factor 0 y = x whatever a holds.
Status add_scaled(const ConstView& x, const ConstView& a, const View& y, const Extent& extent,
                  const float* factor, cudaStream_t stream);
// y = activation(a) · b
Status multiply(const ConstView& a, const ConstView& b, const View& y, const Extent& extent,
                Activation activation, cudaStream_t stream);
// y = uncond + scale · (cond − uncond): classifier-free guidance.
Status guide(const ConstView& uncond, const ConstView& cond, const View& y, const Extent& extent, float scale,
             cudaStream_t stream);
// y = latents + (σ[i + 1] − σ[i]) · velocity with i = *step; sigmas [steps + 1] f32, step i32, both on the device.
Status euler_step(const ConstView& latents, const ConstView& velocity, const View& y, const Extent& extent,
                  const float* sigmas, const int32_t* step, cudaStream_t stream);
// y = σ[i] · noise + (1 − σ[i]) · x
Status scale_noise(const ConstView& x, const ConstView& noise, const View& y, const Extent& extent,
                   const float* sigmas, const int32_t* step, cudaStream_t stream);
// u = clamp(x / 2 + ½, 0, 1), a NaN gives 0; y as u8: 255 · u, rounded to nearest even; else u.
Status to_image(const ConstView& x, const View& y, const Extent& extent, cudaStream_t stream);
// y = x / 255 · 2 − 1 of u8 x.
Status from_image(const ConstView& x, const View& y, const Extent& extent, cudaStream_t stream);

// y = table[*index]: one row of row_bytes. An index outside [0, rows) takes the nearest row.
Status take_row(const void* table, int rows, int64_t row_bytes, const int32_t* index, void* y,
                cudaStream_t stream);
// y[b] = x[b, index[b]] for x [batch, rows, row_bytes bytes]; an index outside takes the nearest row.
Status gather_rows(const void* x, int batch, int rows, int64_t row_bytes, const int32_t* index, void* y,
                   cudaStream_t stream);
// ++*counter
Status increment(int32_t* counter, cudaStream_t stream);
// *y = *a > *b
Status greater(const float* a, const float* b, int32_t* y, cudaStream_t stream);
// y [batch, tokens, width] (contiguous) = table[id] (+ positions[token]); ids [batch, tokens] i32; table [vocabulary, width],
// positions [≥ tokens, width] or null. Types f32 or bf16. An id outside the table fills its row with NaN.
struct Embedding {
  const int32_t* ids = nullptr;
  const void* table = nullptr;
  Element table_type = Element::kBF16;
  const void* positions = nullptr;
  Element positions_type = Element::kBF16;
  void* y = nullptr;
  Element y_type = Element::kBF16;
  int batch = 1;
  int tokens = 0;
  int width = 0;
  int vocabulary = 0;
};
Status embedding(const Embedding& embedding, cudaStream_t stream);

// y [count, width] (f32 or bf16) = [cos(scale · t · f_i) …, sin(scale · t · f_i) …], f_i = exp(−ln(max_period) · i / (width / 2)),
// angles in f32 (Ho et al. 2020, cosine first). t [count] f32; width is even.
Status timestep_embedding(const float* t, int count, int width, float scale, float max_period, void* y,
                          Element y_type, cudaStream_t stream);
// y [tokens, Σ dims / 2, 2] f32: cos and sin of ids[token, axis] / theta^(2i / dims[axis]) in f64, axes one after another.
// ids [tokens, axes] f32; axes at most 4 (Su et al. 2021; FLUX's axes are 16, 56, 56).
Status rope_table(const float* ids, int tokens, int axes, const int* dims, double theta, float* y,
                  cudaStream_t stream);
// y [⌈tokens/16⌉, 8, 32, 8] f16 = table [tokens, 64, 2] in the order of attention/rope_pairs.cuh, for gemm.h's rope_pairs.
Status rope_pairs(const float* table, int tokens, void* y, cudaStream_t stream);
// y [heads, tokens, tokens] f32 = table[bucket(key − query), head]; table [buckets, heads] f32 or bf16. Bidirectional
// buckets: half for each sign, half of those exact, the rest logarithmic up to max_distance (Raffel et al. 2020).
Status t5_bias(const void* table, Element table_type, int buckets, int heads, int tokens, int max_distance,
               float* y, cudaStream_t stream);

// 2 × 2 patches: x [batch, height, width, channels] ↔ y [batch, height/2 · width/2, 4 · channels], channel-major
// (c · 4 + dy · 2 + dx). Types f32 or bf16 each. pack: y = (x − shift) · scale; unpack: y = x / scale + shift.
struct Patches {
  const void* x = nullptr;
  Element x_type = Element::kF32;
  void* y = nullptr;
  Element y_type = Element::kF32;
  int batch = 1;
  int height = 0;  // of the image side, even
  int width = 0;   // likewise
  int channels = 0;
  float scale = 1.0f;
  float shift = 0.0f;
  bool channels_first = false;  // pack only: x is [batch, channels, height, width]
};
Status pack_latents(const Patches& patches, cudaStream_t stream);
Status unpack_latents(const Patches& patches, cudaStream_t stream);

// y [pixels, channels] = mean + exp(½ · clamp(log-variance, −30, 20)) · noise of moments [pixels, 2 · channels]; noise like
// y, or null for the mean alone.
Status sample_latents(const void* moments, Element moments_type, const void* noise, Element noise_type,
                      void* y, Element y_type, int64_t pixels, int channels, cudaStream_t stream);

// A tile x [batch, height, width, channels], contiguous, over a part y of an image whose pixels lie side by side, both of `type`
// (bf16 or f32): y += s · (x − y), s = s_row · s_column, s_row(r) = clamp((r − top + ½) / top_ramp, 0, 1), or with an empty ramp
// 0 before row `top` and 1 from it on; columns likewise. Where s = 1 y is not read.
struct TileBlend {
  const void* x = nullptr;
  void* y = nullptr;
  Element type = Element::kBF16;
  int batch = 1, height = 0, width = 0, channels = 0;
  int64_t y_batch_stride = 0, y_row_stride = 0;
  int top = 0, top_ramp = 0, left = 0, left_ramp = 0;
};
Status blend_tile(const TileBlend& blend, cudaStream_t stream);

}  // namespace flux::kernels
