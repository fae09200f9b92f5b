// Backend: memory and execution of one kind of device. Everything but allocating and freeing is called on the device's thread
// only.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/load.h"
#include "runtime/program.h"
#include "runtime/thread_pool.h"
#include "runtime/transfer.h"

namespace flux {

// A point in the device's work. wait() returns when the work before it is done, and throws FluxError if that failed.
class Fence {
 public:
  virtual ~Fence() = default;
  virtual void wait() = 0;
};

// A program bound to addresses: what run() replays.
class Executable {
 public:
  virtual ~Executable() = default;
  // `stop` ends the run between two ops (only when the whole device goes away; the values are then undefined).
  // With `times`, also writes the milliseconds of each top-level op.
  virtual void run(const std::atomic<bool>& stop, std::vector<double>* times) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual void* allocate(
      uint64_t bytes) = 0;  // throws FluxError(ERR_FLUX_OUT_OF_MEMORY); 64-byte aligned at least
  virtual void free(void* data, uint64_t bytes) noexcept = 0;
  virtual void upload(void* device, const void* host, uint64_t bytes) = 0;
  virtual void download(void* host, const void* device, uint64_t bytes) = 0;
  // Between two places of the device that do not overlap.
  virtual void copy(void* to, const void* from, uint64_t bytes) = 0;
  // A copy in host memory of bytes as they are behind the work that was given to the device so far. They are there when the next
  // fence() is reached; the device's thread does not wait for them.
  virtual std::shared_ptr<const std::byte> read(const void* device, uint64_t bytes);
  // Returns the number of values that are NaN or infinite.
  virtual uint64_t load(const LoadRequest& request) = 0;
  virtual void transfer(const Transfer& transfer) = 0;
  // `arena` is the base address of the arena that the program's values live in.
  virtual std::unique_ptr<Executable> bind(const Program& program, void* arena) = 0;

  // After work was given to the device: where it will be done. Null when it already is, as it always is on the CPU.
  virtual std::unique_ptr<Fence> fence() { return nullptr; }
  // Returns when all work that was given to the device is done, as soon as can be. Throws FluxError if it failed.
  virtual void finish() {}

  // Memory of the host. Before transfer() reads it, it is pinned, which is quick when all of its pages have been touched. May be called
  // on any thread; free_host when no transfer reads it any more.
  virtual std::byte* allocate_host(uint64_t bytes);  // throws FluxError(ERR_FLUX_OUT_OF_MEMORY)
  virtual void touch_host(std::byte*, uint64_t, ThreadPool&) {}
  virtual void pin_host(std::byte*, uint64_t) {}  // throws FluxError(ERR_FLUX_OUT_OF_MEMORY)
  virtual void free_host(std::byte* data, uint64_t bytes) noexcept;

  // Gives memory that was freed, and that the backend keeps for the next allocation, back to the machine. Waits for work that uses it.
  virtual void trim() noexcept {}

  // Bytes that allocate() could still give; 0 where only the operating system knows. May be called on any thread.
  virtual uint64_t available() { return 0; }
  uint64_t allocated() const { return allocated_.load(); }
  uint64_t peak() const { return peak_.load(); }
  uint64_t host() const { return host_.load(); }

 protected:
  void count(int64_t bytes);  // to be called by allocate and free

 private:
  friend class HostMemory;
  std::atomic<uint64_t> allocated_{0}, peak_{0}, host_{0};
};

std::shared_ptr<Backend> make_cpu_backend(int threads);
// Throws FluxError(ERR_FLUX_NO_DEVICE) when there is no such GPU, or this build has no CUDA.
std::shared_ptr<Backend> make_cuda_backend(int index);

}  // namespace flux
