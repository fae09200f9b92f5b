// Numbers out of arguments.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>

#include "runtime/error.h"

namespace flux::js {

inline uint64_t bytes_from(const Napi::Value& value, const char* what) {
  const int64_t number = value.IsNumber() ? value.As<Napi::Number>().Int64Value() : -1;
  FLUX_CHECK(number >= 0, std::string(what) + " must be a non-negative number of bytes");
  return static_cast<uint64_t>(number);
}

}  // namespace flux::js
