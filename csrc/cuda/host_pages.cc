#include "cuda/host_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>

#include "runtime/error.h"

namespace flux::cuda {
namespace {

constexpr uint64_t kLarge = 2ull << 20;  // a large page
constexpr int kPopulate = 23;            // MADV_POPULATE_WRITE, of Linux 5.14

uint64_t round_up(uint64_t bytes) { return (bytes + kLarge - 1) / kLarge * kLarge; }

}  // namespace

std::byte* map_host_pages(uint64_t bytes) {
  const uint64_t size = round_up(std::max<uint64_t>(bytes, 1));
  // A page more than wanted, so that it can begin with a large one; what is over goes back.
  void* mapped = ::mmap(nullptr, size + kLarge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    throw FluxError(code::kOutOfMemory,
                    "the host has no " + std::to_string(bytes >> 20) + " MiB left; load fewer adapters");
  }
  auto* begin = static_cast<std::byte*>(mapped);
  const uint64_t before = round_up(reinterpret_cast<uintptr_t>(begin)) - reinterpret_cast<uintptr_t>(begin);
  std::byte* data = begin + before;
  if (before > 0) ::munmap(begin, before);
  ::munmap(data + size, kLarge - before);
  ::madvise(data, size, MADV_HUGEPAGE);  // small ones do as well
  return data;
}

void touch_host_pages(std::byte* data, uint64_t bytes, ThreadPool& pool) {
  pool.parallel_for(static_cast<int64_t>(round_up(bytes) / kLarge), 4, [&](int64_t begin, int64_t end) {
    // Where the system is too old for it, pages are made as they are written.
    ::madvise(data + static_cast<uint64_t>(begin) * kLarge, static_cast<uint64_t>(end - begin) * kLarge,
              kPopulate);
  });
}

void unmap_host_pages(std::byte* data, uint64_t bytes) noexcept {
  ::munmap(data, round_up(std::max<uint64_t>(bytes, 1)));
}

}  // namespace flux::cuda
