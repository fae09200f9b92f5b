// What the ops stand on: dtypes, views, op calls and the thread pool.
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "check.h"
#include "cpu/ops.h"
#include "runtime/dtype.h"
#include "runtime/error.h"

namespace flux::test {
namespace {

bool same(float a, double b) { return std::isnan(b) ? std::isnan(a) : static_cast<double>(a) == b; }

FLUX_TEST(every_f16_and_e4m3_code_has_its_value) {
  for (int bits = 0; bits < 65536; ++bits) {
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) value = mantissa == 0 ? INFINITY : std::nan("");
    const float actual = f16_to_f32(static_cast<uint16_t>(bits));
    EXPECT(same(actual, (bits & 0x8000) != 0 ? -value : value) && std::signbit(actual) == (bits >= 0x8000),
           label("f16", {bits}));
  }
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_f32(static_cast<uint8_t>(code));
    EXPECT(same(value, e4m3_value(code)) && std::signbit(value) == (code >= 128), label("e4m3", {code}));
    if (!std::isnan(value)) EXPECT(f32_to_e4m3(value) == code, label("round trip of e4m3", {code}));
  }
}

FLUX_TEST(e4m3_rounds_to_nearest_even) {
  for (int code = 0; code < 126; ++code) {
    const float middle = static_cast<float>((e4m3_value(code) + e4m3_value(code + 1)) / 2);
    for (const float value : {middle, std::nextafterf(middle, 0), std::nextafterf(middle, 500)}) {
      EXPECT(f32_to_e4m3(value) == e4m3_nearest(value), std::to_string(value));
      EXPECT(f32_to_e4m3(-value) == e4m3_nearest(-value), std::to_string(-value));
    }
  }
  EXPECT(f32_to_e4m3(1e9f) == 0x7e && f32_to_e4m3(-INFINITY) == 0xfe, "saturates at 448");
  EXPECT(f32_to_e4m3(std::numeric_limits<float>::quiet_NaN()) == 0x7f, "NaN");
  EXPECT(f32_to_e4m3(1e-40f) == 0 && f32_to_e4m3(-0.0f) == 0x80, "zeros keep their sign");
}

FLUX_TEST(dtype_names_are_known_both_ways) {
  const std::pair<const char*, size_t> names[] = {{"f32", 4}, {"bf16", 2}, {"f16", 2}, {"f8e4m3", 1},
                                                  {"i32", 4}, {"i8", 1},   {"u8", 1},  {"f8e5m2", 1}};
  for (const auto& [name, bytes] : names) {
    EXPECT(name_of(dtype_from_name(name)) == name, name);
    EXPECT(size_of(dtype_from_name(name)) == bytes, name);
  }
  try {
    dtype_from_name("f64");
    EXPECT(false, "f64 was accepted");
  } catch (const FluxError& error) {
    EXPECT(std::string(error.what()).find("unknown dtype 'f64'") == 0, error.what());
  }
}

FLUX_TEST(views_know_their_layout) {
  TensorView view;
  view.rank = 3;
  view.shape = {2, 3, 4};
  view.stride = {12, 4, 1};
  EXPECT(view.contiguous() && view.elements() == 24 && view.extent() == 24 && view.rows() == 6, "contiguous");
  EXPECT(view.shape_string() == "[2, 3, 4]", view.shape_string());
  view.stride = {40, 5, 1};
  EXPECT(!view.contiguous() && view.extent() == 54, std::to_string(view.extent()));
  EXPECT(view.row_offset(4) == 45, std::to_string(view.row_offset(4)));
  view.shape = {2, 0, 4};
  EXPECT(view.extent() == 0 && view.elements() == 0, "empty");
  view.shape = {1, 1, 4};
  view.stride = {99, 77, 1};
  EXPECT(view.contiguous(), "axes of length 1 may have any stride");
}

FLUX_TEST(pool_runs_each_index_once) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT(pool.threads() == threads, label("threads", {threads}));
    for (int round = 0; round < 200; ++round) {
      const int64_t count = round * 7 % 101, grain = 1 + round % 5;
      std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
      pool.parallel_for(count, grain, [&](int64_t begin, int64_t end) {
        EXPECT(end - begin <= grain && begin < end, label("chunk", {begin, end}));
        for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
      });
      for (const auto& times : seen) EXPECT(times == 1, label("count, grain", {count, grain}));
    }
  }
}

FLUX_TEST(pool_rethrows_the_first_failure_and_goes_on) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> done{0};
    try {
      pool.parallel_for(50, 1, [&](int64_t begin, int64_t) {
        ++done;
        if (begin % 10 == 7) throw FluxError(code::kBadArgument, std::to_string(begin));
      });
      EXPECT(false, "nothing was thrown");
    } catch (const FluxError& error) {
      EXPECT(std::string(error.what()) == "7", error.what());
      EXPECT(done == 50, label("chunks run", {done}));
    }
  }
}

FLUX_TEST(unknown_ops_are_unknown) {
  EXPECT(cpu::find_kernel("convolve") == nullptr && cpu::find_kernel("") == nullptr, "no such op");
  for (const char* kind : {"linear",     "qkvLinear",   "attention",     "layerNorm",         "rmsNorm",
                           "groupNorm",  "conv2d",      "embedding",     "timestepEmbedding", "ropeTable",
                           "t5Bias",     "add",         "multiply",      "activation",        "copy",
                           "takeRow",    "gatherRows",  "increment",     "eulerStep",         "guide",
                           "scaleNoise", "packLatents", "unpackLatents", "sampleLatents",     "toImage",
                           "fromImage",  "greater",     "quantizeRows"}) {
    EXPECT(cpu::find_kernel(kind) != nullptr, kind);
  }
}

}  // namespace
}  // namespace flux::test
