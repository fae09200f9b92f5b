// GroupNorm's multiplication and SiLU on a halo, in place, between its arrival and its use: every pixel once for all taps.
#pragma once

#include "conv/produce.cuh"
#include "gemm/activation.cuh"
#include "vector.cuh"

namespace flux::kernels::conv {

// A thread's eight channels of a chunk, halved: SiLU(h) = u + u·tanh(u) with u = h / 2. Beyond the last channel: zeros.
struct HalvedAffine {
  float multiplier[8], addend[8];

  __device__ __forceinline__ void load(const ConvParams& params, int batch, int channel) {
    const bool exists = channel < params.channels;
    const float4* pairs =
        reinterpret_cast<const float4*>(params.affine + int64_t(batch) * params.channels + channel);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 two = exists ? __ldg(pairs + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      multiplier[2 * i] = 0.5f * two.x;
      addend[2 * i] = 0.5f * two.y;
      multiplier[2 * i + 1] = 0.5f * two.z;
      addend[2 * i + 1] = 0.5f * two.w;
    }
  }

  __device__ __forceinline__ uint32_t apply(uint32_t packed, int i) const {
    const float low = fmaf(low_of(packed), multiplier[i], addend[i]);
    const float high = fmaf(high_of(packed), multiplier[i + 1], addend[i + 1]);
    return ptx::cvt_rn_bf16x2(fmaf(low, ptx::tanh_approx(low), low),
                              fmaf(high, ptx::tanh_approx(high), high));
  }
};

inline constexpr int kNormaliseThreads = 96;

// One halo by warps 1 to 3, eight lanes a pixel, the next round's pixels loaded before this one's are computed. What lies outside the
// image becomes zero; `inside` says that nothing does.
template <typename Config>
__device__ __forceinline__ void normalise_halo(const ConvParams& params, const HalvedAffine& affine,
                                               const HaloOrigin& origin, bool inside, uint32_t halo) {
  constexpr int kPixelsAtOnce = kNormaliseThreads / 8;
  constexpr int kUnroll = 2, kRound = kUnroll * kPixelsAtOnce;
  static_assert(kPixelsAtOnce % 8 == 4 && kPixelsAtOnce / Config::kHaloWidth <= 1);
  const int thread = int(threadIdx.x) - 32, lane = thread / 8;
  // Twelve pixels on, the swizzle has another 4.
  uint32_t at = halo + lane * Config::kPixelBytes + ((thread % 8 ^ lane % 8) * 16);
  const auto address = [&](int u) { return (at + u * kPixelsAtOnce * Config::kPixelBytes) ^ (u % 2 * 64); };
  int y = origin.y + lane / Config::kHaloWidth, x = origin.x + lane % Config::kHaloWidth;
  uint4 next[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) next[u] = ptx::ld_shared_v4_b32(address(u));
#pragma unroll 1
  for (int pixel = lane; pixel < Config::kHaloPixels; pixel += kRound) {
    uint4 values[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      values[u] = next[u];
      if (pixel + kRound + u * kPixelsAtOnce < Config::kHaloPixels)
        next[u] = ptx::ld_shared_v4_b32(address(u) + kRound * Config::kPixelBytes);
    }
    // No branch between the pixels of a round: they go through the pipelines together.
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      values[u] = make_uint4(affine.apply(values[u].x, 0), affine.apply(values[u].y, 2),
                             affine.apply(values[u].z, 4), affine.apply(values[u].w, 6));
    }
    if (!inside) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (y < 0 || x < 0 || y >= params.height || x >= params.width) values[u] = make_uint4(0, 0, 0, 0);
        x += kPixelsAtOnce % Config::kHaloWidth;
        y += kPixelsAtOnce / Config::kHaloWidth;
        if (x >= origin.x + Config::kHaloWidth) {
          x -= Config::kHaloWidth;
          ++y;
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (u == 0 || pixel + u * kPixelsAtOnce < Config::kHaloPixels)
        ptx::st_shared_v4_b32(address(u), values[u]);
    }
    at += kRound * Config::kPixelBytes;
  }
}

// Warps 1 to 3: one thread loads a halo as soon as its place is free, all wait on halo_full, and every thread arrives on halo_ready.
// With two halos there is nothing to load while one is being normalised.
template <typename Config>
__device__ __forceinline__ void normalise_halos(const ConvParams& params, uint32_t shared, uint32_t rank,
                                                int first, int step) {
  const int thread = int(threadIdx.x) - 32;
  RingPosition<Config::kHalos> ring;
  HalvedAffine affine;
  for (int index = first; index < params.tiles; index += step) {
    const Tile tile = tile_at<Config>(params, index, rank);
    const HaloOrigin origin = halo_origin(params, tile, params.segments[0]);
    const bool inside = origin.y >= 0 && origin.x >= 0 && origin.y + Config::kHaloHeight <= params.height &&
                        origin.x + Config::kHaloWidth <= params.width;
    for (int chunk = 0; chunk < params.chunks; ++chunk, ring.advance()) {
      if (thread == 0) load_halo<Config>(params, tile, params.segments[0], chunk, shared, ring);
      __syncwarp();
      affine.load(params, tile.batch, 64 * chunk + 8 * (thread % 8));
      const uint32_t halo = shared + ring.stage * Config::kHaloBytes;
      ptx::mbarrier_wait(shared + Config::kHaloFullAt + 8 * ring.stage, ring.parity);
      normalise_halo<Config>(params, affine, origin, inside, halo);
      ptx::fence_proxy_async();
      ptx::mbarrier_arrive(shared + Config::kHaloReadyAt + 8 * ring.stage);
    }
  }
}

}  // namespace flux::kernels::conv
