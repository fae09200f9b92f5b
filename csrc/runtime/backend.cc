#include "runtime/backend.h"

#include <new>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/host_memory.h"
#include "runtime/memory.h"

namespace flux {

void Backend::count(int64_t bytes) {
  const uint64_t now = allocated_.fetch_add(static_cast<uint64_t>(bytes)) + static_cast<uint64_t>(bytes);
  uint64_t peak = peak_.load();
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
  }
}

namespace {

constexpr std::align_val_t kHostAlignment{64};

}  // namespace

std::shared_ptr<const std::byte> Backend::read(const void* device, uint64_t bytes) {
  auto host = std::make_shared<std::vector<std::byte>>(bytes);
  download(host->data(), device, bytes);
  return {host, host->data()};
}

std::byte* Backend::allocate_host(uint64_t bytes) {
  void* data = ::operator new(bytes, kHostAlignment, std::nothrow);
  if (data != nullptr) return static_cast<std::byte*>(data);
  throw FluxError(code::kOutOfMemory,
                  "the host has no " + std::to_string(bytes) + " bytes left; load fewer adapters");
}

void Backend::free_host(std::byte* data, uint64_t) noexcept { ::operator delete(data, kHostAlignment); }

HostMemory::HostMemory(std::shared_ptr<Backend> backend, uint64_t bytes)
    : backend_(std::move(backend)), data_(backend_->allocate_host(bytes)), size_(bytes) {
  backend_->host_ += size_;
}

HostMemory::~HostMemory() {
  backend_->free_host(data_, size_);
  backend_->host_ -= size_;
}

void HostMemory::touch(ThreadPool& pool) { backend_->touch_host(data_, size_, pool); }

void HostMemory::pin() {
  std::call_once(pinned_, [this] { backend_->pin_host(data_, size_); });
}

const std::byte* HostMemory::bytes(uint64_t begin, uint64_t length) const {
  FLUX_CHECK(begin <= size_ && length <= size_ - begin,
             "bytes " + std::to_string(begin) + " to " + std::to_string(begin + length) +
                 " lie outside host memory of " + std::to_string(size_) + " bytes");
  return data_ + begin;
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
