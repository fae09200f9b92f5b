#include "runtime/backend.h"

#include "runtime/memory.h"

namespace flux {

void Backend::count(int64_t bytes) {
  const uint64_t now = allocated_.fetch_add(static_cast<uint64_t>(bytes)) + static_cast<uint64_t>(bytes);
  uint64_t peak = peak_.load();
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
}

Memory::Memory(std::shared_ptr<Backend> backend, uint64_t bytes)
    : backend_(std::move(backend)), bytes_(bytes) {
  if (bytes_ > 0) data_ = backend_->allocate(bytes_);
}

Memory::~Memory() { release(); }

void Memory::release() {
  if (data_ != nullptr) backend_->free(data_, bytes_);
  data_ = nullptr;
}

}  // namespace flux
