// Cases: a name, whether it tests or measures, and a function. Case files register theirs with a static `Cases` object:
//
//   const Cases kCases = [](Register& add) {
//     add.test("norm/layer_norm/65x3072", [](Context& c) { … });
//     add.bench("norm/layer_norm/4608x3072", [](Context& c) { … });
//   };
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "harness/compare.h"
#include "harness/device_memory.h"
#include "harness/golden.h"
#include "harness/sensors.h"

namespace flux::testing {

using kernels::Status;

enum class Kind { kTest, kBench };

// What one launch does, to be held against time.
struct Work {
  double bytes = 0;        // moved through device memory at the least
  double flops = 0;        // 0: the rate is given in GB/s
  double peak_tflops = 0;  // of the unit that does them; with it the floor is the later of bytes and flops
};

struct Measurement {
  double ms = 0;  // mean of one launch over a back-to-back run
  double value = 0;
  const char* unit = "";
  double floor_percent = 0;  // of the floor: copy bandwidth measured in this run, and peak_tflops where given
  Reading reading;
};

struct Figure {
  std::string label;
  Difference difference;
};

struct Result {
  std::string name;
  Kind kind = Kind::kTest;
  std::vector<std::string> failures;
  std::vector<Figure> figures;
  std::vector<Measurement> measurements;
  double seconds = 0;
};

// What a run has in common.
struct Session {
  cudaStream_t stream = nullptr;
  bool quick = false;  // measure for a tenth of a second instead of a whole one, and skip the largest tests
  int architecture = 0;
  int64_t l2_bytes = 0;
  double copy_bytes_per_second = 0;  // reads plus writes of a device-to-device copy, sustained
  Sensors* sensors = nullptr;
  std::string golden;  // folder with numeric.safetensors
};

class Context {
 public:
  Context(const Session& session, Result& result) : session_(session), result_(result) {}

  cudaStream_t stream() const { return session_.stream; }
  bool quick() const { return session_.quick; }
  int architecture() const { return session_.architecture; }
  // The published values; only in cases registered with golden_test.
  Golden golden() const { return Golden(session_.golden + "/numeric.safetensors"); }

  void expect(bool condition, const std::string& what);
  void expect_within(const std::string& label, const Matrix& got, const Matrix& want,
                     const Tolerance& tolerance);
  // Codes equal to those expected but for a share of them, which may be one step off.
  void expect_codes(const std::string& label, const std::vector<uint8_t>& got,
                    const std::vector<uint8_t>& want, double share);
  // The launch must be refused with this code and a message.
  void expect_refused(const std::string& what, const Status& status, Status::Code code);

  // Runs `launch` twice, over two different poisons. Fails unless both runs leave the same bits in every output (so every
  // element was written, and nothing depends on timing) and nothing outside them. False when the launch failed.
  bool run(std::initializer_list<Output*> outputs, const std::function<Status()>& launch);

  // How many buffer sets of `bytes` exceed L2 four times: the `sets` to rotate through.
  int rotation(double bytes) const;
  // Times `launch(set)`, called with 0 … sets-1 in turn inside a replayed graph, for at least a second (or a tenth).
  void measure(const Work& work, int sets, const std::function<Status(int set)>& launch);

 private:
  const Session& session_;
  Result& result_;
};

using CaseFunction = std::function<void(Context&)>;

struct Case {
  std::string name;
  Kind kind;
  bool needs_golden;
  CaseFunction function;
};

class Register {
 public:
  void test(std::string name, CaseFunction function);
  // Runs with --golden FOLDER only; without it the program says that it was left out.
  void golden_test(std::string name, CaseFunction function);
  void bench(std::string name, CaseFunction function);
};

struct Cases {
  template <typename Fill>
  Cases(Fill fill) {
    Register add;
    fill(add);
  }
};

const std::vector<Case>& all_cases();

}  // namespace flux::testing
