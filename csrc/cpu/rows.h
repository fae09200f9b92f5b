// Walking over the rows of views: all axes but the last, in order.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "runtime/tensor.h"
#include "runtime/thread_pool.h"

namespace flux::cpu {

// Offsets of a view's rows. When the outer axes follow each other evenly, which is the common case, one
// multiplication each.
class RowOffsets {
 public:
  explicit RowOffsets(const TensorView& view) : view_(view) {
    // The innermost outer axis longer than 1 sets the pace; every axis outside it must continue it.
    bool found = false;
    int64_t expected = 0;
    for (int axis = view.rank - 2; axis >= 0; --axis) {
      if (view.shape[axis] == 1) continue;
      if (!found) expected = stride_ = view.stride[axis];
      found = true;
      if (view.stride[axis] != expected) uniform_ = false;
      expected *= view.shape[axis];
    }
  }
  int64_t operator[](int64_t row) const { return uniform_ ? row * stride_ : view_.row_offset(row); }

 private:
  const TensorView& view_;
  int64_t stride_ = 0;
  bool uniform_ = true;
};

// Calls body(offsets, count) for runs of elements that lie at the same place of all views, which have one
// shape: a long flat run when all are contiguous, else a row at a time. offsets[i] is in elements of view i.
template <size_t N, typename Body>
void for_each_run(ThreadPool& pool, const std::array<const TensorView*, N>& views, const Body& body) {
  constexpr int64_t kElementsPerChunk = 16384;
  const TensorView& first = *views[0];
  if (first.elements() == 0) return;
  if (std::all_of(views.begin(), views.end(), [](const TensorView* view) { return view->contiguous(); })) {
    pool.parallel_for(first.elements(), kElementsPerChunk, [&](int64_t begin, int64_t end) {
      std::array<int64_t, N> offsets;
      offsets.fill(begin);
      body(offsets, end - begin);
    });
    return;
  }
  const int64_t inner = first.inner();
  pool.parallel_for(first.rows(), std::max<int64_t>(1, kElementsPerChunk / inner),
                    [&](int64_t begin, int64_t end) {
                      for (int64_t row = begin; row < end; ++row) {
                        std::array<int64_t, N> offsets;
                        for (size_t i = 0; i < N; ++i) offsets[i] = views[i]->row_offset(row);
                        body(offsets, inner);
                      }
                    });
}

// Rows for one chunk of parallel_for, so that a chunk has work for about 10 µs.
inline int64_t rows_per_chunk(int64_t inner) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(inner, 1));
}

}  // namespace flux::cpu
