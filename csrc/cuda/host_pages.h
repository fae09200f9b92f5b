// Pages of the host that are to be pinned. Large ones, where the system gives them, made by several threads: pinning them then takes a tenth
// of what cudaHostAlloc takes, which makes page after page by itself.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/thread_pool.h"

namespace flux::cuda {

std::byte* map_host_pages(uint64_t bytes);  // throws FluxError(ERR_FLUX_OUT_OF_MEMORY)
void touch_host_pages(std::byte* data, uint64_t bytes, ThreadPool& pool);
void unmap_host_pages(std::byte* data, uint64_t bytes) noexcept;

}  // namespace flux::cuda
