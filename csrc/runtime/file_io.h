// Reading and writing ranges of open files, whole ranges at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace flux {

// Returns how many bytes were read: fewer than asked for only where the file ends. Throws FluxError(ERR_FLUX_IO) that names the path.
uint64_t read_range(int descriptor, const std::string& path, uint64_t begin, std::byte* out, uint64_t length);
// Throws FluxError(ERR_FLUX_IO) when the file system refuses; which file it is, the caller knows.
void write_range(int descriptor, uint64_t begin, const std::byte* data, uint64_t length);

}  // namespace flux
