// The CPU backend: host memory, and programs run op by op with the kernels of csrc/cpu.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "cpu/ops.h"
#include "runtime/backend.h"
#include "runtime/error.h"
#include "runtime/thread_pool.h"

namespace flux {
namespace {

constexpr std::align_val_t kAlignment{64};

struct BoundOp {
  cpu::Kernel kernel = nullptr;  // null for "if"
  OpCall call;
  std::vector<BoundOp> body;
};

std::vector<BoundOp> bind_ops(const std::vector<OpSpec>& specs, const Program& program, void* arena) {
  std::vector<BoundOp> ops;
  ops.reserve(specs.size());
  for (const OpSpec& spec : specs) {
    BoundOp op;
    op.call = bind_op(spec, program, arena);
    if (spec.kind == "if") {
      op.body = bind_ops(spec.body, program, arena);
    } else {
      op.kernel = cpu::find_kernel(spec.kind);
      if (op.kernel == nullptr) {
        throw FluxError(code::kUnsupported, "the CPU backend has no op \"" + spec.kind + "\"");
      }
    }
    ops.push_back(std::move(op));
  }
  return ops;
}

class CpuExecutable final : public Executable {
 public:
  CpuExecutable(std::vector<BoundOp> ops, ThreadPool& pool) : ops_(std::move(ops)), pool_(pool) {}

  void run(const std::atomic<bool>& stop, std::vector<double>* times) override {
    using Clock = std::chrono::steady_clock;
    for (const BoundOp& op : ops_) {
      if (stop) return;
      const auto start = Clock::now();
      run_op(op, stop);
      if (times != nullptr) times->push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
  }

 private:
  void run_op(const BoundOp& op, const std::atomic<bool>& stop) {
    if (op.kernel != nullptr) {
      op.kernel(op.call, pool_);
      return;
    }
    if (*op.call.tensor("flag").as<int32_t>() == 0) return;
    for (const BoundOp& inner : op.body) {
      if (stop) return;
      run_op(inner, stop);
    }
  }

  std::vector<BoundOp> ops_;
  ThreadPool& pool_;
};

float read_element(const std::byte* data, int64_t index, DType dtype) {
  switch (dtype) {
    case DType::kF32: {
      float value;
      std::memcpy(&value, data + index * 4, 4);
      return value;
    }
    case DType::kBF16:
    case DType::kF16: {
      uint16_t bits;
      std::memcpy(&bits, data + index * 2, 2);
      return dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
    }
    case DType::kF8E4M3:
      return e4m3_to_f32(std::to_integer<uint8_t>(data[index]));
    default:
      throw FluxError(code::kUnsupported, "weights of dtype " + std::string(name_of(dtype)) + " cannot be loaded");
  }
}

// One outermost row of the tensor as f32, in the wanted order; returns how many values are not finite.
uint64_t read_row(const LoadRequest& request, const std::byte* data, int64_t row, float* out) {
  const auto [rows, a, b, c] = request.shape;
  const int64_t width = a * b * c;
  uint64_t bad = 0;
  for (int64_t i = 0; i < width; ++i) {
    const float value = read_element(data, row * width + i, request.from) * request.multiplier;
    if (!std::isfinite(value)) ++bad;
    // Stored [Ci, kh, kw] (a, b, c): element (ci, y, x) goes to [y, x, ci].
    const int64_t target = request.convolution ? (i % (b * c)) * a + i / (b * c) : i;
    out[target] = value;
  }
  return bad;
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads) : pool_(threads) {}

  void* allocate(uint64_t bytes) override {
    void* data = ::operator new(bytes, kAlignment, std::nothrow);
    if (data == nullptr) {
      throw FluxError(code::kOutOfMemory, "the CPU has no " + std::to_string(bytes) + " bytes left; make a smaller image or batch");
    }
    count(static_cast<int64_t>(bytes));
    return data;
  }

  void free(void* data, uint64_t bytes) noexcept override {
    ::operator delete(data, kAlignment);
    count(-static_cast<int64_t>(bytes));
  }

  void upload(void* device, const void* host, uint64_t bytes) override { std::memcpy(device, host, bytes); }
  void download(void* host, const void* device, uint64_t bytes) override { std::memcpy(host, device, bytes); }

  uint64_t load(const LoadRequest& request) override {
    const int64_t rows = request.shape[0];
    const int64_t width = rows == 0 ? 0 : request.elements() / rows;
    const std::byte* data = request.file->bytes(request.begin, static_cast<uint64_t>(request.elements()) * size_of(request.from));
    auto* target = static_cast<std::byte*>(request.target->data()) + request.target_offset;
    std::atomic<uint64_t> bad{0};
    const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, width));
    pool_.parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
      std::vector<float> values(static_cast<size_t>(width));
      uint64_t found = 0;
      for (int64_t row = begin; row < end; ++row) {
        found += read_row(request, data, row, values.data());
        store_row(request, values, row, target);
      }
      bad += found;
    });
    return bad;
  }

  std::unique_ptr<Executable> bind(const Program& program, void* arena) override {
    return std::make_unique<CpuExecutable>(bind_ops(program.ops, program, arena), pool_);
  }

 private:
  static void store_row(const LoadRequest& request, const std::vector<float>& values, int64_t row, std::byte* target) {
    const size_t width = values.size();
    const size_t start = static_cast<size_t>(row) * width;
    switch (request.to) {
      case DType::kF32:
        std::memcpy(target + start * 4, values.data(), width * 4);
        return;
      case DType::kBF16: {
        auto* out = reinterpret_cast<uint16_t*>(target) + start;
        for (size_t i = 0; i < width; ++i) out[i] = f32_to_bf16(values[i]);
        return;
      }
      case DType::kF8E4M3: {
        float largest = 0.0f;
        for (const float value : values) largest = std::max(largest, std::fabs(value));
        const float scale = largest > 0.0f ? largest / 448.0f : 1.0f;
        auto* out = reinterpret_cast<uint8_t*>(target) + start;
        for (size_t i = 0; i < width; ++i) out[i] = f32_to_e4m3(values[i] / scale);
        reinterpret_cast<float*>(static_cast<std::byte*>(request.scale->data()) + request.scale_offset)[row] = scale;
        return;
      }
      default:
        throw FluxError(code::kUnsupported, "weights cannot be loaded as " + std::string(name_of(request.to)));
    }
  }

  ThreadPool pool_;
};

}  // namespace

std::shared_ptr<Backend> make_cpu_backend(int threads) { return std::make_shared<CpuBackend>(threads); }

}  // namespace flux
