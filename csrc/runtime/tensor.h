// TensorView: a typed, strided window on memory that somebody else owns. Ops see nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "runtime/dtype.h"

namespace flux {

inline constexpr int kMaxRank = 5;

// Strides are in elements; the innermost stride is always 1. Row `r` of a rank-3 view [B, T, D] starts at
// b·stride[0] + t·stride[1].
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  std::array<int64_t, kMaxRank> stride{};

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t elements() const;
  int64_t inner() const { return rank == 0 ? 1 : shape[rank - 1]; }  // length of the innermost axis
  int64_t rows() const { return rank == 0 ? 1 : elements() / (inner() == 0 ? 1 : inner()); }
  // Element offset of row `row`, counting rows over all outer axes in order.
  int64_t row_offset(int64_t row) const;
  bool contiguous() const;
  // One past the last element reached from `data`, in elements.
  int64_t extent() const;
  std::string shape_string() const;  // "[2, 77, 768]"
};

}  // namespace flux
