// Device buffers for tests: inputs whose gaps are poisoned, outputs inside guard bands.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/matrix.h"

namespace flux::testing {

// Throws std::runtime_error naming `what` and CUDA's reason.
void must(cudaError_t error, const char* what);

// Owned device bytes.
class DeviceBytes {
 public:
  explicit DeviceBytes(int64_t bytes);
  DeviceBytes(DeviceBytes&& other) noexcept;
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes();
  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

// A matrix on the device in `type`; rows start `stride` elements apart and the gaps hold NaN patterns, so a kernel that
// reads them shows it. stride 0 means cols.
class Input {
 public:
  Input(const Matrix& matrix, Element type, int64_t stride = 0);
  // As is: codes, ids.
  explicit Input(const std::vector<uint8_t>& bytes);

  template <typename T = void>
  const T* data() const {
    return reinterpret_cast<const T*>(memory_.data());
  }

 private:
  DeviceBytes memory_;
};

// An output (or, with `starts_as`, an operand updated in place) between two guard bands of 4 KiB.
// Before a run all of it, gaps and guards included, is filled with one byte; gaps and guards must still hold it after.
class Output {
 public:
  Output(int64_t rows, int64_t cols, Element type, int64_t stride = 0);

  template <typename T = void>
  T* data() const {
    return reinterpret_cast<T*>(memory_.data() + kGuardBytes);
  }
  // The content before each run, instead of the poison.
  void starts_as(const Matrix& matrix);

  void prepare(uint8_t poison);
  // Copies back; returns what was written outside the rows, or an empty string.
  std::string collect(uint8_t poison);
  const std::vector<uint8_t>& bytes() const { return packed_; }  // of the rows alone
  Matrix values() const;                                         // decoded
  Element type() const { return type_; }

 private:
  static constexpr int64_t kGuardBytes = 4096;
  int64_t rows_, cols_, stride_;
  Element type_;
  int64_t span_;  // bytes from the first element to the last
  DeviceBytes memory_;
  std::vector<uint8_t> initial_;  // one byte string a row, packed
  std::vector<uint8_t> packed_;
};

// Fills device memory with unit-normal values of `type` from a seeded generator, for benchmarks.
void fill_normal(void* data, int64_t count, Element type, uint64_t seed, float deviation = 1.0f);

}  // namespace flux::testing
