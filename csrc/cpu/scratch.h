// Memory that a kernel needs while it runs. One buffer a thread and purpose, kept from call to call: a run
// allocates only until each thread has met its largest shape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>

#include "runtime/error.h"

namespace flux::cpu {

class Scratch {
 public:
  // At least `count` elements on a cache line's boundary; what was there before is lost.
  template <typename T>
  T* reserve(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes > capacity_) {
      memory_.reset();
      capacity_ = 0;
      memory_.reset(static_cast<std::byte*>(::operator new(bytes, kAlignment, std::nothrow)));
      if (!memory_)
        throw FluxError(code::kOutOfMemory,
                        "no " + std::to_string(bytes) + " bytes of scratch memory; free some memory");
      capacity_ = bytes;
    }
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }
  };

  std::unique_ptr<std::byte, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace flux::cpu
