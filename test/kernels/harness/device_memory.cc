#include "harness/device_memory.h"

#include <cstring>
#include <stdexcept>

namespace flux::testing {

void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

DeviceBytes::DeviceBytes(int64_t bytes) : bytes_(bytes) {
  void* pointer = nullptr;
  must(cudaMalloc(&pointer, size_t(bytes > 0 ? bytes : 1)), "cudaMalloc");
  data_ = static_cast<uint8_t*>(pointer);
}

DeviceBytes::DeviceBytes(DeviceBytes&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
  other.data_ = nullptr;
}

DeviceBytes::~DeviceBytes() {
  if (data_) cudaFree(data_);
}

namespace {

// Rows of `packed` spread `stride` elements apart; gaps hold 0xff, a NaN in every float format here.
std::vector<uint8_t> spread(const std::vector<uint8_t>& packed, int64_t rows, int64_t row_bytes,
                            int64_t stride_bytes) {
  if (rows == 0) return {};
  std::vector<uint8_t> bytes(size_t((rows - 1) * stride_bytes + row_bytes), 0xff);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(bytes.data() + r * stride_bytes, packed.data() + r * row_bytes, size_t(row_bytes));
  }
  return bytes;
}

}  // namespace

Input::Input(const Matrix& matrix, Element type, int64_t stride)
    : Input(spread(encode(matrix.values.data(), matrix.rows * matrix.cols, type), matrix.rows,
                   matrix.cols * size_of(type), (stride ? stride : matrix.cols) * size_of(type))) {}

Input::Input(const std::vector<uint8_t>& bytes) : memory_(int64_t(bytes.size())) {
  must(cudaMemcpy(memory_.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "upload");
}

Output::Output(int64_t rows, int64_t cols, Element type, int64_t stride)
    : rows_(rows),
      cols_(cols),
      stride_(stride ? stride : cols),
      type_(type),
      span_(((rows - 1) * stride_ + cols) * size_of(type)),
      memory_(span_ + 2 * kGuardBytes) {}

void Output::starts_as(const Matrix& matrix) {
  initial_ = encode(matrix.values.data(), rows_ * cols_, type_);
}

void Output::prepare(uint8_t poison) {
  must(cudaMemset(memory_.data(), poison, size_t(memory_.bytes())), "poison");
  if (initial_.empty()) return;
  const size_t row_bytes = size_t(cols_ * size_of(type_));
  must(cudaMemcpy2D(data<uint8_t>(), size_t(stride_ * size_of(type_)), initial_.data(), row_bytes, row_bytes,
                    size_t(rows_), cudaMemcpyHostToDevice),
       "upload of the in-place operand");
}

std::string Output::collect(uint8_t poison) {
  std::vector<uint8_t> all(size_t(memory_.bytes()));
  must(cudaMemcpy(all.data(), memory_.data(), all.size(), cudaMemcpyDeviceToHost), "download");
  const int64_t row_bytes = cols_ * size_of(type_);
  const int64_t stride_bytes = stride_ * size_of(type_);
  packed_.resize(size_t(rows_ * row_bytes));
  std::string complaint;
  int64_t next = 0;
  const auto check_until = [&](int64_t end) {
    for (; next < end; ++next) {
      if (all[size_t(next)] == poison || !complaint.empty()) continue;
      complaint = "wrote outside the output at byte " + std::to_string(next - kGuardBytes) + " of " +
                  std::to_string(span_);
    }
  };
  for (int64_t r = 0; r < rows_; ++r) {
    const int64_t begin = kGuardBytes + r * stride_bytes;
    check_until(begin);
    std::memcpy(packed_.data() + r * row_bytes, all.data() + begin, size_t(row_bytes));
    next = begin + row_bytes;
  }
  check_until(int64_t(all.size()));
  return complaint;
}

Matrix Output::values() const {
  Matrix matrix;
  matrix.rows = rows_;
  matrix.cols = cols_;
  matrix.values = decode(packed_.data(), rows_ * cols_, type_);
  return matrix;
}

}  // namespace flux::testing
