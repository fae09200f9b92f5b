// Reads the flat description of a plan. Numbers that count bytes or elements arrive as JS doubles below 2^53.
#include <cmath>

#include "napi/objects.h"

namespace flux::js {
namespace {

uint64_t unsigned_from(const Napi::Value& value, const char* what) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1.0;
  if (!(number >= 0.0) || number > 9007199254740991.0 || number != std::floor(number)) {
    throw FluxError(code::kBadArgument, std::string(what) + " must be a non-negative whole number");
  }
  return static_cast<uint64_t>(number);
}

// { name, memory, offset, dtype, shape: number[], stride: number[] }
OperandSpec operand_from(const Napi::Object& object) {
  OperandSpec operand;
  operand.name = object.Get("name").ToString().Utf8Value();
  operand.memory = object.Get("memory").ToNumber().Int32Value();
  operand.offset = unsigned_from(object.Get("offset"), "an operand's offset");
  operand.view.dtype = dtype_from_name(object.Get("dtype").ToString().Utf8Value());
  const auto shape = object.Get("shape").As<Napi::Array>();
  const auto stride = object.Get("stride").As<Napi::Array>();
  FLUX_CHECK(shape.Length() <= kMaxRank && shape.Length() == stride.Length(),
             "operand " + operand.name + " has a bad rank");
  operand.view.rank = static_cast<int>(shape.Length());
  for (uint32_t axis = 0; axis < shape.Length(); ++axis) {
    operand.view.shape[axis] = static_cast<int64_t>(unsigned_from(shape.Get(axis), "a shape"));
    operand.view.stride[axis] = static_cast<int64_t>(unsigned_from(stride.Get(axis), "a stride"));
  }
  return operand;
}

std::vector<OpSpec> ops_from(const Napi::Array& array) {
  std::vector<OpSpec> ops;
  ops.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const auto object = array.Get(i).As<Napi::Object>();
    OpSpec op;
    op.kind = object.Get("kind").ToString().Utf8Value();
    const auto operands = object.Get("operands").As<Napi::Array>();
    for (uint32_t k = 0; k < operands.Length(); ++k)
      op.operands.push_back(operand_from(operands.Get(k).As<Napi::Object>()));
    const auto attributes = object.Get("attributes").As<Napi::Object>();
    const Napi::Array names = attributes.GetPropertyNames();
    for (uint32_t k = 0; k < names.Length(); ++k) {
      const std::string name = names.Get(k).ToString().Utf8Value();
      op.attributes.emplace_back(name, attributes.Get(name).ToNumber().DoubleValue());
    }
    if (object.Has("body")) op.body = ops_from(object.Get("body").As<Napi::Array>());
    ops.push_back(std::move(op));
  }
  return ops;
}

}  // namespace

Program program_from_js(const Napi::Object& description) {
  Program program;
  program.arena_bytes = unsigned_from(description.Get("arenaBytes"), "arenaBytes");
  const auto memories = description.Get("memories").As<Napi::Array>();
  const auto& constructor = environment(description.Env()).memory;
  for (uint32_t i = 0; i < memories.Length(); ++i) {
    program.memories.push_back(
        unwrap_checked<MemoryObject>(memories.Get(i), constructor, "Memory")->memory());
  }
  program.ops = ops_from(description.Get("ops").As<Napi::Array>());
  return program;
}

}  // namespace flux::js
