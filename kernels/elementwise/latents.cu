// Latents: 2 × 2 patches to and from tokens, and samples of the autoencoder's distribution.
#include "elementwise/elementwise.h"
#include "elementwise/scalar.cuh"
#include "launch.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;

// Index into the token side for an element of the image side.
__device__ __forceinline__ int64_t token_index(const Patches& p, int64_t image_index) {
  int64_t rest = image_index;
  const auto next = [&](int length) {
    const int index = int(rest % length);
    rest /= length;
    return index;
  };
  int c = 0;
  if (!p.channels_first) c = next(p.channels);
  const int x = next(p.width);
  const int y = next(p.height);
  if (p.channels_first) c = next(p.channels);
  const int64_t token = (rest * (p.height / 2) + y / 2) * (p.width / 2) + x / 2;
  return token * (4 * p.channels) + c * 4 + (y % 2) * 2 + x % 2;
}

template <bool kPack>
__global__ void __launch_bounds__(kThreads) rearrange(const Patches p, int64_t count) {
  wait_for_predecessors();
  let_successor_start();
  const int64_t image = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (image >= count) return;
  const int64_t token = token_index(p, image);
  if constexpr (kPack) {
    store_scalar(p.y, p.y_type, token, (load_scalar(p.x, p.x_type, image) - p.shift) * p.scale);
  } else {
    store_scalar(p.y, p.y_type, image, load_scalar(p.x, p.x_type, token) / p.scale + p.shift);
  }
}

template <bool kPack>
Status launch_rearrange(const char* name, const Patches& p, cudaStream_t stream) {
  if (p.batch < 0 || p.height < 0 || p.width < 0 || p.height % 2 || p.width % 2 || p.channels < 1) {
    return Status::bad_argument(std::string(name) + ": height and width must be even");
  }
  if (!is_float(p.x_type) || !is_float(p.y_type)) {
    return Status::bad_argument(std::string(name) + ": x and y are f32 or bf16");
  }
  const int64_t count = int64_t(p.batch) * p.height * p.width * p.channels;
  if (count == 0) return {};
  const dim3 grid(unsigned((count + kThreads - 1) / kThreads));
  return launch(name, rearrange<kPack>, grid, dim3(kThreads), 0, stream, p, count);
}

__global__ void __launch_bounds__(kThreads)
    sample(const void* moments, Element moments_type, const void* noise, Element noise_type, void* y,
           Element y_type, int64_t count, int channels) {
  wait_for_predecessors();
  let_successor_start();
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t mean = i / channels * (2 * channels) + i % channels;
  float value = load_scalar(moments, moments_type, mean);
  if (noise) {
    const float log_variance =
        fminf(fmaxf(load_scalar(moments, moments_type, mean + channels), -30.0f), 20.0f);
    value = fmaf(expf(0.5f * log_variance), load_scalar(noise, noise_type, i), value);
  }
  store_scalar(y, y_type, i, value);
}

}  // namespace

Status pack_latents(const Patches& patches, cudaStream_t stream) {
  return launch_rearrange<true>("pack_latents", patches, stream);
}

Status unpack_latents(const Patches& patches, cudaStream_t stream) {
  if (patches.scale == 0.0f) return Status::bad_argument("unpack_latents: scale must not be zero");
  return launch_rearrange<false>("unpack_latents", patches, stream);
}

Status sample_latents(const void* moments, Element moments_type, const void* noise, Element noise_type,
                      void* y, Element y_type, int64_t pixels, int channels, cudaStream_t stream) {
  if (pixels < 0 || channels < 1 || !is_float(moments_type) || !is_float(y_type) ||
      (noise && !is_float(noise_type))) {
    return Status::bad_argument("sample_latents: moments, noise and output are f32 or bf16");
  }
  if (pixels == 0) return {};
  const int64_t count = pixels * channels;
  const dim3 grid(unsigned((count + kThreads - 1) / kThreads));
  return launch("sample_latents", sample, grid, dim3(kThreads), 0, stream, moments, moments_type, noise,
                noise_type, y, y_type, count, channels);
}

}  // namespace flux::kernels
