// One result an element, choosing copies, tables and latents.
#include <cmath>

#include "harness/case.h"
#include "head_operands.h"
#include "kernels.h"
#include "reference/norms.h"

namespace flux::testing {
namespace {

using namespace kernels;

constexpr Element kBF16 = Element::kBF16, kF32 = Element::kF32, kF16 = Element::kF16, kU8 = Element::kU8;

// f32 results differ from double ones by a few roundings.
constexpr Tolerance kAfterF32{1e-6, -1, 4e-6};

// A [batch, rows, width] operand in `type`; gap elements between rows.
struct Layout {
  int batch, rows, width, gap;
  Element a, b, y;
};

std::string name_of(const Layout& l) {
  return std::to_string(l.batch) + "x" + std::to_string(l.rows) + "x" + std::to_string(l.width) +
         (l.gap ? "/gap" + std::to_string(l.gap) : "") + "/" + testing::name_of(l.a) + "-" +
         testing::name_of(l.b) + "-to-" + testing::name_of(l.y);
}

struct Operands {
  Matrix a, b;
  Input a_in, b_in;
  Output y;
  ConstView a_view, b_view;
  View y_view;
  Extent extent;

  Operands(const Layout& l, const Matrix& left, const Matrix& right)
      : a(rounded_to(left, l.a)),
        b(rounded_to(right, l.b)),
        a_in(a, l.a, l.width + l.gap),
        b_in(b, l.b, l.width + l.gap),
        y(a.rows, a.cols, l.y, l.width + l.gap),
        extent{l.batch, l.rows, l.width} {
    const int64_t stride = l.width + l.gap;
    a_view = {a_in.data(), l.a, l.rows * stride, stride};
    b_view = {b_in.data(), l.b, l.rows * stride, stride};
    y_view = {y.data(), l.y, l.rows * stride, stride};
  }
};

Tolerance tolerance_of(Element type) {
  if (type == kF16) return {5e-4, -1, 1e-3};
  return type == kF32 ? kAfterF32 : kAfterBf16;
}

void check(Context& c, Operands& o, const std::function<double(double, double)>& want,
           const std::function<Status()>& launch) {
  if (!c.run({&o.y}, launch)) return;
  Matrix expected(o.a.rows, o.a.cols);
  for (size_t i = 0; i < expected.values.size(); ++i)
    expected.values[i] = float(want(o.a.values[i], o.b.values[i]));
  c.expect_within("y", o.y.values(), expected, tolerance_of(o.y.type()));
}

void all_functions(Context& c, const Layout& l) {
  const int64_t rows = int64_t(l.batch) * l.rows;
  Operands o(l, normal(rows, l.width, 51, 2.0f), normal(rows, l.width, 52, 2.0f));
  check(
      c, o, [](double a, double) { return a; },
      [&] { return copy(o.a_view, o.y_view, o.extent, c.stream()); });
  check(
      c, o, [](double a, double b) { return a + b; },
      [&] { return add(o.a_view, o.b_view, o.y_view, o.extent, c.stream()); });
  check(
      c, o, [](double a, double b) { return a - b; },
      [&] { return subtract(o.a_view, o.b_view, o.y_view, o.extent, c.stream()); });
  for (const float factor : {0.0f, 1.5f}) {
    const Input factors(Matrix(1, 1, factor), kF32);
    check(
        c, o, [=](double a, double b) { return a + double(factor) * b; },
        [&] {
          return add_scaled(o.a_view, o.b_view, o.y_view, o.extent, factors.data<float>(), c.stream());
        });
  }
  for (const Activation kind :
       {Activation::kNone, Activation::kGelu, Activation::kSilu, Activation::kQuickGelu}) {
    check(
        c, o, [kind](double a, double) { return reference::activate(kind, a); },
        [&] { return activation(o.a_view, o.y_view, o.extent, kind, c.stream()); });
    check(
        c, o, [kind](double a, double b) { return reference::activate(kind, a) * b; },
        [&] { return multiply(o.a_view, o.b_view, o.y_view, o.extent, kind, c.stream()); });
  }
  check(
      c, o, [](double a, double b) { return a + 3.5 * (b - a); },
      [&] { return guide(o.a_view, o.b_view, o.y_view, o.extent, 3.5f, c.stream()); });
  Matrix sigma_values(1, 5);
  sigma_values.values = {1.0f, 0.875f, 0.61f, 0.25f, 0.0f};
  Matrix step_values(1, 1, 2.0f);
  const Input sigmas(sigma_values, kF32), step(step_values, Element::kI32);
  const double change = double(0.25f) - double(0.61f), sigma = 0.61f;
  check(
      c, o, [=](double a, double b) { return a + change * b; },
      [&] {
        return euler_step(o.a_view, o.b_view, o.y_view, o.extent, sigmas.data<float>(), step.data<int32_t>(),
                          c.stream());
      });
  check(
      c, o, [=](double a, double b) { return sigma * b + (1.0 - sigma) * a; },
      [&] {
        return scale_noise(o.a_view, o.b_view, o.y_view, o.extent, sigmas.data<float>(), step.data<int32_t>(),
                           c.stream());
      });
}

void euler_in_place(Context& c) {
  const Matrix latents = normal(4096, 64, 53), velocity = rounded_to(normal(4096, 64, 54), kBF16);
  const Input velocity_in(velocity, kBF16);
  Output y(4096, 64, kF32);
  y.starts_as(latents);
  Matrix sigma_values(1, 3), step_values(1, 1, 1.0f), want = latents;
  sigma_values.values = {1.0f, 0.7f, 0.4f};
  const Input sigmas(sigma_values, kF32), step(step_values, Element::kI32);
  for (size_t i = 0; i < want.values.size(); ++i) want.values[i] += (0.4f - 0.7f) * velocity.values[i];
  const ConstView latents_view{y.data(), kF32, 0, 64}, velocity_view{velocity_in.data(), kBF16, 0, 64};
  const bool ran = c.run({&y}, [&] {
    return euler_step(latents_view, velocity_view, {y.data(), kF32, 0, 64}, {1, 4096, 64},
                      sigmas.data<float>(), step.data<int32_t>(), c.stream());
  });
  if (ran) c.expect_within("y", y.values(), want, kAfterF32);
}

// Factor 0 leaves x as it is, whatever a holds.
void add_nothing(Context& c) {
  const Matrix x = rounded_to(normal(64, 256, 58), kBF16);
  const Input a(Matrix(64, 256, std::nanf("")), kBF16), factor(Matrix(1, 1, 0.0f), kF32);
  Output y(64, 256, kBF16);
  y.starts_as(x);
  const bool ran = c.run({&y}, [&] {
    return add_scaled({y.data(), kBF16, 0, 256}, {a.data(), kBF16, 0, 256}, {y.data(), kBF16, 0, 256},
                      {1, 64, 256}, factor.data<float>(), c.stream());
  });
  if (ran) c.expect_within("y", y.values(), x, {0, 0, 0});
}

void activations_golden(Context& c) {
  const Golden file = c.golden();
  const Matrix x = file.matrix("gelu.x");
  const Input input(x, kF32);
  const auto compare = [&](const char* name, Activation kind) {
    Output y(1, x.cols, kF32);
    const bool ran = c.run({&y}, [&] {
      return activation({input.data(), kF32, 0, 0}, {y.data(), kF32, 0, 0}, {1, 1, x.cols}, kind, c.stream());
    });
    if (ran) c.expect_within(name, y.values(), file.matrix(name), {-1, 2e-6, -1});
  };
  compare("gelu.tanh", Activation::kGelu);
  compare("silu", Activation::kSilu);
  compare("quick_gelu", Activation::kQuickGelu);
}

void rgb(Context& c, int rows, int width, Element type) {
  // Halves of 1/255 and values beyond the range; 0.5 · 255 falls exactly between two integers.
  Matrix x = uniform(rows, width, 55, -1.3f, 1.3f);
  for (int64_t i = 0; i < width && i < 255; ++i) x.at(0, i) = float((i + 0.5) / 255.0 * 2.0 - 1.0);
  x.at(rows - 1, width - 1) = std::nanf("");
  x = rounded_to(x, type);
  const Input input(x, type);
  Output y(rows, width, kU8);
  const bool ran = c.run({&y}, [&] {
    return to_image({input.data(), type, 0, width}, {y.data(), kU8, 0, width}, {1, rows, width}, c.stream());
  });
  if (!ran) return;
  Matrix want(rows, width);
  for (size_t i = 0; i < want.values.size(); ++i) {
    const float unit = x.values[i] * 0.5f + 0.5f;
    const float clamped = std::isnan(unit) ? 0.0f : std::fmin(std::fmax(unit, 0.0f), 1.0f);
    want.values[i] = std::nearbyintf(255.0f * clamped);
  }
  c.expect_within("rgb", y.values(), want, {0, 0, 0});

  Output unit(rows, width, kF32);
  const bool ran_unit = c.run({&unit}, [&] {
    return to_image({input.data(), type, 0, width}, {unit.data(), kF32, 0, width}, {1, rows, width},
                    c.stream());
  });
  Matrix units(rows, width);
  for (size_t i = 0; i < units.values.size(); ++i) {
    const float value = x.values[i] * 0.5f + 0.5f;
    units.values[i] = std::isnan(value) ? 0.0f : std::fmin(std::fmax(value, 0.0f), 1.0f);
  }
  if (ran_unit) c.expect_within("unit", unit.values(), units, {0, 0, 0});

  const Input back(y.bytes());
  Output floats(rows, width, kF32);
  const bool ran_back = c.run({&floats}, [&] {
    return from_image({back.data(), kU8, 0, width}, {floats.data(), kF32, 0, width}, {1, rows, width},
                      c.stream());
  });
  for (float& value : want.values) value = value / 255.0f * 2.0f - 1.0f;
  if (ran_back) c.expect_within("from rgb", floats.values(), want, {1e-7, 2e-7, -1});
}

void choose(Context& c, int batch, int rows, int width) {
  const Matrix table = index_ramp(int64_t(batch) * rows, width);
  const Input input(table, kBF16);
  Matrix index(batch, 1), want(batch, width);
  for (int b = 0; b < batch; ++b) {
    index.at(b, 0) = float(b == 1 ? rows + 5 : b == 2 ? -1 : (b * 7 + 3) % rows);
    const int64_t chosen = std::fmin(std::fmax(index.at(b, 0), 0.0f), float(rows - 1));
    for (int64_t i = 0; i < width; ++i) want.at(b, i) = table.at(b * rows + chosen, i);
  }
  const Input indices(index, Element::kI32);
  Output y(batch, width, kBF16);
  const bool ran = c.run({&y}, [&] {
    return gather_rows(input.data(), batch, rows, width * 2, indices.data<int32_t>(), y.data(), c.stream());
  });
  if (ran) c.expect_within("y", y.values(), want, {0, 0, 0});
  if (batch != 1) return;
  const bool took = c.run({&y}, [&] {
    return take_row(input.data(), rows, width * 2, indices.data<int32_t>(), y.data(), c.stream());
  });
  if (took) c.expect_within("row", y.values(), want, {0, 0, 0});
}

void counters(Context& c) {
  Output counter(1, 1, Element::kI32), above(1, 1, Element::kI32);
  counter.starts_as(Matrix(1, 1, 41.0f));
  if (c.run({&counter}, [&] { return increment(counter.data<int32_t>(), c.stream()); })) {
    c.expect_within("counter", counter.values(), Matrix(1, 1, 42.0f), {0, 0, 0});
  }
  const Input small(Matrix(1, 1, 0.25f), kF32), large(Matrix(1, 1, 0.5f), kF32);
  for (const bool yes : {false, true}) {
    const auto* a = (yes ? large : small).data<float>();
    const auto* b = (yes ? small : large).data<float>();
    if (c.run({&above}, [&] { return greater(a, b, above.data<int32_t>(), c.stream()); })) {
      c.expect_within("greater", above.values(), Matrix(1, 1, yes), {-1, 0, -1});
    }
  }
}

void embeddings(Context& c, Element type, bool positions) {
  constexpr int kBatch = 2, kTokens = 9, kWidth = 70, kVocabulary = 30;
  const Matrix table = rounded_to(normal(kVocabulary, kWidth, 56), type),
               places = rounded_to(normal(12, kWidth, 57), kF32);
  Matrix ids(kBatch * kTokens, 1), want(kBatch * kTokens, kWidth);
  for (int64_t i = 0; i < ids.rows; ++i) {
    ids.at(i, 0) = float((i * 11) % 32);  // 30 and 31 are outside
    for (int64_t w = 0; w < kWidth; ++w) {
      const bool known = ids.at(i, 0) < kVocabulary;
      want.at(i, w) = known ? table.at(int64_t(ids.at(i, 0)), w) + (positions ? places.at(i % kTokens, w) : 0)
                            : std::nanf("");
    }
  }
  const Input table_in(table, type), places_in(places, kF32), ids_in(ids, Element::kI32);
  Output y(ids.rows, kWidth, kF32);
  Embedding e;
  e.ids = ids_in.data<int32_t>();
  e.table = table_in.data();
  e.table_type = type;
  e.positions = positions ? places_in.data() : nullptr;
  e.positions_type = kF32;
  e.y = y.data();
  e.y_type = kF32;
  e.batch = kBatch, e.tokens = kTokens, e.width = kWidth, e.vocabulary = kVocabulary;
  if (c.run({&y}, [&] { return embedding(e, c.stream()); }))
    c.expect_within("y", y.values(), want, {0, 0, 0});
}

void timesteps(Context& c) {
  Matrix t(1, 29);
  for (int i = 0; i < 29; ++i) t.at(0, i) = float(i) / 28.0f;
  const Input input(t, kF32);
  Matrix want(29, 256);
  for (int r = 0; r < 29; ++r) {
    for (int i = 0; i < 128; ++i) {
      const float frequency = float(std::exp(-std::log(10000.0) * i / 128.0));
      const float angle = 1000.0f * t.at(0, r) * frequency;  // the angle itself is f32
      want.at(r, i) = float(std::cos(double(angle)));
      want.at(r, 128 + i) = float(std::sin(double(angle)));
    }
  }
  for (const Element type : {kF32, kBF16}) {
    Output y(29, 256, type);
    const bool ran = c.run({&y}, [&] {
      return timestep_embedding(input.data<float>(), 29, 256, 1000.0f, 10000.0f, y.data(), type, c.stream());
    });
    // A frequency off by one ulp turns the largest angle, 1000, by 6e-5.
    if (ran) c.expect_within("y", y.values(), want, type == kF32 ? Tolerance{2e-5, 2e-4, -1} : kAfterBf16);
  }
}

void timesteps_golden(Context& c) {
  const Golden file = c.golden();
  const Matrix t = file.matrix("timestep.t"), want = file.matrix("timestep.emb");
  const Input input(t, kF32);
  Output y(want.rows, want.cols, kF32);
  const bool ran = c.run({&y}, [&] {
    return timestep_embedding(input.data<float>(), int(want.rows), int(want.cols), 1.0f, 10000.0f, y.data(),
                              kF32, c.stream());
  });
  if (ran) c.expect_within("timestep.emb", y.values(), want, {-1, 5e-4, -1});
}

void rope(Context& c) {
  constexpr int kTokens = 700, kDims[] = {16, 56, 56};
  Matrix ids(kTokens, 3), want(kTokens, 128);
  for (int t = 0; t < kTokens; ++t) {
    ids.at(t, 0) = float(t % 2), ids.at(t, 1) = float(t / 26), ids.at(t, 2) = float(t % 26);
    int at = 0;
    for (int axis = 0; axis < 3; ++axis) {
      for (int i = 0; i < kDims[axis] / 2; ++i, at += 2) {
        const double angle = double(ids.at(t, axis)) / std::pow(10000.0, 2.0 * i / kDims[axis]);
        want.at(t, at) = float(std::cos(angle)), want.at(t, at + 1) = float(std::sin(angle));
      }
    }
  }
  const Input input(ids, kF32);
  Output y(kTokens, 128, kF32);
  const bool ran = c.run({&y}, [&] {
    return rope_table(input.data<float>(), kTokens, 3, kDims, 10000.0, y.data<float>(), c.stream());
  });
  if (ran) c.expect_within("y", y.values(), want, {1e-7, 1.5e-7, -1});
}

// The same rounded once, and moved.
void rope_in_pairs(Context& c, int tokens) {
  const Matrix table = uniform(tokens, 128, 37, -1.0f, 1.0f);
  const Input input(table, kF32);
  const Matrix want = rounded_to(paired(table), kF16);
  Output y(want.rows, want.cols, kF16);
  if (c.run({&y}, [&] { return rope_pairs(input.data<float>(), tokens, y.data(), c.stream()); }))
    c.expect_within("y", y.values(), want, {0, 0, 0});
}

// Buckets as the T5 paper's code counts them, from the distance alone.
int bucket(int distance) {
  const int sign = distance > 0 ? 16 : 0, magnitude = std::abs(distance);
  if (magnitude < 8) return sign + magnitude;
  const float position = std::log(float(magnitude) / 8.0f) / float(std::log(16.0)) * 8.0f;
  return sign + std::min(15, 8 + int(position));
}

void bias_of_t5(Context& c, int tokens) {
  const Matrix table = index_ramp(32, 5);
  const Input input(table, kF32);
  Matrix want(5 * int64_t(tokens), tokens);
  for (int h = 0; h < 5; ++h) {
    for (int q = 0; q < tokens; ++q) {
      for (int k = 0; k < tokens; ++k) want.at(int64_t(h) * tokens + q, k) = table.at(bucket(k - q), h);
    }
  }
  Output y(want.rows, tokens, kF32);
  const bool ran = c.run(
      {&y}, [&] { return t5_bias(input.data(), kF32, 32, 5, tokens, 128, y.data<float>(), c.stream()); });
  if (ran) c.expect_within("y", y.values(), want, {0, 0, 0});
}

void t5_golden(Context& c) {
  const std::vector<uint8_t> bytes = c.golden().bytes("t5.bucket");  // i32, distances -511 … 511
  const Matrix buckets = [&] {
    Matrix m(1, 1023);
    m.values = decode(bytes.data(), 1023, Element::kI32);
    return m;
  }();
  Matrix table(32, 1), want(512, 512);
  for (int i = 0; i < 32; ++i) table.at(i, 0) = float(i);
  for (int q = 0; q < 512; ++q) {
    for (int k = 0; k < 512; ++k) want.at(q, k) = buckets.at(0, k - q + 511);
  }
  const Input input(table, kF32);
  Output y(512, 512, kF32);
  const bool ran =
      c.run({&y}, [&] { return t5_bias(input.data(), kF32, 32, 1, 512, 128, y.data<float>(), c.stream()); });
  if (ran) c.expect_within("t5.bucket", y.values(), want, {0, 0, 0});
}

void patches(Context& c, int batch, int height, int width, int channels, Element x_type, Element y_type) {
  const int tokens = height / 2 * (width / 2);
  const Matrix image = rounded_to(normal(int64_t(batch) * height * width, channels, 58), x_type);
  Matrix packed(int64_t(batch) * tokens, 4 * channels);
  constexpr float kScale = 0.3611f, kShift = 0.1159f;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        for (int64_t ch = 0; ch < channels; ++ch) {
          const int64_t token = b * tokens + y / 2 * (width / 2) + x / 2;
          packed.at(token, ch * 4 + y % 2 * 2 + x % 2) =
              (image.at((b * height + y) * width + x, ch) - kShift) * kScale;
        }
      }
    }
  }
  const Input input(image, x_type);
  Output tokens_out(packed.rows, packed.cols, y_type), image_out(image.rows, image.cols, kF32);
  Patches p{input.data(), x_type, tokens_out.data(), y_type, batch, height, width, channels, kScale, kShift};
  if (!c.run({&tokens_out}, [&] { return pack_latents(p, c.stream()); })) return;
  c.expect_within("packed", tokens_out.values(), packed, tolerance_of(y_type));
  Matrix planes(int64_t(batch) * channels, height * width);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t p = 0; p < height * width; ++p) {
      for (int64_t ch = 0; ch < channels; ++ch)
        planes.at(b * channels + ch, p) = image.at(b * height * width + p, ch);
    }
  }
  const Input planes_in(planes, x_type);
  p.x = planes_in.data(), p.channels_first = true;
  if (c.run({&tokens_out}, [&] { return pack_latents(p, c.stream()); })) {
    c.expect_within("packed from planes", tokens_out.values(), packed, tolerance_of(y_type));
  }
  p.channels_first = false;
  const Input packed_in(packed, kF32);
  p.x = packed_in.data(), p.x_type = kF32, p.y = image_out.data(), p.y_type = kF32;
  if (c.run({&image_out}, [&] { return unpack_latents(p, c.stream()); })) {
    c.expect_within("unpacked", image_out.values(), image, {1e-6, -1, -1});
  }
}

void samples(Context& c) {
  Matrix moments = normal(300, 32, 59, 3.0f);
  moments.at(0, 16) = -80.0f;
  moments.at(1, 17) = 25.0f;
  const Matrix noise = normal(300, 16, 60);
  const Input moments_in(moments, kF32), noise_in(noise, kF32);
  for (const bool noisy : {false, true}) {
    Matrix want(300, 16);
    for (int64_t r = 0; r < 300; ++r) {
      for (int64_t ch = 0; ch < 16; ++ch) {
        const double log_variance = std::fmin(std::fmax(double(moments.at(r, 16 + ch)), -30.0), 20.0);
        want.at(r, ch) =
            float(moments.at(r, ch) + (noisy ? std::exp(0.5 * log_variance) * noise.at(r, ch) : 0.0));
      }
    }
    Output y(300, 16, kF32);
    const bool ran = c.run({&y}, [&] {
      return sample_latents(moments_in.data(), kF32, noisy ? noise_in.data() : nullptr, kF32, y.data(), kF32,
                            300, 16, c.stream());
    });
    if (ran) c.expect_within("y", y.values(), want, kAfterF32);
  }
}

void refusals(Context& c) {
  const DeviceBytes memory(4096);
  const ConstView x{memory.data(), kF32, 0, 0};
  const View y{memory.data(), kF32, 0, 0};
  constexpr auto kBad = Status::Code::kBadArgument;
  c.expect_refused("e4m3", copy({memory.data(), Element::kE4M3, 0, 0}, y, {1, 1, 8}, c.stream()), kBad);
  c.expect_refused("a negative width", add(x, x, y, {1, 1, -1}, c.stream()), kBad);
  c.expect_refused("an f32 image", from_image(x, y, {1, 1, 8}, c.stream()), kBad);
  c.expect_refused("an odd timestep width",
                   timestep_embedding(nullptr, 1, 255, 1, 1e4f, memory.data(), kF32, c.stream()), kBad);
  c.expect_refused("odd latents",
                   pack_latents({memory.data(), kF32, memory.data(), kF32, 1, 3, 2, 4}, c.stream()), kBad);
  c.expect_refused("an empty table", take_row(memory.data(), 0, 16, nullptr, memory.data(), c.stream()),
                   kBad);
  const int odd[] = {15, 56, 56};
  c.expect_refused("an odd axis", rope_table(nullptr, 1, 3, odd, 1e4, nullptr, c.stream()), kBad);
  c.expect(add(x, x, y, {1, 0, 8}, c.stream()).ok(), "no rows are no error");
}

const Cases kTests = [](Register& add) {
  for (const Layout& l :
       {Layout{1, 1, 3072, 0, kBF16, kBF16, kBF16}, Layout{2, 65, 256, 0, kBF16, kF32, kF32},
        Layout{2, 33, 40, 8, kF32, kBF16, kBF16}, Layout{1, 7, 63, 0, kF32, kF32, kF32},
        Layout{3, 5, 65, 3, kBF16, kBF16, kF32}, Layout{1, 512, 1024, 1024, kBF16, kBF16, kBF16},
        Layout{1, 3, 24, 0, kF16, kF16, kF16}}) {
    add.test("elementwise/" + name_of(l), [l](Context& c) { all_functions(c, l); });
  }
  add.test("elementwise/euler_in_place", euler_in_place);
  add.test("elementwise/add_scaled/nothing", add_nothing);
  add.golden_test("elementwise/activations/golden", activations_golden);
  for (const Element type : {kF32, kBF16}) {
    const std::string name = std::string("elementwise/rgb/") + testing::name_of(type);
    add.test(name + "/64x768", [type](Context& c) { rgb(c, 64, 768, type); });
    add.test(name + "/3x257", [type](Context& c) { rgb(c, 3, 257, type); });
  }
  add.test("elementwise/take_row", [](Context& c) { choose(c, 1, 28, 18432); });
  add.test("elementwise/gather_rows", [](Context& c) { choose(c, 4, 77, 768); });
  add.test("elementwise/gather_rows/unaligned", [](Context& c) { choose(c, 4, 5, 13); });
  add.test("elementwise/counters", counters);
  add.test("elementwise/embedding/bf16", [](Context& c) { embeddings(c, kBF16, false); });
  add.test("elementwise/embedding/positions", [](Context& c) { embeddings(c, kF32, true); });
  add.test("elementwise/timestep_embedding", timesteps);
  add.golden_test("elementwise/timestep_embedding/golden", timesteps_golden);
  add.test("elementwise/rope_table", rope);
  add.test("elementwise/rope_pairs/1", [](Context& c) { rope_in_pairs(c, 1); });
  add.test("elementwise/rope_pairs/4331", [](Context& c) { rope_in_pairs(c, 4331); });
  add.test("elementwise/t5_bias/1", [](Context& c) { bias_of_t5(c, 1); });
  add.test("elementwise/t5_bias/300", [](Context& c) { bias_of_t5(c, 300); });
  add.golden_test("elementwise/t5_bias/golden", t5_golden);
  add.test("elementwise/latents/128x128", [](Context& c) { patches(c, 1, 128, 128, 16, kF32, kBF16); });
  add.test("elementwise/latents/2x6x10", [](Context& c) { patches(c, 2, 6, 10, 5, kBF16, kF32); });
  add.test("elementwise/sample_latents", samples);
  add.test("elementwise/refusals", refusals);
};

void bench_multiply(Context& c) {
  constexpr int64_t kElements = int64_t(512) * 10240;  // T5's gated MLP
  const int sets = c.rotation(double(kElements) * 6);
  std::vector<DeviceBytes> a, b, y;
  for (int s = 0; s < sets; ++s) {
    for (auto* list : {&a, &b, &y}) {
      list->emplace_back(kElements * 2);
      fill_normal(list->back().data(), kElements, kBF16, uint64_t(s), 2.0f);
    }
  }
  const auto launch = [&](int set) {
    const auto view = [&](std::vector<DeviceBytes>& list) {
      return ConstView{list[size_t(set)].data(), kBF16, 0, 10240};
    };
    return multiply(view(a), view(b), {y[size_t(set)].data(), kBF16, 0, 10240}, {1, 512, 10240},
                    Activation::kGelu, c.stream());
  };
  c.measure({double(kElements) * 6}, sets, launch);

  c.expect(launch(0).ok(), "the launch that is checked");
  must(cudaDeviceSynchronize(), "the launch that is checked");
  const auto download = [&](const std::vector<DeviceBytes>& list) {
    std::vector<uint8_t> bytes(size_t(kElements) * 2);
    must(cudaMemcpy(bytes.data(), list[0].data(), bytes.size(), cudaMemcpyDeviceToHost), "download");
    Matrix m(512, 10240);
    m.values = decode(bytes.data(), kElements, kBF16);
    return m;
  };
  const Matrix left = download(a), right = download(b), got = download(y);
  Matrix want(512, 10240);
  for (size_t i = 0; i < want.values.size(); ++i) {
    want.values[i] = float(reference::activate(Activation::kGelu, left.values[i]) * right.values[i]);
  }
  c.expect_within("y", got, want, kAfterBf16);
}

const Cases kBenches = [](Register& add) {
  add.bench("elementwise/multiply/gelu/512x10240", bench_multiply);
};

}  // namespace
}  // namespace flux::testing
