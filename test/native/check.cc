#include "check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <random>

#include "cpu/ops.h"
#include "runtime/error.h"

namespace flux::test {

namespace {

constexpr uint8_t kGuard = 0xa5;
constexpr int64_t kGuardElements = 17;  // odd, so that data starts off any alignment but its own

struct Test {
  const char* name;
  void (*body)();
};
std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
int failures_of_test = 0;

std::mt19937& generator() {
  static std::mt19937 state(20240801);
  return state;
}

int64_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    default:
      return 1;
  }
}

}  // namespace

Registration::Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }

void report(const char* file, int line, const std::string& message) {
  ++failures_of_test;
  if (failures_of_test <= 20) std::printf("    %s:%d: %s\n", file, line, message.c_str());
}

Array::Array(Shape shape, DType dtype, int64_t gap)
    : shape_(std::move(shape)), stride_(shape_.size(), 1), dtype_(dtype) {
  int64_t span = shape_.empty() ? 1 : shape_.back();
  for (int axis = static_cast<int>(shape_.size()) - 2; axis >= 0; --axis) {
    const auto at = static_cast<size_t>(axis);
    stride_[at] = span + gap;
    span = stride_[at] * shape_[at];
  }
  memory_.assign(static_cast<size_t>((span + 2 * kGuardElements) * bytes_of(dtype)), kGuard);
}

Array Array::random(Shape shape, double scale, DType dtype, int64_t gap) {
  Array array(std::move(shape), dtype, gap);
  std::normal_distribution<double> normal(0, scale);
  std::uniform_int_distribution<int> code(0, 253);
  for (int64_t i = 0; i < array.size(); ++i) {
    if (dtype == DType::kF8E4M3) {
      const int finite = code(generator());
      array.memory_[static_cast<size_t>(array.offset_of(i))] =
          static_cast<uint8_t>(finite < 127 ? finite : finite + 1);
    } else {
      array.set(i, normal(generator()));
    }
  }
  return array;
}

Array Array::of(Shape shape, const std::vector<double>& values, DType dtype) {
  Array array(std::move(shape), dtype);
  for (int64_t i = 0; i < array.size(); ++i) array.set(i, values.at(static_cast<size_t>(i)));
  return array;
}

int64_t Array::size() const {
  int64_t count = 1;
  for (const int64_t length : shape_) count *= length;
  return count;
}

int64_t Array::offset_of(int64_t index) const {
  int64_t offset = kGuardElements;
  for (size_t axis = shape_.size(); axis-- > 0;) {
    offset += index % shape_[axis] * stride_[axis];
    index /= shape_[axis];
  }
  return offset;
}

double Array::get(int64_t index) const {
  const uint8_t* at = memory_.data() + offset_of(index) * bytes_of(dtype_);
  if (dtype_ == DType::kU8) return *at;
  if (dtype_ == DType::kI8) return static_cast<int8_t>(*at);
  if (dtype_ == DType::kF8E4M3) return e4m3_value(*at);
  if (dtype_ == DType::kI32) {
    int32_t value;
    std::memcpy(&value, at, 4);
    return value;
  }
  uint32_t bits = 0;
  if (dtype_ == DType::kBF16) {
    uint16_t upper;
    std::memcpy(&upper, at, 2);
    bits = static_cast<uint32_t>(upper) << 16;
  } else {
    std::memcpy(&bits, at, 4);
  }
  return static_cast<double>(std::bit_cast<float>(bits));
}

double Array::get(std::initializer_list<int64_t> position) const {
  int64_t index = 0;
  size_t axis = 0;
  for (const int64_t p : position) index = index * shape_[axis++] + p;
  return get(index);
}

void Array::set(int64_t index, double value) {
  uint8_t* at = memory_.data() + offset_of(index) * bytes_of(dtype_);
  if (dtype_ == DType::kU8) {
    *at = static_cast<uint8_t>(value);
  } else if (dtype_ == DType::kI32) {
    const auto integer = static_cast<int32_t>(value);
    std::memcpy(at, &integer, 4);
  } else {
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(value));
    const uint16_t upper = static_cast<uint16_t>(bits >> 16);
    if (dtype_ == DType::kBF16) {
      std::memcpy(at, &upper, 2);
    } else {
      std::memcpy(at, &bits, 4);
    }
  }
}

TensorView Array::view() const {
  TensorView view;
  view.data = const_cast<uint8_t*>(memory_.data()) + kGuardElements * bytes_of(dtype_);
  view.dtype = dtype_;
  view.rank = static_cast<int>(shape_.size());
  std::copy(shape_.begin(), shape_.end(), view.shape.begin());
  std::copy(stride_.begin(), stride_.end(), view.stride.begin());
  return view;
}

bool Array::intact() const {
  std::vector<uint8_t> rest = memory_;
  const int64_t bytes = bytes_of(dtype_);
  for (int64_t i = 0; i < size(); ++i) {
    std::fill_n(rest.begin() + offset_of(i) * bytes, bytes, kGuard);
  }
  return std::all_of(rest.begin(), rest.end(), [](uint8_t byte) { return byte == kGuard; });
}

double e4m3_value(int code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 128) != 0 ? -magnitude : magnitude;
}

int e4m3_nearest(double value) {
  if (std::isnan(value)) return 127;
  int best = 0;
  for (int code = 1; code < 127; ++code) {
    const double distance = std::abs(e4m3_value(code) - std::abs(value)),
                 least = std::abs(e4m3_value(best) - std::abs(value));
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  return std::signbit(value) ? best | 128 : best;
}

namespace {

OpCall call_of(const Case& test) {
  OpCall call;
  call.kind = test.kind;
  call.attributes = test.attributes;
  for (const auto& [name, array] : test.tensors) {
    const auto alias = test.alias.find(name);
    call.operands.emplace_back(name,
                               (alias == test.alias.end() ? array : test.tensors.at(alias->second)).view());
  }
  return call;
}

bool is_output(const Case& test, const std::string& name) {
  return std::find(test.outputs.begin(), test.outputs.end(), name) != test.outputs.end();
}

}  // namespace

void Case::run() {
  const cpu::Kernel kernel = cpu::find_kernel(kind);
  EXPECT(kernel != nullptr, kind);
  if (kernel == nullptr) return;
  std::map<std::string, Array> first;
  for (const int threads : {1, 2, 3, 7}) {
    Case copy = *this;
    ThreadPool pool(threads);
    kernel(call_of(copy), pool);
    for (const auto& [name, array] : copy.tensors) {
      const std::string where = kind + "." + name + " on " + std::to_string(threads) + " threads";
      EXPECT(array.intact(), where + " wrote outside of its elements");
      if (!is_output(*this, name)) EXPECT(array.same_bytes(tensors.at(name)), where + " changed an input");
      if (threads > 1) EXPECT(array.same_bytes(first.at(name)), where + " differs from one thread");
    }
    if (threads == 1) first = copy.tensors;
  }
  tensors = std::move(first);
}

void Case::expect_same_in_place(const std::string& output, const std::string& input) {
  Case copy = *this;
  copy.alias[output] = input;
  ThreadPool pool(2);
  cpu::find_kernel(kind)(call_of(copy), pool);
  for (int64_t i = 0; i < tensors.at(output).size(); ++i) {
    const double in_place = copy.tensors.at(input).get(i), apart = tensors.at(output).get(i);
    if (in_place == apart) continue;
    EXPECT(in_place == apart,
           kind + " with " + output + " in the place of " + input + " differs at " + std::to_string(i));
    return;
  }
}

void Case::expect_error(const std::string& part, const char* file, int line) {
  try {
    ThreadPool pool(2);
    cpu::find_kernel(kind)(call_of(*this), pool);
    report(file, line, kind + " accepted what should fail with \"" + part + "\"");
  } catch (const FluxError& error) {
    const std::string message = error.what();
    if (std::string(error.code()) != code::kBadArgument || message.find(part) == std::string::npos ||
        message.find(kind) == std::string::npos) {
      report(file, line, "\"" + message + "\" does not name " + kind + " and say \"" + part + "\"");
    }
  }
}

void expect_close(const Array& actual, const std::function<double(int64_t index)>& expected, double relative,
                  const std::string& what, const char* file, int line) {
  double error = 0, norm = 0, worst = 0, largest = 0;
  int64_t at = 0;
  for (int64_t i = 0; i < actual.size(); ++i) {
    const double want = expected(i), distance = actual.get(i) - want;
    error += distance * distance;
    norm += want * want;
    largest = std::max(largest, std::abs(want));
    if (!(std::abs(distance) <= worst)) {
      worst = std::abs(distance);
      at = i;
    }
  }
  if (std::sqrt(error) <= relative * std::sqrt(norm) && worst <= 10 * relative * largest) return;
  char text[256];
  std::snprintf(text, sizeof(text), ": relative L2 %.3g (allowed %.3g); element %lld is %.9g, expected %.9g",
                std::sqrt(error / norm), relative, static_cast<long long>(at), actual.get(at), expected(at));
  report(file, line, what + text);
}

std::string label(const std::string& name, const Shape& sizes) {
  std::string text = name;
  for (size_t i = 0; i < sizes.size(); ++i) text.append(i == 0 ? " " : "x").append(std::to_string(sizes[i]));
  return text;
}

int run_tests(const std::string& filter) {
  int failed = 0, count = 0;
  for (const Test& test : tests()) {
    if (std::string(test.name).find(filter) == std::string::npos) continue;
    ++count;
    failures_of_test = 0;
    try {
      test.body();
    } catch (const std::exception& error) {
      report(test.name, 0, std::string("threw: ") + error.what());
    }
    std::printf("%s %s\n", failures_of_test == 0 ? "ok  " : "FAIL", test.name);
    if (failures_of_test != 0) ++failed;
  }
  std::printf("%d of %d tests failed\n", failed, count);
  return count == 0 ? 1 : failed;
}

}  // namespace flux::test
