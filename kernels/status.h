// What every launch function takes and returns.
//
// A launch function checks its arguments, enqueues on `stream` and returns at once; it never allocates, synchronises or
// touches the legacy stream, so it may be captured into a graph. Pointers are device pointers. Strides are in elements.
// Kernels run on whatever device is current.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <utility>

namespace flux::kernels {

// The codes are those of FluxError that a launch can give: bad argument, unsupported on this device, CUDA fault.
struct [[nodiscard]] Status {
  enum class Code : uint8_t { kOk, kBadArgument, kUnsupported, kCuda };

  Code code = Code::kOk;
  std::string message;  // says what to do; empty when ok

  bool ok() const { return code == Code::kOk; }

  static Status bad_argument(std::string message) { return {Code::kBadArgument, std::move(message)}; }
  static Status unsupported(std::string message) { return {Code::kUnsupported, std::move(message)}; }
  static Status from_cuda(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return {};
    return {Code::kCuda, std::string(what) + ": " + cudaGetErrorString(error)};
  }
};

// Element types as kernels see them; values match nothing outside, the caller maps its own.
enum class Element : uint8_t { kF32, kBF16, kF16, kE4M3, kI32, kU8 };

// Applied to an f32 value: GELU is the tanh form, quick GELU is x·σ(1.702x).
enum class Activation : uint8_t { kNone, kGelu, kSilu, kQuickGelu };

}  // namespace flux::kernels
