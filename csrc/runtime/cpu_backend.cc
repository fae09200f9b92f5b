// The CPU backend: host memory, and programs run op by op with the kernels of csrc/cpu.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "cpu/ops.h"
#include "runtime/backend.h"
#include "runtime/error.h"
#include "runtime/stage.h"
#include "runtime/thread_pool.h"

namespace flux {
namespace {

constexpr std::align_val_t kAlignment{64};

struct BoundOp {
  cpu::Kernel kernel = nullptr;  // null for "if" and "together"
  OpCall call;
  std::vector<BoundOp> body;
};

std::vector<BoundOp> bind_ops(const std::vector<OpSpec>& specs, const Program& program, void* arena) {
  std::vector<BoundOp> ops;
  ops.reserve(specs.size());
  for (const OpSpec& spec : specs) {
    BoundOp op;
    op.call = bind_op(spec, program, arena);
    if (spec.kind == "if" || spec.kind == "together") {
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
      if (times != nullptr)
        times->push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
  }

 private:
  void run_op(const BoundOp& op, const std::atomic<bool>& stop) {
    if (op.kernel != nullptr) {
      op.kernel(op.call, pool_);
      return;
    }
    if (op.call.kind == "if" && *op.call.tensor("flag").as<int32_t>() == 0) return;
    for (const BoundOp& inner : op.body) {
      if (stop) return;
      run_op(inner, stop);
    }
  }

  std::vector<BoundOp> ops_;
  ThreadPool& pool_;
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int threads) : pool_(threads) {}

  void* allocate(uint64_t bytes) override {
    void* data = ::operator new(bytes, kAlignment, std::nothrow);
    if (data == nullptr) {
      throw FluxError(code::kOutOfMemory, "the CPU has no " + std::to_string(bytes) +
                                              " bytes left; make a smaller image or batch");
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
  void copy(void* to, const void* from, uint64_t bytes) override { std::memcpy(to, from, bytes); }

  uint64_t load(const LoadRequest& request) override {
    const StagedRows staged(request);
    float* scales = nullptr;
    if (request.scale != nullptr) {
      scales =
          reinterpret_cast<float*>(static_cast<std::byte*>(request.scale->data()) + request.scale_offset);
    }
    auto* target = static_cast<std::byte*>(request.target->data()) + request.target_offset;
    return staged.convert(0, staged.rows(), target, scales, pool_);
  }

  void transfer(const Transfer& transfer) override {
    if (transfer.treatment != Transfer::Rows::kCopied)
      throw FluxError(code::kUnsupported,
                      "the CPU has no rows to divide: its low-rank branches are not scaled");
    auto* target = static_cast<std::byte*>(transfer.target->data()) + transfer.target_offset;
    if (transfer.source == nullptr) {
      for (uint64_t row = 0; row < transfer.rows; ++row)
        std::memset(target + row * transfer.target_stride, 0, transfer.row_bytes);
      return;
    }
    const std::byte* source =
        transfer.source->bytes(transfer.source_offset, transfer.rows * transfer.row_bytes);
    for (uint64_t row = 0; row < transfer.rows; ++row) {
      std::memcpy(target + row * transfer.target_stride, source + row * transfer.row_bytes,
                  transfer.row_bytes);
    }
  }

  std::unique_ptr<Executable> bind(const Program& program, void* arena) override {
    return std::make_unique<CpuExecutable>(bind_ops(program.ops, program, arena), pool_);
  }

 private:
  ThreadPool pool_;
};

}  // namespace

std::shared_ptr<Backend> make_cpu_backend(int threads) { return std::make_shared<CpuBackend>(threads); }

}  // namespace flux
