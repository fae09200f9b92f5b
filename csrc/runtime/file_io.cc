#include "runtime/file_io.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/error.h"

namespace flux {
namespace {

// Linux moves at most 2 GiB less a page at a time.
constexpr uint64_t kMost = 1ull << 30;

}  // namespace

uint64_t read_range(int descriptor, const std::string& path, uint64_t begin, std::byte* out,
                    uint64_t length) {
  uint64_t done = 0;
  while (done < length) {
    const auto part = static_cast<size_t>(std::min(kMost, length - done));
    const ssize_t count = ::pread(descriptor, out + done, part, static_cast<off_t>(begin + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      throw FluxError(code::kIo, path + " cannot be read: " + std::strerror(errno) + "; check the disk");
    }
    if (count == 0) break;
    done += static_cast<uint64_t>(count);
  }
  return done;
}

void write_range(int descriptor, uint64_t begin, const std::byte* data, uint64_t length) {
  for (uint64_t done = 0; done < length;) {
    const auto part = static_cast<size_t>(std::min(kMost, length - done));
    const ssize_t count = ::pwrite(descriptor, data + done, part, static_cast<off_t>(begin + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw FluxError(code::kIo, std::strerror(errno));
    if (count == 0) throw FluxError(code::kIo, "the file system takes no more");
    done += static_cast<uint64_t>(count);
  }
}

}  // namespace flux
