// How far e4m3 codes are from expected ones, counted in steps of the format.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace flux::testing {

struct CodeDifference {
  int64_t different = 0;
  int64_t count = 0;
  int largest_step = 0;  // between neighbouring codes is 1; a NaN against a number is 256
  double share() const { return count ? double(different) / double(count) : 0.0; }
};

CodeDifference code_difference(const std::vector<uint8_t>& got, const std::vector<uint8_t>& want);

// Empty when no code is off by more than one step and at most `share` of them by one, else a sentence.
std::string exceeds(const CodeDifference& difference, double share);

}  // namespace flux::testing
