#include "runtime/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/error.h"
#include "runtime/file_io.h"

namespace flux {

std::shared_ptr<Mapping> Mapping::open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    throw FluxError(code::kIo, "cannot open " + path + ": " + std::strerror(errno) +
                                   "; check the path and its permissions");
  }
  struct stat status{};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    throw FluxError(code::kIo, path + " is not a regular file; give the path of a weights file");
  }
  const auto size = static_cast<uint64_t>(status.st_size);
  void* data = nullptr;
  if (size > 0) {
    data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) {
      const int reason = errno;
      ::close(descriptor);
      throw FluxError(code::kIo, "cannot map " + path + ": " + std::strerror(reason));
    }
  }
  return std::shared_ptr<Mapping>(new Mapping(path, descriptor, static_cast<const std::byte*>(data), size));
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  ::close(descriptor_);
}

const std::byte* Mapping::bytes(uint64_t begin, uint64_t length) const {
  if (begin > size_ || length > size_ - begin) {
    throw FluxError(code::kBadWeights, path_ + ": bytes " + std::to_string(begin) + " to " +
                                           std::to_string(begin + length) + " lie outside the file (" +
                                           std::to_string(size_) + " bytes); download it again");
  }
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0 || static_cast<uint64_t>(status.st_size) < size_) {
    throw truncated();
  }
  return data_ + begin;
}

void Mapping::copy(uint64_t begin, uint64_t length, std::byte* out) const {
  if (read_range(descriptor_, path_, begin, out, length) < length) throw truncated();
}

FluxError Mapping::truncated() const {
  return {code::kBadWeights,
          path_ + " was truncated after it was opened; do not change weights while they load"};
}

}  // namespace flux
