// Element-wise ops, copies, the sampler's ops and the image and latent layouts.
#include <bit>
#include <cmath>

#include "check.h"
#include "cpu/ops.h"

namespace flux::test {
namespace {

double activate(double x, int activation) {
  switch (activation) {
    case 1:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case 2:
      return x / (1 + std::exp(-x));
    case 3:
      return x / (1 + std::exp(-1.702 * x));
    default:
      return x;
  }
}

Case binary_case(const std::string& kind, const std::string& a, const std::string& b, const Shape& shape,
                 int64_t gap) {
  Case test{.kind = kind};
  test.tensors[a] = Array::random(shape, 2, DType::kF32, gap);
  test.tensors[b] = Array::random(shape, 2, DType::kF32, gap);
  test.tensors["y"] = Array(shape, DType::kF32, gap);
  return test;
}

FLUX_TEST(activations_match_f64) {
  for (int activation = 0; activation < 4; ++activation) {
    Case test{.kind = "activation", .attributes = {{"activation", activation}}};
    std::vector<double> values;
    for (int i = 0; i <= 4000; ++i) values.push_back(static_cast<float>(i * 0.01 - 20));
    for (const double extreme : {-1e30, -200.0, -89.0, -87.4, 87.4, 89.0, 200.0, 1e30})
      values.push_back(extreme);
    const auto count = static_cast<int64_t>(values.size());
    test.tensors["x"] = Array::of({count}, values);
    test.tensors["y"] = Array({count});
    test.run();
    for (int64_t i = 0; i < count; ++i) {
      const double x = test["x"].get(i), want = x < -80 && activation != 0 ? 0 : activate(x, activation);
      // 2e-6 absolute is what the golden cases ask for; large values are exact to f32.
      EXPECT(std::abs(test["y"].get(i) - want) <= 2e-6 || test["y"].get(i) == want,
             label("activation", {activation, i}));
    }
    test.expect_same_in_place("y", "x");
    test.tensors["x"].set(1, std::nan(""));
    test.run();
    EXPECT(std::isnan(test["y"].get(1)), "a NaN stays a NaN");
  }
}

FLUX_TEST(add_and_multiply_and_guide_match_f64) {
  for (const Shape& shape : {Shape{1}, Shape{17}, Shape{3, 5, 33}, Shape{2, 9, 4, 3, 16}, Shape{40, 1000}}) {
    for (const int64_t gap : {0, 3}) {
      Case add = binary_case("add", "a", "b", shape, gap);
      add.run();
      EXPECT_CLOSE(
          add["y"], [&](int64_t i) { return add["a"].get(i) + add["b"].get(i); }, 1e-7, label("add", shape));
      add.expect_same_in_place("y", "a");
      for (int activation = 0; activation < 4; ++activation) {
        Case multiply = binary_case("multiply", "a", "b", shape, gap);
        multiply.attributes = {{"activation", activation}};
        multiply.run();
        EXPECT_CLOSE(
            multiply["y"],
            [&](int64_t i) { return activate(multiply["a"].get(i), activation) * multiply["b"].get(i); },
            4e-7, label("multiply", shape));
        multiply.expect_same_in_place("y", "a");
      }
      Case guide = binary_case("guide", "uncond", "cond", shape, gap);
      guide.attributes = {{"scale", 3.5}};
      guide.run();
      const auto guided = [&](int64_t i) {
        return guide["uncond"].get(i) + 3.5 * (guide["cond"].get(i) - guide["uncond"].get(i));
      };
      EXPECT_CLOSE(guide["y"], guided, 3e-7, label("guide", shape));
      guide.expect_same_in_place("y", "uncond");
    }
  }
  Case wrong = binary_case("add", "a", "b", {3, 4}, 0);
  wrong.tensors["b"] = Array({4, 3});
  EXPECT_ERROR(wrong, "b [4, 3] f32 must have the rows of a [3, 4]");
}

FLUX_TEST(add_broadcasts_axes_of_stride_zero) {
  const Array a = Array::random({2, 5, 33}), row = Array::random({33}), y({2, 5, 33});
  TensorView repeated = a.view();
  repeated.data = row.view().data;
  repeated.stride = {0, 0, 1};
  ThreadPool pool(2);
  cpu::find_kernel("add")({"add", {{"a", a.view()}, {"b", repeated}, {"y", y.view()}}, {}}, pool);
  EXPECT_CLOSE(y, [&](int64_t i) { return a.get(i) + row.get(i % 33); }, 1e-7, "add of a repeated row");
}

FLUX_TEST(copy_converts_between_f32_and_bf16) {
  for (const int64_t gap : {0, 5}) {
    Case narrow{.kind = "copy"};
    narrow.tensors["x"] = Array::random({3, 4, 9}, 1, DType::kF32, gap);
    // A tie rounds to the even mantissa, below and above it to the nearer one.
    const uint32_t bits[] = {0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001, 0x7f7fffff, 0x80000001};
    const double rounded[] = {0x3f80, 0x3f82, 0x3f80, 0x3f81, 0x7f80, 0x8000};
    for (int i = 0; i < 6; ++i)
      narrow.tensors["x"].set(i, static_cast<double>(std::bit_cast<float>(bits[i])));
    narrow.tensors["y"] = Array({3, 4, 9}, DType::kBF16);
    narrow.run();
    for (int i = 0; i < 6; ++i) {
      const float want = std::bit_cast<float>(static_cast<uint32_t>(rounded[i]) << 16);
      EXPECT(narrow["y"].get(i) == static_cast<double>(want), label("bf16 of bits", {bits[i]}));
    }
    for (int64_t i = 6; i < narrow["y"].size(); ++i) {
      EXPECT(std::abs(narrow["y"].get(i) - narrow["x"].get(i)) <= std::abs(narrow["x"].get(i)) / 256,
             label("bf16", {i}));
    }
    Case widen{.kind = "copy"};
    widen.tensors["x"] = narrow["y"];
    widen.tensors["y"] = Array({3, 4, 9}, DType::kF32, gap);
    widen.run();
    for (int64_t i = 0; i < widen["y"].size(); ++i)
      EXPECT(widen["y"].get(i) == widen["x"].get(i), label("f32 of bf16", {i}));
    Case same{.kind = "copy"};
    same.tensors["x"] = Array::of({2, 3}, {1, -2, 3, 4, 5, 1 << 30}, DType::kI32);
    same.tensors["y"] = Array({2, 3}, DType::kI32, gap);
    same.run();
    for (int64_t i = 0; i < 6; ++i) EXPECT(same["y"].get(i) == same["x"].get(i), label("i32", {i}));
    same.tensors["y"] = Array({2, 3});
    EXPECT_ERROR(same, "converts between f32 and bf16 only");
  }
}

FLUX_TEST(rows_are_taken_and_gathered) {
  Case take{.kind = "takeRow"};
  take.tensors["table"] = Array::random({5, 3, 7}, 1, DType::kF32, 2);
  take.tensors["index"] = Array::of({1}, {4}, DType::kI32);
  take.tensors["y"] = Array({3, 7}, DType::kF32, 1);
  take.run();
  for (int64_t i = 0; i < 21; ++i)
    EXPECT(take["y"].get(i) == take["table"].get(4 * 21 + i), label("takeRow", {i}));
  take.tensors["index"].set(0, 5);
  EXPECT_ERROR(take, "index 5 is outside the 5 rows of table [5, 3, 7]");
  take.tensors["index"].set(0, -1);
  EXPECT_ERROR(take, "index -1");
  Case gather{.kind = "gatherRows"};
  gather.tensors["x"] = Array::random({3, 5, 11}, 1, DType::kF32, 3);
  gather.tensors["index"] = Array::of({3}, {4, 0, 2}, DType::kI32);
  gather.tensors["y"] = Array({3, 11}, DType::kF32, 2);
  gather.run();
  for (int64_t b = 0; b < 3; ++b) {
    const auto row = static_cast<int64_t>(gather["index"].get(b));
    for (int64_t i = 0; i < 11; ++i)
      EXPECT(gather["y"].get({b, i}) == gather["x"].get({b, row, i}), label("gatherRows", {b, i}));
  }
  gather.tensors["index"].set(1, 5);
  EXPECT_ERROR(gather, "index 5 is outside the 5 tokens of x [3, 5, 11]");
}

FLUX_TEST(sampler_ops_match_f64) {
  Case euler{.kind = "eulerStep"};
  euler.tensors["latents"] = Array::random({2, 40, 64}, 1, DType::kF32, 3);
  euler.tensors["velocity"] = Array::random({2, 40, 64});
  euler.tensors["sigmas"] = Array::of({4}, {1, 0.75, 0.3, 0});
  euler.tensors["step"] = Array::of({1}, {1}, DType::kI32);
  euler.tensors["y"] = Array({2, 40, 64}, DType::kF32, 3);
  euler.run();
  const double distance = euler["sigmas"].get(2) - euler["sigmas"].get(1);
  EXPECT_CLOSE(
      euler["y"], [&](int64_t i) { return euler["latents"].get(i) + distance * euler["velocity"].get(i); },
      1e-7, "eulerStep");
  euler.expect_same_in_place("y", "latents");
  euler.tensors["step"].set(0, 3);
  EXPECT_ERROR(euler, "step 3 is outside sigmas [4]");
  euler.tensors["step"].set(0, -1);
  EXPECT_ERROR(euler, "step -1 is outside");

  Case noise{.kind = "scaleNoise"};
  noise.tensors["x"] = Array::random({2, 40, 64});
  noise.tensors["noise"] = Array::random({2, 40, 64}, 1, DType::kF32, 1);
  noise.tensors["sigmas"] = euler["sigmas"];
  noise.tensors["step"] = Array::of({1}, {2}, DType::kI32);
  noise.tensors["y"] = Array({2, 40, 64});
  noise.run();
  const double sigma = noise["sigmas"].get(2);
  EXPECT_CLOSE(
      noise["y"], [&](int64_t i) { return sigma * noise["noise"].get(i) + (1 - sigma) * noise["x"].get(i); },
      1e-7, "scaleNoise");

  Case greater{.kind = "greater"};
  greater.tensors["y"] = Array({1}, DType::kI32);
  const double pairs[][3] = {{1, 2, 0}, {2, 1, 1}, {1, 1, 0}, {std::nan(""), 1, 0}};
  for (const auto& [a, b, want] : pairs) {
    greater.tensors["a"] = Array::of({1}, {a});
    greater.tensors["b"] = Array::of({1}, {b});
    greater.run();
    EXPECT(greater["y"].get(0) == want, std::to_string(a) + " > " + std::to_string(b));
  }

  Case increment{.kind = "increment", .outputs = {"counter"}};
  increment.tensors["counter"] = Array::of({1}, {41}, DType::kI32);
  increment.run();
  EXPECT(increment["counter"].get(0) == 42, "increment");
  increment.tensors["counter"].set(0, INT32_MAX);
  EXPECT_ERROR(increment, "largest value");
}

FLUX_TEST(latents_are_packed_in_patches) {
  const int64_t batch = 2, height = 6, width = 10, channels = 16;
  for (const bool channels_first : {false, true}) {
    Case pack{.kind = "packLatents",
              .attributes = {{"scale", 0.5}, {"shift", 0.25}, {"channelsFirst", channels_first ? 1 : 0}}};
    pack.tensors["x"] = channels_first ? Array::random({batch, channels, height, width}, 1, DType::kF32, 3)
                                       : Array::random({batch, height, width, channels}, 1, DType::kF32, 3);
    pack.tensors["y"] = Array({batch, 15, 64}, DType::kF32, 2);
    pack.run();
    const auto image = [&](int64_t b, int64_t y, int64_t x, int64_t c) {
      return channels_first ? pack["x"].get({b, c, y, x}) : pack["x"].get({b, y, x, c});
    };
    const auto packed = [&](int64_t i) {
      const int64_t corner = i % 4, c = i / 4 % 16, token = i / 64 % 15, b = i / 64 / 15;
      return (image(b, token / 5 * 2 + corner / 2, token % 5 * 2 + corner % 2, c) - 0.25) * 0.5;
    };
    EXPECT_CLOSE(pack["y"], packed, 1e-7, "packLatents");
    if (channels_first) continue;
    Case unpack{.kind = "unpackLatents", .attributes = {{"scale", 0.5}, {"shift", 0.25}}};
    unpack.tensors["x"] = pack["y"];
    unpack.tensors["y"] = Array({batch, height, width, channels}, DType::kF32, 1);
    unpack.run();
    EXPECT_CLOSE(unpack["y"], [&](int64_t i) { return pack["x"].get(i); }, 1e-7, "unpackLatents");
    unpack.tensors["y"] = Array({batch, 5, width, channels});
    EXPECT_ERROR(unpack, "y [2, 5, 10, 16] f32 must have an even height and width");
  }
}

FLUX_TEST(sampleLatents_draws_from_the_posterior) {
  Case test{.kind = "sampleLatents"};
  test.tensors["moments"] = Array::random({2, 3, 4, 32}, 2, DType::kF32, 3);
  test.tensors["moments"].set(16, 25);  // log-variances beyond the clamp
  test.tensors["moments"].set(17, -99);
  test.tensors["y"] = Array({2, 3, 4, 16});
  Case mean = test;
  mean.run();
  const auto moment = [&](int64_t i, int64_t half) {
    return test["moments"].get(i / 16 * 32 + half * 16 + i % 16);
  };
  for (int64_t i = 0; i < test["y"].size(); ++i) EXPECT(mean["y"].get(i) == moment(i, 0), label("mean", {i}));
  test.tensors["noise"] = Array::random({2, 3, 4, 16}, 1, DType::kF32, 1);
  test.run();
  const auto sampled = [&](int64_t i) {
    return moment(i, 0) + std::exp(0.5 * std::fmin(std::fmax(moment(i, 1), -30), 20)) * test["noise"].get(i);
  };
  EXPECT_CLOSE(test["y"], sampled, 1e-6, "sampleLatents");
}

FLUX_TEST(images_are_rounded_half_to_even) {
  std::vector<double> values = {-5, -1, 1, 5, std::nan(""), -INFINITY, INFINITY};
  for (int level = 0; level <= 255; ++level) values.push_back(static_cast<float>(level / 127.5 - 1));
  const auto count = static_cast<int64_t>(values.size());
  Case bytes{.kind = "toImage"};
  bytes.tensors["x"] = Array::of({1, 1, count, 1}, values);
  bytes.tensors["y"] = Array({1, 1, count, 1}, DType::kU8);
  bytes.run();
  const double first[] = {0, 0, 255, 255, 0, 0, 255};
  for (int64_t i = 0; i < count; ++i)
    EXPECT(bytes["y"].get(i) == (i < 7 ? first[i] : static_cast<double>(i - 7)), label("level", {i}));
  // 255·u exactly at a half: u = 0.5 gives 127.5, which goes to the even 128.
  bytes.tensors["x"].set(0, 0);
  bytes.run();
  EXPECT(bytes["y"].get(0) == 128, "127.5 rounds to 128");

  Case floats = bytes;
  floats.tensors["y"] = Array({1, 1, count, 1});
  floats.run();
  for (int64_t i = 7; i < count; ++i)
    EXPECT(std::abs(floats["y"].get(i) - static_cast<double>(i - 7) / 255) < 1e-7, label("u", {i}));
  EXPECT(std::isnan(floats["y"].get(4)) && floats["y"].get(3) == 1 && floats["y"].get(5) == 0,
         "clamped, a NaN kept");

  Case back{.kind = "fromImage"};
  back.tensors["x"] = bytes["y"];
  back.tensors["y"] = Array({1, 1, count, 1});
  back.run();
  EXPECT_CLOSE(back["y"], [&](int64_t i) { return back["x"].get(i) / 255 * 2 - 1; }, 1e-7, "fromImage");
}

}  // namespace
}  // namespace flux::test
