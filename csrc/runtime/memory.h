// Memory: one allocation on a device. Buffers and the arena are Memories.
//
// Life: allocated on the JS thread; `retired` is set there by dispose(), after which nothing new may use it; the bytes are
// given back on the device's thread, behind every job that was queued before. So a running plan never loses its operands.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace flux {

class Backend;

class Memory {
 public:
  Memory(std::shared_ptr<Backend> backend, uint64_t bytes);  // throws FluxError(ERR_FLUX_OUT_OF_MEMORY)
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  bool retired() const { return retired_.load(std::memory_order_acquire); }
  bool retire() { return !retired_.exchange(true); }  // true the first time
  void release();                                     // device thread only

 private:
  std::shared_ptr<Backend> backend_;
  void* data_ = nullptr;
  uint64_t bytes_;
  std::atomic<bool> retired_{false};
};

}  // namespace flux
