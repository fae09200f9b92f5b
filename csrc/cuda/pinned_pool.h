// PinnedPool: pinned host memory that copies from the device end in. Blocks are kept for later ones, since pinning memory takes longer
// than copying a picture into it. They are taken on the device's thread and given back on any.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "cuda/check.h"

namespace flux::cuda {

class PinnedPool : public std::enable_shared_from_this<PinnedPool> {
 public:
  static constexpr uint64_t kLargest = 32ull << 20;  // of a block

  ~PinnedPool() {
    for (const auto& [size, data] : free_) cudaFreeHost(data);
  }

  // At least `bytes`, which is at most kLargest. The block comes back when the last copy of the pointer goes.
  std::shared_ptr<std::byte> take(uint64_t bytes) {
    const uint64_t size = std::bit_ceil(std::max<uint64_t>(bytes, 64ull << 10));
    std::byte* data = nullptr;
    {
      const std::lock_guard lock(mutex_);
      const auto found = free_.find(size);
      if (found != free_.end()) {
        data = found->second;
        free_.erase(found);
      }
    }
    if (data == nullptr) {
      check(cudaHostAlloc(reinterpret_cast<void**>(&data), size, cudaHostAllocDefault), "pinned memory");
    }
    return {data, [pool = shared_from_this(), size](std::byte* block) {
              const std::lock_guard lock(pool->mutex_);
              pool->free_.emplace(size, block);
            }};
  }

 private:
  std::mutex mutex_;
  std::multimap<uint64_t, std::byte*> free_;  // by size
};

}  // namespace flux::cuda
