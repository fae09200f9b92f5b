// ByteSource: bytes that can be read by their place: a mapped file, or memory of the host.
#pragma once

#include <cstddef>
#include <cstdint>

namespace flux {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // The bytes [begin, begin + length). Throws FluxError when they are not all there.
  virtual const std::byte* bytes(uint64_t begin, uint64_t length) const = 0;
};

}  // namespace flux
