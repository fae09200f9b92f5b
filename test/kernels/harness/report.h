// The table at the end and the JSON file.
#pragma once

#include <string>
#include <vector>

#include "harness/case.h"

namespace flux::testing {

struct Machine {
  std::string gpu;
  std::string driver;
  std::string date;     // UTC, ISO 8601
  std::string sources;  // digest of the sources, as given on the command line
};

void print_result(const Result& result);
void print_summary(const Machine& machine, const Session& session, const std::vector<Result>& results);
// Throws std::runtime_error when the file cannot be written.
void write_json(const std::string& path, const Machine& machine, const Session& session,
                const std::vector<Result>& results);

}  // namespace flux::testing
