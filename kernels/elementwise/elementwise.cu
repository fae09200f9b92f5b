// One result an element from one or two inputs. One kernel for all: a functor says what is computed, operands say their
// type at run time (the branch is uniform and costs nothing beside memory). Eight elements a thread where alignment
// allows, else one.
#include "elementwise/elementwise.h"

#include "activation.cuh"
#include "elementwise/scalar.cuh"
#include "launch.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void load_vector(const void* data, Element type, int64_t index,
                                            float (&values)[8]) {
  switch (type) {
    case Element::kBF16:
      return load8(static_cast<const bf16*>(data) + index, values);
    case Element::kF32:
      return load8(static_cast<const float*>(data) + index, values);
    default:
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i] = load_scalar(data, type, index + i);
  }
}

__device__ __forceinline__ void store_vector(void* data, Element type, int64_t index,
                                             const float (&values)[8]) {
  switch (type) {
    case Element::kBF16:
      return store8(static_cast<bf16*>(data) + index, values);
    case Element::kF32:
      return store8(static_cast<float*>(data) + index, values);
    default:
#pragma unroll
      for (int i = 0; i < 8; ++i) store_scalar(data, type, index + i, values[i]);
  }
}

struct Copy {
  static constexpr int kInputs = 1;
  __device__ void prepare() {}
  __device__ float operator()(float x, float) const { return x; }
};

struct Activate {
  static constexpr int kInputs = 1;
  Activation activation;
  __device__ void prepare() {}
  __device__ float operator()(float x, float) const { return activate(activation, x); }
};

struct Add {
  static constexpr int kInputs = 2;
  __device__ void prepare() {}
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Subtract {
  static constexpr int kInputs = 2;
  __device__ void prepare() {}
  __device__ float operator()(float a, float b) const { return a - b; }
};

struct AddScaled {
  static constexpr int kInputs = 2;
  const float* scale;
  float factor;
  __device__ void prepare() { factor = *scale; }
  __device__ float operator()(float x, float a) const { return factor == 0.0f ? x : fmaf(factor, a, x); }
};

struct Multiply {
  static constexpr int kInputs = 2;
  Activation activation;
  __device__ void prepare() {}
  __device__ float operator()(float a, float b) const { return activate(activation, a) * b; }
};

struct Guide {
  static constexpr int kInputs = 2;
  float scale;
  __device__ void prepare() {}
  __device__ float operator()(float uncond, float cond) const { return fmaf(scale, cond - uncond, uncond); }
};

struct EulerStep {
  static constexpr int kInputs = 2;
  const float* sigmas;
  const int32_t* step;
  float change;
  __device__ void prepare() { change = sigmas[*step + 1] - sigmas[*step]; }
  __device__ float operator()(float latent, float velocity) const { return fmaf(change, velocity, latent); }
};

struct ScaleNoise {
  static constexpr int kInputs = 2;
  const float* sigmas;
  const int32_t* step;
  float sigma;
  __device__ void prepare() { sigma = sigmas[*step]; }
  __device__ float operator()(float x, float noise) const { return sigma * noise + (1.0f - sigma) * x; }
};

struct ToImage {
  static constexpr int kInputs = 1;
  float largest;  // 255 for u8, 1 for floating point
  __device__ void prepare() {}
  __device__ float operator()(float x, float) const {
    return largest * fminf(fmaxf(fmaf(x, 0.5f, 0.5f), 0.0f), 1.0f);
  }
};

struct FromImage {
  static constexpr int kInputs = 1;
  __device__ void prepare() {}
  __device__ float operator()(float x, float) const { return x / 255.0f * 2.0f - 1.0f; }
};

template <typename Function, bool kVector>
__global__ void __launch_bounds__(kThreads)
    elementwise(Function function, const ConstView a, const ConstView b, const View y, const Extent extent) {
  constexpr int kWide = kVector ? 8 : 1;
  wait_for_predecessors();
  let_successor_start();
  function.prepare();
  const int64_t step = int64_t(gridDim.x) * kThreads * kWide;
  for (int row = blockIdx.y; row < extent.rows; row += gridDim.y) {
    const int64_t a_row = blockIdx.z * a.batch_stride + row * a.row_stride;
    const int64_t b_row = blockIdx.z * b.batch_stride + row * b.row_stride;
    const int64_t y_row = blockIdx.z * y.batch_stride + row * y.row_stride;
    for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kWide; i < extent.width; i += step) {
      if constexpr (kVector) {
        float left[8], right[8] = {};
        load_vector(a.data, a.type, a_row + i, left);
        if constexpr (Function::kInputs == 2) load_vector(b.data, b.type, b_row + i, right);
#pragma unroll
        for (int k = 0; k < 8; ++k) left[k] = function(left[k], right[k]);
        store_vector(y.data, y.type, y_row + i, left);
      } else {
        float right = 0.0f;
        const float left = load_scalar(a.data, a.type, a_row + i);
        if constexpr (Function::kInputs == 2) right = load_scalar(b.data, b.type, b_row + i);
        store_scalar(y.data, y.type, y_row + i, function(left, right));
      }
    }
  }
}

bool is_known(Element type) {
  return type == Element::kF32 || type == Element::kBF16 || type == Element::kF16 || type == Element::kU8;
}

bool vectorises(const ConstView& view) {
  const int size = size_of(view.type);
  return aligned16(view.data, view.row_stride, size) && aligned16(view.data, view.batch_stride, size);
}

ConstView as_const(const View& view) { return {view.data, view.type, view.batch_stride, view.row_stride}; }

template <typename Function>
Status run(const char* name, const Function& function, ConstView a, ConstView b, View y, Extent extent,
           cudaStream_t stream) {
  constexpr bool kTwo = Function::kInputs == 2;
  if (!is_known(a.type) || !is_known(y.type) || (kTwo && !is_known(b.type))) {
    return Status::bad_argument(std::string(name) + ": operands are f32, bf16, f16 or u8");
  }
  if (extent.batch < 0 || extent.batch > 65535 || extent.rows < 0 || extent.width < 0) {
    return Status::bad_argument(std::string(name) +
                                ": extents must not be negative, and batch at most 65535");
  }
  if (extent.batch == 0 || extent.rows == 0 || extent.width == 0) return {};
  const auto joined = [&](const auto& view) { return view.row_stride == extent.width; };
  if (joined(a) && joined(y) && (!kTwo || joined(b))) {  // one long row
    extent.width *= extent.rows;
    extent.rows = 1;
    a.row_stride = b.row_stride = y.row_stride = 0;
  }
  if (extent.rows == 1) a.row_stride = b.row_stride = y.row_stride = 0;
  if (extent.batch == 1) a.batch_stride = b.batch_stride = y.batch_stride = 0;
  const bool vector =
      extent.width % 8 == 0 && vectorises(a) && vectorises(as_const(y)) && (!kTwo || vectorises(b));
  const int64_t per_block = kThreads * (vector ? 8 : 1);
  const int64_t blocks = (extent.width + per_block - 1) / per_block;
  const dim3 grid(unsigned(blocks < 65536 ? blocks : 65536),
                  unsigned(extent.rows < 65535 ? extent.rows : 65535), unsigned(extent.batch));
  const auto kernel = vector ? elementwise<Function, true> : elementwise<Function, false>;
  return launch(name, kernel, grid, dim3(kThreads), 0, stream, function, a, b, y, extent);
}

}  // namespace

Status copy(const ConstView& x, const View& y, const Extent& extent, cudaStream_t stream) {
  return run("copy", Copy{}, x, {}, y, extent, stream);
}

Status activation(const ConstView& x, const View& y, const Extent& extent, Activation activation,
                  cudaStream_t stream) {
  return run("activation", Activate{activation}, x, {}, y, extent, stream);
}

Status add(const ConstView& a, const ConstView& b, const View& y, const Extent& extent, cudaStream_t stream) {
  return run("add", Add{}, a, b, y, extent, stream);
}

Status subtract(const ConstView& a, const ConstView& b, const View& y, const Extent& extent,
                cudaStream_t stream) {
  return run("subtract", Subtract{}, a, b, y, extent, stream);
}

Status add_scaled(const ConstView& x, const ConstView& a, const View& y, const Extent& extent,
                  const float* factor, cudaStream_t stream) {
  return run("add_scaled", AddScaled{factor, 0.0f}, x, a, y, extent, stream);
}

Status multiply(const ConstView& a, const ConstView& b, const View& y, const Extent& extent,
                Activation activation, cudaStream_t stream) {
  return run("multiply", Multiply{activation}, a, b, y, extent, stream);
}

Status guide(const ConstView& uncond, const ConstView& cond, const View& y, const Extent& extent, float scale,
             cudaStream_t stream) {
  return run("guide", Guide{scale}, uncond, cond, y, extent, stream);
}

Status euler_step(const ConstView& latents, const ConstView& velocity, const View& y, const Extent& extent,
                  const float* sigmas, const int32_t* step, cudaStream_t stream) {
  return run("euler_step", EulerStep{sigmas, step, 0.0f}, latents, velocity, y, extent, stream);
}

Status scale_noise(const ConstView& x, const ConstView& noise, const View& y, const Extent& extent,
                   const float* sigmas, const int32_t* step, cudaStream_t stream) {
  return run("scale_noise", ScaleNoise{sigmas, step, 0.0f}, x, noise, y, extent, stream);
}

Status to_image(const ConstView& x, const View& y, const Extent& extent, cudaStream_t stream) {
  return run("to_image", ToImage{y.type == Element::kU8 ? 255.0f : 1.0f}, x, {}, y, extent, stream);
}

Status from_image(const ConstView& x, const View& y, const Extent& extent, cudaStream_t stream) {
  if (x.type != Element::kU8) return Status::bad_argument("from_image: the input is u8");
  return run("from_image", FromImage{}, x, {}, y, extent, stream);
}

}  // namespace flux::kernels
