// Copies that choose: rows by an index on the device, token embeddings, a counter.
#include "elementwise/elementwise.h"
#include "elementwise/scalar.cuh"
#include "launch.cuh"

namespace flux::kernels {
namespace {

constexpr int kThreads = 256;

// Block row y copies row index[y] of table y. Word is 16 bytes where everything is aligned to it, else one byte.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    choose_rows(const Word* tables, int rows, int64_t row_words, const int32_t* index, Word* y) {
  wait_for_predecessors();
  let_successor_start();
  const int chosen = min(max(index[blockIdx.y], 0), rows - 1);
  const Word* from = tables + (int64_t(blockIdx.y) * rows + chosen) * row_words;
  Word* to = y + blockIdx.y * row_words;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < row_words; i += step) to[i] = from[i];
}

template <typename Word>
Status launch_choose(const char* name, const void* tables, int batch, int rows, int64_t row_bytes,
                     const int32_t* index, void* y, cudaStream_t stream) {
  const int64_t words = row_bytes / int64_t(sizeof(Word));
  const int64_t blocks = (words + kThreads - 1) / kThreads;
  const dim3 grid(unsigned(blocks < 4096 ? blocks : 4096), batch);
  return launch(name, choose_rows<Word>, grid, dim3(kThreads), 0, stream, static_cast<const Word*>(tables),
                rows, words, index, static_cast<Word*>(y));
}

__global__ void increment_one(int32_t* counter) {
  wait_for_predecessors();
  let_successor_start();
  ++*counter;
}

__global__ void compare_one(const float* a, const float* b, int32_t* y) {
  wait_for_predecessors();
  let_successor_start();
  *y = *a > *b;
}

__global__ void __launch_bounds__(kThreads) embed(const Embedding e) {
  wait_for_predecessors();
  let_successor_start();
  const int64_t token = blockIdx.x;
  const int id = e.ids[token];
  const bool known = id >= 0 && id < e.vocabulary;
  for (int c = threadIdx.x; c < e.width; c += kThreads) {
    float value = __int_as_float(0x7fffffff);
    if (known) value = load_scalar(e.table, e.table_type, int64_t(id) * e.width + c);
    if (e.positions) value += load_scalar(e.positions, e.positions_type, (token % e.tokens) * e.width + c);
    store_scalar(e.y, e.y_type, token * e.width + c, value);
  }
}

}  // namespace

Status gather_rows(const void* x, int batch, int rows, int64_t row_bytes, const int32_t* index, void* y,
                   cudaStream_t stream) {
  if (batch < 0 || batch > 65535 || rows < 1 || row_bytes < 0) {
    return Status::bad_argument("gather_rows: it takes at least one row, and at most 65535 batches");
  }
  if (batch == 0 || row_bytes == 0) return {};
  return row_bytes % 16 == 0 && aligned16(x, 0, 1) && aligned16(y, 0, 1)
             ? launch_choose<uint4>("gather_rows", x, batch, rows, row_bytes, index, y, stream)
             : launch_choose<uint8_t>("gather_rows", x, batch, rows, row_bytes, index, y, stream);
}

Status take_row(const void* table, int rows, int64_t row_bytes, const int32_t* index, void* y,
                cudaStream_t stream) {
  return gather_rows(table, 1, rows, row_bytes, index, y, stream);
}

Status increment(int32_t* counter, cudaStream_t stream) {
  return launch("increment", increment_one, dim3(1), dim3(1), 0, stream, counter);
}

Status greater(const float* a, const float* b, int32_t* y, cudaStream_t stream) {
  return launch("greater", compare_one, dim3(1), dim3(1), 0, stream, a, b, y);
}

Status embedding(const Embedding& e, cudaStream_t stream) {
  if (!is_float(e.table_type) || !is_float(e.y_type) || (e.positions && !is_float(e.positions_type))) {
    return Status::bad_argument("embedding: tables and output are f32 or bf16");
  }
  if (e.batch < 0 || e.tokens < 0 || e.width < 1 || e.vocabulary < 1) {
    return Status::bad_argument("embedding: the table must not be empty");
  }
  if (e.batch == 0 || e.tokens == 0) return {};
  return launch("embedding", embed, dim3(unsigned(e.batch) * e.tokens), dim3(kThreads), 0, stream, e);
}

}  // namespace flux::kernels
