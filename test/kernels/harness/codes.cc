#include "harness/codes.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace flux::testing {
namespace {

// Codes in the order of their values; both zeros are 0.
int rank(uint8_t code) { return code & 0x80 ? -int(code & 0x7f) : int(code); }
bool is_nan(uint8_t code) { return (code & 0x7f) == 0x7f; }

}  // namespace

CodeDifference code_difference(const std::vector<uint8_t>& got, const std::vector<uint8_t>& want) {
  if (got.size() != want.size()) throw std::runtime_error("compared codes differ in number");
  CodeDifference difference;
  difference.count = int64_t(want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    int step = std::abs(rank(got[i]) - rank(want[i]));
    if (is_nan(got[i]) != is_nan(want[i])) step = 256;
    difference.different += step != 0;
    difference.largest_step = std::max(difference.largest_step, step);
  }
  return difference;
}

std::string exceeds(const CodeDifference& d, double share) {
  if (d.largest_step <= 1 && d.share() <= share) return {};
  return std::to_string(d.different) + " of " + std::to_string(d.count) + " codes differ, by up to " +
         std::to_string(d.largest_step) + " steps; at most " + std::to_string(share) + " of them may, by one";
}

}  // namespace flux::testing
