#include "harness/case.h"

#include <algorithm>
#include <stdexcept>

#include "harness/codes.h"
#include "harness/timing.h"

namespace flux::testing {
namespace {

std::vector<Case>& registry() {
  static std::vector<Case> cases;
  return cases;
}

}  // namespace

void Register::test(std::string name, CaseFunction function) {
  registry().push_back({std::move(name), Kind::kTest, false, std::move(function)});
}

void Register::golden_test(std::string name, CaseFunction function) {
  registry().push_back({std::move(name), Kind::kTest, true, std::move(function)});
}

void Register::bench(std::string name, CaseFunction function) {
  registry().push_back({std::move(name), Kind::kBench, false, std::move(function)});
}

const std::vector<Case>& all_cases() { return registry(); }

void Context::expect(bool condition, const std::string& what) {
  if (!condition) result_.failures.push_back(what);
}

void Context::expect_within(const std::string& label, const Matrix& got, const Matrix& want,
                            const Tolerance& tolerance) {
  const Difference found = difference(got, want);
  result_.figures.push_back({label, found});
  const std::string complaint = exceeds(found, tolerance);
  if (!complaint.empty()) result_.failures.push_back(label + ": " + complaint);
}

void Context::expect_refused(const std::string& what, const Status& status, Status::Code code) {
  expect(status.code == code && !status.message.empty(), what + " should be refused, but gave code " +
                                                             std::to_string(int(status.code)) + " \"" +
                                                             status.message + "\"");
}

void Context::expect_codes(const std::string& label, const std::vector<uint8_t>& got,
                           const std::vector<uint8_t>& want, double share) {
  const std::string complaint = exceeds(code_difference(got, want), share);
  if (!complaint.empty()) result_.failures.push_back(label + ": " + complaint);
}

bool Context::run(std::initializer_list<Output*> outputs, const std::function<Status()>& launch) {
  constexpr uint8_t kPoisons[] = {0xff, 0xa5};
  std::vector<std::vector<uint8_t>> first;
  for (const uint8_t poison : kPoisons) {
    for (Output* output : outputs) output->prepare(poison);
    must(cudaDeviceSynchronize(), "preparing the outputs");
    const Status status = launch();
    if (!status.ok()) {
      result_.failures.push_back("launch: " + status.message);
      return false;
    }
    must(cudaStreamSynchronize(session_.stream), "running the kernel");
    size_t index = 0;
    for (Output* output : outputs) {
      const std::string complaint = output->collect(poison);
      const std::string name = "output " + std::to_string(index);
      if (!complaint.empty()) result_.failures.push_back(name + " " + complaint);
      if (poison == kPoisons[0]) {
        first.push_back(output->bytes());
      } else if (first[index] != output->bytes()) {
        const auto at = std::mismatch(first[index].begin(), first[index].end(), output->bytes().begin());
        result_.failures.push_back(name + ": two runs differ, or it was not written, at byte " +
                                   std::to_string(at.first - first[index].begin()));
      }
      ++index;
    }
  }
  return true;
}

int Context::rotation(double bytes) const {
  return int(std::clamp(4.0 * double(session_.l2_bytes) / std::max(bytes, 1.0) + 1.0, 2.0, 256.0));
}

void Context::measure(const Work& work, int sets, const std::function<Status(int set)>& launch) {
  const Timing timing = sustained(session_, sets, launch);
  Measurement measured;
  measured.ms = timing.ms;
  measured.reading = timing.reading;
  measured.unit = work.flops > 0 ? "TFLOP/s" : "GB/s";
  measured.value = work.flops > 0 ? work.flops / timing.ms / 1e9 : work.bytes / timing.ms / 1e6;
  double floor_ms = work.bytes / session_.copy_bytes_per_second * 1e3;
  if (work.peak_tflops > 0) floor_ms = std::max(floor_ms, work.flops / work.peak_tflops / 1e9);
  measured.floor_percent = 100.0 * floor_ms / timing.ms;
  result_.measurements.push_back(measured);
}

}  // namespace flux::testing
