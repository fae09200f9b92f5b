// Transfer: rows of host memory on their way into a Buffer, which may keep them further apart.
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/host_memory.h"
#include "runtime/memory.h"

namespace flux {

struct Transfer {
  std::shared_ptr<HostMemory> source;  // null: zeros
  uint64_t source_offset = 0;          // bytes, as all below
  std::shared_ptr<Memory> target;
  uint64_t target_offset = 0;
  uint64_t rows = 1;
  uint64_t row_bytes = 0;      // of the source, whose rows follow each other; codes are half as long
  uint64_t target_stride = 0;  // from row to row
  // On a GPU, rows of bf16 may be divided, each by its f32 number from here on, or quantised to e4m3, each scale kept there.
  enum class Rows : uint8_t { kCopied, kDivided, kQuantised };
  Rows treatment = Rows::kCopied;
  std::shared_ptr<Memory> scales;
  uint64_t scales_offset = 0;
};

}  // namespace flux
