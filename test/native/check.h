// A small test frame for native code: named tests, checks that count, and arrays whose surroundings are
// guarded.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "runtime/op.h"
#include "runtime/thread_pool.h"

namespace flux::test {

// Registers a test; FLUX_TEST(name) { body } at namespace scope.
struct Registration {
  Registration(const char* name, void (*body)());
};
#define FLUX_TEST(name)                                                     \
  static void name();                                                       \
  static const ::flux::test::Registration registration_##name(#name, name); \
  static void name()

// Reports a failure of the running test, with the place and what was expected.
void report(const char* file, int line, const std::string& message);
#define EXPECT(condition, message)                                                                          \
  do {                                                                                                      \
    if (!(condition)) ::flux::test::report(__FILE__, __LINE__, std::string(#condition) + ": " + (message)); \
  } while (0)

using Shape = std::vector<int64_t>;

// Elements between guard bytes. With a gap, every outer axis is that many elements further apart than it
// needs to be, so that rows are neither contiguous nor aligned.
class Array {
 public:
  Array() = default;
  explicit Array(Shape shape, DType dtype = DType::kF32, int64_t gap = 0);
  // Normal deviates times `scale`; as bf16 they are cut to 16 bits; e4m3 gets random finite codes.
  static Array random(Shape shape, double scale = 1, DType dtype = DType::kF32, int64_t gap = 0);
  static Array of(Shape shape, const std::vector<double>& values, DType dtype = DType::kF32);

  const Shape& shape() const { return shape_; }
  int64_t size() const;
  // By row-major index over the shape. f32, bf16, e4m3 (value of the code; get only), i8 (get only), i32, u8.
  double get(int64_t index) const;
  double get(std::initializer_list<int64_t> position) const;
  void set(int64_t index, double value);
  TensorView view() const;
  // The guard bytes and gaps are as they were.
  bool intact() const;
  bool same_bytes(const Array& other) const { return memory_ == other.memory_; }

 private:
  int64_t offset_of(int64_t index) const;

  Shape shape_, stride_;
  DType dtype_ = DType::kF32;
  std::vector<uint8_t> memory_;
};

// The value of an e4m3 code and the nearest code of a value, ties to the even one, straight from the format's
// definition.
double e4m3_value(int code);
int e4m3_nearest(double value);

// A call with its operands. Which of them are outputs is said once; `alias` binds an operand to another's
// memory.
struct Case {
  std::string kind;
  std::map<std::string, Array> tensors = {};
  std::vector<std::string> outputs = {"y"};
  std::vector<std::pair<std::string, double>> attributes = {};
  std::map<std::string, std::string> alias = {};

  // Runs on 1, 2, 3 and 7 threads, expects the same bytes each time and untouched guards and inputs; the
  // outputs are then in `tensors`. A second run with `output` bound to `input` must give the same values.
  void run();
  void expect_same_in_place(const std::string& output, const std::string& input);
  // The call must throw ERR_FLUX_BAD_ARGUMENT with this in its message.
  void expect_error(const std::string& part, const char* file, int line);
  const Array& operator[](const std::string& name) const { return tensors.at(name); }
};
#define EXPECT_ERROR(test_case, part) (test_case).expect_error(part, __FILE__, __LINE__)

// Relative L2 distance within `relative`, and no element further off than 10 × relative × the largest one.
void expect_close(const Array& actual, const std::function<double(int64_t index)>& expected, double relative,
                  const std::string& what, const char* file, int line);
#define EXPECT_CLOSE(actual, expected, relative, what) \
  ::flux::test::expect_close(actual, expected, relative, what, __FILE__, __LINE__)

// "linear 3x5x7": for messages.
std::string label(const std::string& name, const Shape& sizes);

// Runs all tests whose name contains `filter`; returns the number of failures.
int run_tests(const std::string& filter);

}  // namespace flux::test
