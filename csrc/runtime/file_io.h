// Reading and writing ranges of open files, whole ranges at a time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flux {

// Returns how many bytes were read: fewer than asked for only where the file ends. Throws FluxError(ERR_FLUX_IO).
uint64_t read_range(int descriptor, uint64_t begin, std::byte* out, uint64_t length);
// Throws FluxError(ERR_FLUX_IO) when the file system refuses.
void write_range(int descriptor, uint64_t begin, const std::byte* data, uint64_t length);

}  // namespace flux
