#include "runtime/program.h"

#include <algorithm>

#include "runtime/error.h"

namespace flux {
namespace {

void validate_operand(const OpSpec& op, const OperandSpec& operand, const Program& program) {
  const std::string where = "op " + op.kind + ", operand " + operand.name + ": ";
  const TensorView& view = operand.view;
  FLUX_CHECK(view.rank >= 0 && view.rank <= kMaxRank,
             where + "rank " + std::to_string(view.rank) + " is not supported");
  for (int axis = 0; axis < view.rank; ++axis) {
    FLUX_CHECK(view.shape[axis] >= 1 && view.stride[axis] >= 0,
               where + "bad shape or stride " + view.shape_string());
  }
  FLUX_CHECK(view.rank == 0 || view.stride[view.rank - 1] == 1,
             where + "the innermost axis must be contiguous");
  FLUX_CHECK(operand.offset % size_of(view.dtype) == 0, where + "offset is not aligned to its dtype");

  uint64_t available = program.arena_bytes;
  if (operand.memory != kArena) {
    FLUX_CHECK(operand.memory >= 0 && static_cast<size_t>(operand.memory) < program.memories.size(),
               where + "no such memory");
    available = program.memories[operand.memory]->bytes();
  }
  const uint64_t needed = static_cast<uint64_t>(view.extent()) * size_of(view.dtype);
  FLUX_CHECK(operand.offset <= available && needed <= available - operand.offset,
             where + "reaches beyond its memory");
}

void validate_ops(const std::vector<OpSpec>& ops, const Program& program) {
  for (const OpSpec& op : ops) {
    for (const OperandSpec& operand : op.operands) validate_operand(op, operand, program);
    validate_ops(op.body, program);
  }
}

}  // namespace

void Program::validate() const { validate_ops(ops, *this); }

bool Program::any_memory_retired() const {
  return std::any_of(memories.begin(), memories.end(), [](const auto& memory) { return memory->retired(); });
}

OpCall bind_op(const OpSpec& spec, const Program& program, void* arena) {
  OpCall call;
  call.kind = spec.kind;
  call.attributes = spec.attributes;
  call.operands.reserve(spec.operands.size());
  for (const OperandSpec& operand : spec.operands) {
    void* base = operand.memory == kArena ? arena : program.memories[operand.memory]->data();
    TensorView view = operand.view;
    view.data = static_cast<std::byte*>(base) + operand.offset;
    call.operands.emplace_back(operand.name, view);
  }
  return call;
}

}  // namespace flux
