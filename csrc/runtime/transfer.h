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
  uint64_t row_bytes = 0;      // of the source, whose rows follow each other
  uint64_t target_stride = 0;  // from row to row
  // On a GPU: rows of bf16, each divided by its f32 number from here on.
  std::shared_ptr<Memory> divisor;  // null: the rows are copied as they are
  uint64_t divisor_offset = 0;
};

}  // namespace flux
