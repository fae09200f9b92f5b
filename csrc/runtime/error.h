// FluxError: the one exception that native code throws. The Node-API layer turns it into the JS class of the same name.
#pragma once

#include <stdexcept>
#include <string>

namespace flux {

// Codes are stable and equal to those of lib/errors.ts.
namespace code {
inline constexpr const char* kNoDevice = "ERR_FLUX_NO_DEVICE";
inline constexpr const char* kOutOfMemory = "ERR_FLUX_OUT_OF_MEMORY";
inline constexpr const char* kBadWeights = "ERR_FLUX_BAD_WEIGHTS";
inline constexpr const char* kBadArgument = "ERR_FLUX_BAD_ARGUMENT";
inline constexpr const char* kUnsupported = "ERR_FLUX_UNSUPPORTED";
inline constexpr const char* kDisposed = "ERR_FLUX_DISPOSED";
inline constexpr const char* kCuda = "ERR_FLUX_CUDA";
inline constexpr const char* kIo = "ERR_FLUX_IO";
}  // namespace code

class FluxError : public std::runtime_error {
 public:
  FluxError(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;
};

// An argument check whose message is built only when it fails.
#define FLUX_CHECK(condition, message)                                                \
  do {                                                                                \
    if (!(condition)) throw ::flux::FluxError(::flux::code::kBadArgument, (message)); \
  } while (0)

}  // namespace flux
