// Number formats, the slow and obvious way: each rounding here is a definition that the kernels are held against.
#pragma once

#include <cstdint>
#include <vector>

#include "status.h"

namespace flux::testing {

using kernels::Element;

int size_of(Element type);
const char* name_of(Element type);

float bf16_to_float(uint16_t bits);
uint16_t float_to_bf16(float value);  // to nearest even
float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);  // to nearest even
float e4m3_to_float(uint8_t code);   // 0x7f and 0xff are NaN
uint8_t float_to_e4m3(
    float value);  // to nearest even by search over all codes; saturates at ±448; NaN is 0x7f

// `value` after a round trip through `type`.
float rounded(float value, Element type);

// `count` values in memory as `type`, and back.
std::vector<uint8_t> encode(const float* values, int64_t count, Element type);
std::vector<float> decode(const uint8_t* bytes, int64_t count, Element type);

}  // namespace flux::testing
