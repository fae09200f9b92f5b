// Mapping: a read-only memory-mapped file. Pages arrive as they are touched; nothing is read at open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/byte_source.h"
#include "runtime/error.h"

namespace flux {

class Mapping final : public ByteSource {
 public:
  // Throws FluxError(ERR_FLUX_IO) when the file cannot be opened or mapped.
  static std::shared_ptr<Mapping> open(const std::string& path);
  ~Mapping() override;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // The bytes [begin, begin + length). Throws ERR_FLUX_BAD_WEIGHTS when they are not inside the mapping, or when the file
  // has become shorter than it was at open (touching such a page would kill the process).
  const std::byte* bytes(uint64_t begin, uint64_t length) const override;
  // Copies them to `out`, by reading the file: quicker than touching its pages one by one. Throws as bytes() does.
  void copy(uint64_t begin, uint64_t length, std::byte* out) const;

 private:
  FluxError truncated() const;
  Mapping(std::string path, int descriptor, const std::byte* data, uint64_t size)
      : path_(std::move(path)), descriptor_(descriptor), data_(data), size_(size) {}

  std::string path_;
  int descriptor_;
  const std::byte* data_;
  uint64_t size_;
};

}  // namespace flux
