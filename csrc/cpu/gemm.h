// The blocked matrix product that linear layers and convolutions share: sums[m, n] = Σ_k left[m, k] ·
// right[n, k].
#pragma once

#include <cstdint>

#include "cpu/rows.h"
#include "cpu/simd/kernels.h"
#include "runtime/tensor.h"
#include "runtime/thread_pool.h"

namespace flux::cpu {

// Terms of a sum are added in blocks of this many, each block in order of k, the blocks in order too. It is a
// constant, and so a result never depends on the other sizes, the tiling or the number of threads.
inline constexpr int64_t kDepthBlock = 256;

// One side of the product: rows of k elements, packed on demand.
class PanelSource {
 public:
  virtual ~PanelSource() = default;
  // Packs rows [row, row + count), terms [k, k + depth), into a panel [depth][width].
  virtual void pack(int64_t row, int count, int width, int64_t k, int64_t depth, float* panel) const = 0;
};

// Rows of a tensor of f32, bf16 or e4m3.
class MatrixRows final : public PanelSource {
 public:
  // The view's innermost axis is k; every other axis counts rows.
  explicit MatrixRows(const TensorView& view);
  void pack(int64_t row, int count, int width, int64_t k, int64_t depth, float* panel) const override;

 private:
  const TensorView& view_;
  PackRows pack_;
  RowOffsets offsets_;
};

PackRows pack_function(DType dtype);

// Takes finished sums: rows [row, row + rows), columns [column, column + columns) at sums[i · ld + j]. Called
// once for each element, from several threads.
class TileSink {
 public:
  virtual ~TileSink() = default;
  virtual void store(int64_t row, int64_t rows, int64_t column, int64_t columns, const float* sums,
                     int64_t ld) const = 0;
};

struct GemmSize {
  int64_t m, n, k;
};

// Sums of one tile, by the calling thread alone, into sums[rows][ld]. Whole panels are written: ld is at least
// `columns` rounded up to the panel width.
void gemm_tile(const GemmSize& size, const PanelSource& left, const PanelSource& right, int64_t row,
               int64_t rows, int64_t column, int64_t columns, float* sums, int64_t ld);

// Tiles begin at multiples of `column_quantum` columns (a multiple of every variant's tile width, or 1).
void gemm(ThreadPool& pool, const GemmSize& size, const PanelSource& left, const PanelSource& right,
          const TileSink& sink, int64_t column_quantum = 1);

}  // namespace flux::cpu
