// Sustained timing: launches captured once into a graph, replayed back to back until the power limit has had its say.
#pragma once

#include <functional>

#include "harness/case.h"

namespace flux::testing {

struct Timing {
  double ms = 0;  // mean of one launch
  Reading reading;
};

// Throws std::runtime_error when a launch fails.
Timing sustained(const Session& session, int sets, const std::function<Status(int set)>& launch);

// Bytes read plus bytes written per second by cudaMemcpyAsync from device to device, 1 GiB at a time.
double copy_bytes_per_second(const Session& session);

}  // namespace flux::testing
