// flux_kernel_tests: every kernel's tests and benchmarks without Node.
//
//   flux_kernel_tests [--filter TEXT]... [--only NAME]... [--tests | --bench] [--quick] [--json FILE]
//                     [--sources DIGEST] [--golden FOLDER] [--list]
//
// FOLDER holds numeric.safetensors; the cases that compare with it run only when it is given.
// Exit status: 0 all right, 1 a wrong result, 2 a wrong command line, 3 no CUDA device.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <string>
#include <vector>

#include "harness/report.h"
#include "harness/timing.h"

namespace flux::testing {
namespace {

struct Options {
  // A case runs when its name contains one of the filters or is one of the names, or when there are neither.
  std::vector<std::string> filters, names;
  bool tests = true, bench = true, quick = false, list = false;
  std::string json, sources, golden;
};

constexpr const char* kUsage =
    "usage: flux_kernel_tests [--filter TEXT]... [--only NAME]... [--tests | --bench] [--quick] "
    "[--json FILE] [--sources DIGEST] [--golden FOLDER] [--list]\n";

bool parse(int count, char** words, Options& options) {
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto value = [&](std::string& into) {
      if (i + 1 >= count) return false;
      into = words[++i];
      return true;
    };
    bool good = true;
    if (word == "--filter") {
      options.filters.emplace_back();
      good = value(options.filters.back());
    } else if (word == "--only") {
      options.names.emplace_back();
      good = value(options.names.back());
    } else if (word == "--json") {
      good = value(options.json);
    } else if (word == "--sources") {
      good = value(options.sources);
    } else if (word == "--golden") {
      good = value(options.golden);
    } else if (word == "--tests") {
      options.bench = false;
    } else if (word == "--bench") {
      options.tests = false;
    } else if (word == "--quick") {
      options.quick = true;
    } else if (word == "--list") {
      options.list = true;
    } else {
      good = false;
    }
    if (!good) return false;
  }
  return true;
}

std::vector<Case> chosen(const Options& options) {
  std::vector<Case> cases;
  for (const Case& candidate : all_cases()) {
    bool named = options.filters.empty() && options.names.empty();
    for (const std::string& filter : options.filters)
      named |= candidate.name.find(filter) != std::string::npos;
    for (const std::string& name : options.names) named |= candidate.name == name;
    if (!named || !(candidate.kind == Kind::kTest ? options.tests : options.bench)) continue;
    if (candidate.needs_golden && options.golden.empty() && !options.list) {
      std::printf("not run, needs --golden FOLDER: %s\n", candidate.name.c_str());
    } else {
      cases.push_back(candidate);
    }
  }
  return cases;
}

std::string utc_now() {
  char text[40];
  const std::time_t now = std::time(nullptr);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

Result run(const Case& one, const Session& session) {
  Result result;
  result.name = one.name;
  result.kind = one.kind;
  const auto begin = std::chrono::steady_clock::now();
  Context context(session, result);
  try {
    one.function(context);
    must(cudaDeviceSynchronize(), "after the case");
    must(cudaGetLastError(), "after the case");
  } catch (const std::exception& error) {
    result.failures.push_back(error.what());
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

int run_all(const Options& options) {
  const std::vector<Case> cases = chosen(options);
  if (cases.empty()) {
    std::fprintf(stderr, "no case has that in its name; --list names them all\n");
    return 2;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "no CUDA device: these tests need one; --list works without\n");
    return 3;
  }
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  char bus_id[32] = "";
  must(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, 0), "cudaDeviceGetPCIBusId");
  Sensors sensors(bus_id);
  Session session;
  session.quick = options.quick;
  session.architecture = properties.major * 10 + properties.minor;
  session.l2_bytes = properties.l2CacheSize;
  session.sensors = &sensors;
  session.golden = options.golden;
  must(cudaStreamCreateWithFlags(&session.stream, cudaStreamNonBlocking), "cudaStreamCreate");
  if (options.bench) session.copy_bytes_per_second = copy_bytes_per_second(session);

  const Machine machine{properties.name, sensors.driver(), utc_now(), options.sources};
  std::vector<Result> results;
  bool right = true;
  for (const Case& one : cases) {
    results.push_back(run(one, session));
    print_result(results.back());
    right &= results.back().failures.empty();
  }
  print_summary(machine, session, results);
  if (!options.json.empty()) write_json(options.json, machine, session, results);
  return right ? 0 : 1;
}

}  // namespace
}  // namespace flux::testing

int main(int count, char** words) {
  using namespace flux::testing;
  Options options;
  if (!parse(count, words, options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  if (options.list) {
    for (const Case& one : chosen(options)) {
      std::printf("%-5s %s\n", one.kind == Kind::kTest ? "test" : "bench", one.name.c_str());
    }
    return 0;
  }
  try {
    return run_all(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
