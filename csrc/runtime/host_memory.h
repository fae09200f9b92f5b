// HostMemory: memory of the host that the device copies from at full speed once it is pinned. Adapters wait in it.
#pragma once

#include <memory>
#include <mutex>

#include "runtime/byte_source.h"
#include "runtime/thread_pool.h"

namespace flux {

class Backend;

class HostMemory final : public ByteSource {
 public:
  HostMemory(std::shared_ptr<Backend> backend, uint64_t bytes);  // throws FluxError(ERR_FLUX_OUT_OF_MEMORY)
  ~HostMemory() override;
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  // Makes its pages, by all threads: before much is written to it.
  void touch(ThreadPool& pool);
  // Before a transfer reads it; once. Throws FluxError(ERR_FLUX_OUT_OF_MEMORY).
  void pin();

  std::byte* data() { return data_; }
  uint64_t size() const { return size_; }
  const std::byte* bytes(uint64_t begin, uint64_t length) const override;

 private:
  std::shared_ptr<Backend> backend_;
  std::byte* data_;
  uint64_t size_;
  std::once_flag pinned_;
};

}  // namespace flux
