// GroupNorm's multiplication and SiLU on a halo, in place, between its arrival and its use: every pixel once for all taps.
#pragma once

#include "conv/produce.cuh"
#include "gemm/activation.cuh"
#include "vector.cuh"

namespace flux::kernels::conv {

inline constexpr int kNormaliseThreads = 64;

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

// Warps 2 and 3: eight lanes a pixel. Waits on halo_full; every thread arrives on halo_ready.
template <typename Config>
__device__ __forceinline__ void normalise_halos(const ConvParams& params, uint32_t shared, uint32_t rank,
                                                int first, int step) {
  constexpr int kPixelsAtOnce = kNormaliseThreads / 8;
  constexpr int kUnroll = 3;
  static_assert(kPixelsAtOnce == 8 && kPixelsAtOnce <= Config::kHaloWidth);
  const int thread = threadIdx.x % kNormaliseThreads, lane = thread / 8, chunk_of_8 = thread % 8;
  RingPosition<Config::kHalos> ring;
  HalvedAffine affine;
  for (int index = first; index < params.tiles; index += step) {
    const Tile tile = tile_at<Config>(params, index, rank);
    const HaloOrigin origin = halo_origin(params, tile, params.segments[0]);
    for (int chunk = 0; chunk < params.chunks; ++chunk, ring.advance()) {
      affine.load(params, tile.batch, 64 * chunk + 8 * chunk_of_8);
      // Eight pixels on, the swizzle is the same.
      uint32_t at =
          shared + ring.stage * Config::kHaloBytes + lane * Config::kPixelBytes + ((chunk_of_8 ^ lane) * 16);
      ptx::mbarrier_wait(shared + Config::kHaloFullAt + 8 * ring.stage, ring.parity);
      int y = origin.y, x = origin.x + lane;
#pragma unroll 1
      for (int pixel = lane; pixel < Config::kHaloPixels; pixel += kUnroll * kPixelsAtOnce) {
        uint4 values[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          if (pixel + u * kPixelsAtOnce < Config::kHaloPixels)
            values[u] = ptx::ld_shared_v4_b32(at + u * kPixelsAtOnce * Config::kPixelBytes);
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          // Without a branch: all pixels of a round go through the pipelines together.
          const bool inside = y >= 0 && x >= 0 && y < params.height && x < params.width;
          const uint32_t keep = inside ? 0xffffffffu : 0u;
          const uint4 result =
              make_uint4(affine.apply(values[u].x, 0) & keep, affine.apply(values[u].y, 2) & keep,
                         affine.apply(values[u].z, 4) & keep, affine.apply(values[u].w, 6) & keep);
          if (pixel + u * kPixelsAtOnce < Config::kHaloPixels)
            ptx::st_shared_v4_b32(at + u * kPixelsAtOnce * Config::kPixelBytes, result);
          x += kPixelsAtOnce;
          if (x >= origin.x + Config::kHaloWidth) {
            x -= Config::kHaloWidth;
            ++y;
          }
        }
        at += kUnroll * kPixelsAtOnce * Config::kPixelBytes;
      }
      ptx::fence_proxy_async();
      ptx::mbarrier_arrive(shared + Config::kHaloReadyAt + 8 * ring.stage);
    }
  }
}

}  // namespace flux::kernels::conv
