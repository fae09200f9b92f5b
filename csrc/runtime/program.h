// Program: a recorded plan after memory planning. Operands say where they live: at an offset of the arena or of a Memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/memory.h"
#include "runtime/op.h"

namespace flux {

inline constexpr int kArena = -1;

struct OperandSpec {
  std::string name;
  int memory = kArena;  // index into Program::memories, or kArena
  uint64_t offset = 0;  // bytes
  TensorView view;      // data is null until bound
};

struct OpSpec {
  std::string kind;
  std::vector<OperandSpec> operands;
  std::vector<std::pair<std::string, double>> attributes;
  // Of kind "if": runs when operand "flag" [1] i32 is not 0. Of kind "together": ops that may run at the same time, in any
  // order; it has no operands of its own.
  std::vector<OpSpec> body;
};

struct Program {
  std::vector<OpSpec> ops;
  std::vector<std::shared_ptr<Memory>> memories;
  uint64_t arena_bytes = 0;

  // Every operand inside its memory, aligned to its dtype. Throws FluxError(ERR_FLUX_BAD_ARGUMENT).
  void validate() const;
  bool any_memory_retired() const;
};

// The op with its operands at their addresses (the body is not bound).
OpCall bind_op(const OpSpec& spec, const Program& program, void* arena);

}  // namespace flux
