// The CUDA backend: one non-blocking stream, a memory pool, pinned staging, and programs as captured graphs.
//
// Calls come from two threads: allocate from the JS thread, everything else from the device's thread. Memory is freed on the
// work stream, behind the work that uses it, and allocated on a stream of its own, since the work stream may be capturing
// just then; the pool orders the two.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "attention/attention.h"
#include "cuda/check.h"
#include "cuda/graph.h"
#include "cuda/health.h"
#include "cuda/host_pages.h"
#include "cuda/pinned_pool.h"
#include "cuda/views.h"
#include "lora/lora.h"
#include "quantise/quantise.h"
#include "runtime/backend.h"
#include "runtime/cuda_info.h"
#include "runtime/stage.h"
#include "runtime/thread_pool.h"

namespace flux::cuda {
namespace {

constexpr uint64_t kStagingBytes = 32ull << 20;  // each of two: copies to one overlap with filling the other
constexpr int kMaxStagingThreads = 16;
constexpr std::chrono::microseconds kAskAgain{20};

class EventFence final : public Fence {
 public:
  EventFence(cudaStream_t stream, std::shared_ptr<Health> health) : health_(std::move(health)) {
    health_->guard(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming | cudaEventBlockingSync),
                   "cudaEventCreate");
    health_->guard(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  ~EventFence() override { cudaEventDestroy(event_); }

  void wait() override {
    health_->require();
    health_->guard(cudaEventSynchronize(event_), "the GPU");
  }

 private:
  cudaEvent_t event_ = nullptr;
  std::shared_ptr<Health> health_;
};

class CudaExecutable final : public Executable {
 public:
  CudaExecutable(std::vector<BoundOp> ops, const Launch& launch, std::shared_ptr<Health> health)
      : ops_(std::move(ops)), launch_(launch), health_(std::move(health)), graph_(capture(ops_, launch)) {}
  // A graph in flight is freed when it is done.
  ~CudaExecutable() override { cudaGraphExecDestroy(graph_); }

  void run(const std::atomic<bool>&, std::vector<double>* times) override {
    health_->require();
    if (times != nullptr) {
      run_timed(*times);
      return;
    }
    health_->guard(cudaGraphLaunch(graph_, launch_.stream), "cudaGraphLaunch");
  }

 private:
  // Op by op, an event between each: what the ops take by themselves, without the overlap that a graph allows.
  void run_timed(std::vector<double>& times) {
    std::vector<cudaEvent_t> events(ops_.size() + 1);
    for (cudaEvent_t& event : events) health_->guard(cudaEventCreate(&event), "cudaEventCreate");
    for (const BoundOp& op : ops_) run_directly(op, launch_);  // warms up
    for (size_t i = 0; i < ops_.size(); ++i) {
      health_->guard(cudaEventRecord(events[i], launch_.stream), "cudaEventRecord");
      run_directly(ops_[i], launch_);
    }
    health_->guard(cudaEventRecord(events.back(), launch_.stream), "cudaEventRecord");
    health_->guard(cudaStreamSynchronize(launch_.stream), "a profiled run");
    for (size_t i = 0; i < ops_.size(); ++i) {
      float ms = 0.0f;
      health_->guard(cudaEventElapsedTime(&ms, events[i], events[i + 1]), "cudaEventElapsedTime");
      times.push_back(ms);
    }
    for (cudaEvent_t event : events) cudaEventDestroy(event);
  }

  std::vector<BoundOp> ops_;
  Launch launch_;
  std::shared_ptr<Health> health_;
  cudaGraphExec_t graph_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int index)
      : index_(index), health_(std::make_shared<Health>(index)), pool_threads_(staging_threads()) {
    check(cudaSetDevice(index_), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaStreamCreateWithFlags(&allocation_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location = {cudaMemLocationTypeDevice, index_};
    check(cudaMemPoolCreate(&pool_, &properties), "cudaMemPoolCreate");
    uint64_t keep =
        UINT64_MAX;  // freed memory stays in the pool until trim(): Buffers come and go with requests
    check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
    for (Staging& staging : staging_) {
      check(cudaHostAlloc(reinterpret_cast<void**>(&staging.data), kStagingBytes, cudaHostAllocDefault),
            "pinned staging");
      check(cudaEventCreateWithFlags(&staging.free, cudaEventDisableTiming | cudaEventBlockingSync),
            "cudaEventCreate");
    }
    const size_t bytes = kernels::attention_workspace_bytes();
    check(cudaMallocFromPoolAsync(&attention_workspace_, bytes, pool_, stream_), "attention's workspace");
    check(cudaMemsetAsync(attention_workspace_, 0, bytes, stream_), "cudaMemsetAsync");
  }

  ~CudaBackend() override {
    cudaSetDevice(index_);
    cudaStreamSynchronize(stream_);
    for (void* workspace : workspaces_) cudaFreeAsync(workspace, stream_);
    cudaFreeAsync(attention_workspace_, stream_);
    cudaStreamSynchronize(stream_);
    for (Staging& staging : staging_) {
      cudaFreeHost(staging.data);
      cudaEventDestroy(staging.free);
    }
    cudaMemPoolDestroy(pool_);
    cudaStreamDestroy(allocation_stream_);
    cudaStreamDestroy(stream_);
  }

  uint64_t available() override {
    size_t available = 0, total = 0;
    uint64_t reserved = 0, used = 0;
    const bool known =
        cudaSetDevice(index_) == cudaSuccess && cudaMemGetInfo(&available, &total) == cudaSuccess &&
        cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved) == cudaSuccess &&
        cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used) == cudaSuccess;
    return known ? available + reserved - used : 0;
  }

  void* allocate(uint64_t bytes) override {
    enter();
    void* data = nullptr;
    const cudaError_t error = cudaMallocFromPoolAsync(&data, bytes, pool_, allocation_stream_);
    if (error == cudaErrorMemoryAllocation) throw out_of_memory(bytes);
    guard(error, "cudaMallocFromPoolAsync");
    guard(cudaStreamSynchronize(allocation_stream_), "cudaMallocFromPoolAsync");
    count(static_cast<int64_t>(bytes));
    return data;
  }

  void free(void* data, uint64_t bytes) noexcept override {
    cudaSetDevice(index_);
    cudaFreeAsync(data, stream_);
    count(-static_cast<int64_t>(bytes));
    if (allocated() == 0) trim();
  }

  void trim() noexcept override {
    cudaSetDevice(index_);
    cudaStreamSynchronize(stream_);
    cudaMemPoolTrimTo(pool_, 0);
  }

  void upload(void* device, const void* host, uint64_t bytes) override {
    enter();
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t part = std::min(kStagingBytes, bytes - done);
      Staging& staging = next_staging();
      std::memcpy(staging.data, static_cast<const std::byte*>(host) + done, part);
      send(staging, static_cast<std::byte*>(device) + done, part);
      done += part;
    }
  }

  void download(void* host, const void* device, uint64_t bytes) override {
    enter();
    for (uint64_t done = 0; done < bytes;) {
      const uint64_t part = std::min(kStagingBytes, bytes - done);
      Staging& staging = next_staging();
      guard(cudaMemcpyAsync(staging.data, static_cast<const std::byte*>(device) + done, part,
                            cudaMemcpyDeviceToHost, stream_),
            "cudaMemcpyAsync");
      guard(cudaStreamSynchronize(stream_), "the GPU");
      std::memcpy(static_cast<std::byte*>(host) + done, staging.data, part);
      done += part;
    }
  }

  void copy(void* to, const void* from, uint64_t bytes) override {
    enter();
    guard(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync");
  }

  // Behind what the stream is at, so that steps that are queued do not wait for whoever looks at one of them.
  std::shared_ptr<const std::byte> read(const void* device, uint64_t bytes) override {
    if (bytes > PinnedPool::kLargest) return Backend::read(device, bytes);
    enter();
    auto host = pinned_->take(bytes);
    guard(cudaMemcpyAsync(host.get(), device, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    return host;
  }

  // Whole rows at a time through the staging memory, sent while the next ones are read. Floats that become f8e4m3 are sent as
  // they are stored and quantised here; other conversions, which concern little, are done on the host as it stages.
  uint64_t load(const LoadRequest& request) override {
    enter();
    const StagedRows staged(request);
    const bool quantising = staged.only_quantised();
    const uint64_t row_bytes = quantising ? staged.stored_row_bytes() : staged.row_bytes();
    // Scales that come with their rows lie behind them in the same staging memory.
    const bool with_scales = request.scale != nullptr && !quantising;
    const uint64_t scale_bytes = with_scales ? sizeof(float) : 0;
    if (row_bytes + scale_bytes > kStagingBytes) {
      throw FluxError(code::kUnsupported,
                      "a weight's row of " + std::to_string(row_bytes) + " bytes is too long");
    }
    auto* target = static_cast<std::byte*>(request.target->data()) + request.target_offset;
    auto* device_scales =
        request.scale == nullptr
            ? nullptr
            : reinterpret_cast<float*>(static_cast<std::byte*>(request.scale->data()) + request.scale_offset);
    const auto rows_at_once = static_cast<int64_t>(kStagingBytes / (row_bytes + scale_bytes));
    uint64_t bad = 0;
    for (int64_t row = 0; row < staged.rows(); row += rows_at_once) {
      const int64_t count = std::min(rows_at_once, staged.rows() - row);
      const uint64_t bytes = static_cast<uint64_t>(count) * row_bytes;
      auto* rows = target + row * static_cast<int64_t>(staged.row_bytes());
      Staging& staging = next_staging();
      if (quantising) {
        bad += staged.copy(row, count, staging.data, pool_threads_);
        quantise(staging, bytes, request.from, count, staged.width(), reinterpret_cast<uint8_t*>(rows),
                 device_scales + row);
      } else {
        const uint64_t rows_end = kStagingBytes - static_cast<uint64_t>(rows_at_once) * scale_bytes;
        auto* scales = with_scales ? reinterpret_cast<float*>(staging.data + rows_end) : nullptr;
        bad += staged.convert(row, count, staging.data, scales, pool_threads_);
        if (with_scales) {
          guard(cudaMemcpyAsync(device_scales + row, scales, static_cast<uint64_t>(count) * scale_bytes,
                                cudaMemcpyHostToDevice, stream_),
                "cudaMemcpyAsync");
        }
        send(staging, rows, bytes);
      }
    }
    return bad;
  }

  void transfer(const Transfer& transfer) override {
    enter();
    auto* target = static_cast<std::byte*>(transfer.target->data()) + transfer.target_offset;
    if (transfer.source == nullptr) {
      guard(cudaMemset2DAsync(target, transfer.target_stride, 0, transfer.row_bytes, transfer.rows, stream_),
            "cudaMemset2DAsync");
      return;
    }
    const std::byte* source =
        transfer.source->bytes(transfer.source_offset, transfer.rows * transfer.row_bytes);
    transfer.source->pin();
    auto* scales = transfer.scales == nullptr
                       ? nullptr
                       : reinterpret_cast<float*>(static_cast<std::byte*>(transfer.scales->data()) +
                                                  transfer.scales_offset);
    if (transfer.treatment == Transfer::Rows::kQuantised) {
      kernels::QuantiseRows rows;
      rows.x = source;
      rows.x_row_stride = static_cast<int64_t>(transfer.row_bytes / 2);
      rows.codes = reinterpret_cast<uint8_t*>(target);
      rows.codes_row_stride = static_cast<int64_t>(transfer.target_stride);
      rows.scale = scales;
      rows.rows = static_cast<int>(transfer.rows);
      rows.width = static_cast<int>(transfer.row_bytes / 2);
      check(kernels::quantise_rows(rows, stream_), "transfer");
      return;
    }
    // Copy engines take rows of a few bytes one by one.
    constexpr uint64_t kShortRow = 4096;
    const bool divides = transfer.treatment == Transfer::Rows::kDivided;
    if (divides || (transfer.rows > 1 && transfer.row_bytes < kShortRow &&
                    (transfer.row_bytes | transfer.target_stride) % 2 == 0)) {
      kernels::StoreRows rows;
      rows.source = source;
      rows.rows = static_cast<int64_t>(transfer.rows);
      rows.columns = static_cast<int64_t>(transfer.row_bytes / 2);
      rows.target = target;
      rows.stride = static_cast<int64_t>(transfer.target_stride / 2);
      rows.divisor = divides ? scales : nullptr;
      check(kernels::store_rows(rows, stream_), "transfer");
      return;
    }
    guard(cudaMemcpy2DAsync(target, transfer.target_stride, source, transfer.row_bytes, transfer.row_bytes,
                            transfer.rows, cudaMemcpyHostToDevice, stream_),
          "cudaMemcpy2DAsync");
  }

  std::byte* allocate_host(uint64_t bytes) override { return map_host_pages(bytes); }
  void touch_host(std::byte* data, uint64_t bytes, ThreadPool& pool) override {
    touch_host_pages(data, bytes, pool);
  }
  void pin_host(std::byte* data, uint64_t bytes) override {
    check(cudaSetDevice(index_), "cudaSetDevice");
    const cudaError_t error =
        cudaHostRegister(data, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw FluxError(code::kOutOfMemory, "the host cannot pin " + std::to_string(bytes >> 20) +
                                              " MiB of memory; load fewer adapters");
    }
    check(error, "cudaHostRegister");
  }
  void free_host(std::byte* data, uint64_t bytes) noexcept override {
    if (cudaHostUnregister(data) != cudaSuccess) cudaGetLastError();  // it was never pinned
    unmap_host_pages(data, bytes);
  }

  std::unique_ptr<Executable> bind(const Program& program, void* arena) override {
    enter();
    std::vector<BoundOp> ops = bind_ops(program.ops, program, arena);
    Launch launch;
    launch.stream = stream_;
    launch.workspace = workspace_of(cuda::workspace_bytes(ops));
    launch.attention_workspace = attention_workspace_;
    return std::make_unique<CudaExecutable>(std::move(ops), launch, health_);
  }

  // Asks now and then: a blocking event wakes this thread 0.3 ms late, this is 0.05 ms late and costs a few percent of a core.
  void finish() override {
    enter();
    for (cudaError_t state; (state = cudaStreamQuery(stream_)) != cudaSuccess;) {
      if (state != cudaErrorNotReady) guard(state, "the GPU");
      std::this_thread::sleep_for(kAskAgain);
    }
    cudaGetLastError();  // "not ready" is kept there, too
  }

  std::unique_ptr<Fence> fence() override {
    enter();
    return std::make_unique<EventFence>(stream_, health_);
  }

 private:
  struct Staging {
    std::byte* data = nullptr;
    cudaEvent_t free = nullptr;  // reached when the last copy from it is done
  };

  static int staging_threads() {
    return std::max(1,
                    std::min<int>(kMaxStagingThreads, static_cast<int>(std::thread::hardware_concurrency())));
  }

  void enter() { health_->require(); }
  void guard(cudaError_t error, const char* what) { health_->guard(error, what); }

  Staging& next_staging() {
    Staging& staging = staging_[turn_];
    turn_ ^= 1;
    guard(cudaEventSynchronize(staging.free), "cudaEventSynchronize");
    return staging;
  }

  void send(Staging& staging, void* device, uint64_t bytes) {
    guard(cudaMemcpyAsync(device, staging.data, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    guard(cudaEventRecord(staging.free, stream_), "cudaEventRecord");
  }

  // Staged rows → codes and scales, through device memory that lives until the kernel is done.
  void quantise(Staging& staging, uint64_t bytes, DType from, int64_t rows, int64_t width, uint8_t* codes,
                float* scales) {
    void* stored = nullptr;
    const cudaError_t error = cudaMallocFromPoolAsync(&stored, bytes, pool_, stream_);
    if (error == cudaErrorMemoryAllocation) throw out_of_memory(bytes);
    guard(error, "cudaMallocFromPoolAsync");
    send(staging, stored, bytes);
    const kernels::Status status =
        kernels::quantise_weight(stored, element_of(from), static_cast<int>(rows), static_cast<int>(width),
                                 width, codes, scales, stream_);
    guard(cudaFreeAsync(stored, stream_), "cudaFreeAsync");
    check(status, "quantise_weight");
  }

  // Graphs hold the address, so a workspace that has become too small stays until the Device goes.
  void* workspace_of(uint64_t bytes) {
    if (bytes <= workspace_bytes_) return workspaces_.empty() ? nullptr : workspaces_.back();
    void* data = nullptr;
    const cudaError_t error = cudaMallocFromPoolAsync(&data, bytes, pool_, stream_);
    if (error == cudaErrorMemoryAllocation) throw out_of_memory(bytes);
    guard(error, "cudaMallocFromPoolAsync");
    guard(cudaMemsetAsync(data, 0, bytes, stream_), "cudaMemsetAsync");
    workspaces_.push_back(data);
    workspace_bytes_ = bytes;
    return data;
  }

  FluxError out_of_memory(uint64_t bytes) {
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    return {code::kOutOfMemory, "the GPU cannot give " + std::to_string(bytes >> 20) + " MiB (" +
                                    std::to_string(available >> 20) + " of " + std::to_string(total >> 20) +
                                    " MiB are free); make smaller images or batches"};
  }

  int index_;
  std::shared_ptr<Health> health_;
  cudaStream_t stream_ = nullptr;             // all work
  cudaStream_t allocation_stream_ = nullptr;  // allocations only
  cudaMemPool_t pool_ = nullptr;
  Staging staging_[2];
  std::shared_ptr<PinnedPool> pinned_ = std::make_shared<PinnedPool>();
  int turn_ = 0;
  ThreadPool pool_threads_;
  void* attention_workspace_ = nullptr;
  std::vector<void*> workspaces_;
  uint64_t workspace_bytes_ = 0;
};

}  // namespace
}  // namespace flux::cuda

namespace flux {

std::shared_ptr<Backend> make_cuda_backend(int index) {
  for (const CudaDeviceInfo& device : query_cuda().devices) {
    if (device.index == index) return std::make_shared<cuda::CudaBackend>(index);
  }
  throw FluxError(code::kNoDevice, "there is no GPU cuda:" + std::to_string(index) + " that can be used");
}

}  // namespace flux
