// What a cache decides with: the relative difference of residuals, and the decision.
#include <cmath>
#include <limits>

#include "harness/case.h"
#include "kernels.h"

namespace flux::testing {
namespace {

using namespace kernels;

constexpr Element kBF16 = Element::kBF16, kF32 = Element::kF32, kI32 = Element::kI32;

// Views of [batch, rows, width]; x and base have gap elements between rows, previous has none.
struct Layout {
  int batch, rows, width, gap;
  Element type;
};

std::string name_of(const Layout& l) {
  return std::to_string(l.batch) + "x" + std::to_string(l.rows) + "x" + std::to_string(l.width) +
         (l.gap ? "/gap" + std::to_string(l.gap) : "") + "/" + testing::name_of(l.type);
}

double quotient(const Matrix& x, const Matrix& base, const Matrix& previous) {
  double change = 0, size = 0;
  for (size_t i = 0; i < x.values.size(); ++i) {
    change += std::abs(double(x.values[i]) - base.values[i] - previous.values[i]);
    size += std::abs(double(previous.values[i]));
  }
  return change / size;
}

void differences(Context& c, const Layout& l) {
  const int64_t rows = int64_t(l.batch) * l.rows, stride = l.width + l.gap;
  const Matrix x = rounded_to(normal(rows, l.width, 71, 2.0f), l.type),
               base = rounded_to(normal(rows, l.width, 72, 2.0f), l.type),
               previous = rounded_to(normal(rows, l.width, 73), l.type);
  const Input x_in(x, l.type, stride), base_in(base, l.type, stride), previous_in(previous, l.type);
  RelativeDifference d;
  d.x = {x_in.data(), l.type, l.rows * stride, stride};
  d.base = {base_in.data(), l.type, l.rows * stride, stride};
  d.previous = {previous_in.data(), l.type, int64_t(l.rows) * l.width, l.width};
  d.extent = {l.batch, l.rows, l.width};
  const DeviceBytes workspace(relative_difference_workspace_bytes(d.extent));
  Output y(1, 1, kF32);
  d.y = y.data<float>();
  d.workspace = workspace.data();
  if (!c.run({&y}, [&] { return relative_difference(d, c.stream()); })) return;
  const Matrix want(1, 1, float(quotient(x, base, previous)));
  c.expect_within("y", y.values(), want, {1e-5, -1, -1});
}

void refusals(Context& c) {
  const DeviceBytes memory(4096);
  const ConstView f32{memory.data(), kF32, 0, 8}, bf16{memory.data(), kBF16, 0, 8},
      f16{memory.data(), Element::kF16, 0, 8};
  auto* y = reinterpret_cast<float*>(memory.data());
  constexpr auto kBad = Status::Code::kBadArgument;
  c.expect_refused("unlike types", relative_difference({f32, bf16, f32, {1, 1, 8}, y, y}, c.stream()), kBad);
  c.expect_refused("f16", relative_difference({f16, f16, f16, {1, 1, 8}, y, y}, c.stream()), kBad);
  c.expect_refused("nothing", relative_difference({f32, f32, f32, {1, 0, 8}, y, y}, c.stream()), kBad);
}

// One step: what was before (steps, skips in a row, last computed step, its distance), the limits, the difference; what is
// expected. `steps` is the length of the record.
struct Step {
  int step, skipped, last, distance;
  float threshold;
  int warmup, most;
  float difference;
  bool computes;
  float factor;
};

Matrix row_of(std::initializer_list<float> values) {
  Matrix m(1, int64_t(values.size()));
  m.values = values;
  return m;
}

void decides(Context& c, const Step& s) {
  constexpr int kSteps = 8;
  const Input difference(row_of({s.difference}), kF32), threshold(row_of({s.threshold}), kF32),
      limits(row_of({float(s.warmup), float(s.most)}), kI32);
  Output state(1, 4, kI32), seen(1, kSteps, kF32), said(1, kSteps, kI32), compute(1, 1, kI32),
      skip(1, 1, kI32), factor(1, 1, kF32);
  state.starts_as(row_of({float(s.step), float(s.skipped), float(s.last), float(s.distance)}));
  seen.starts_as(Matrix(1, kSteps, -1.0f));
  said.starts_as(Matrix(1, kSteps, -1.0f));
  CacheDecision d;
  d.difference = difference.data<float>();
  d.threshold = threshold.data<float>();
  d.limits = limits.data<int32_t>();
  d.state = state.data<int32_t>();
  d.differences = seen.data<float>();
  d.decisions = said.data<int32_t>();
  d.steps = kSteps;
  d.compute = compute.data<int32_t>();
  d.skip = skip.data<int32_t>();
  d.factor = factor.data<float>();
  const bool ran =
      c.run({&state, &seen, &said, &compute, &skip, &factor}, [&] { return cache_decision(d, c.stream()); });
  if (!ran) return;
  Matrix wanted_seen(1, kSteps, -1.0f), wanted_said(1, kSteps, -1.0f);
  if (s.step < kSteps) {
    wanted_seen.at(0, s.step) = s.step == 0 ? 0.0f : s.difference;
    wanted_said.at(0, s.step) = s.computes;
  }
  const Matrix next = s.computes
                          ? row_of({s.step + 1.0f, 0, float(s.step), float(s.step - s.last)})
                          : row_of({s.step + 1.0f, s.skipped + 1.0f, float(s.last), float(s.distance)});
  c.expect_within("compute", compute.values(), Matrix(1, 1, s.computes), {-1, 0, -1});
  c.expect_within("skip", skip.values(), Matrix(1, 1, !s.computes), {-1, 0, -1});
  c.expect_within("factor", factor.values(), Matrix(1, 1, s.factor), {-1, 0, -1});
  c.expect_within("state", state.values(), next, {-1, 0, -1});
  c.expect_within("decisions", said.values(), wanted_said, {-1, 0, -1});
  if (!std::isnan(s.difference)) c.expect_within("differences", seen.values(), wanted_seen, {-1, 0, -1});
}

void decisions(Context& c) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  for (const Step& s : {
           Step{0, 0, 0, 0, 1.0f, 0, 9, 0.5f, true, 0.0f},  // the first step has nothing to compare with
           Step{0, 0, 0, 0, 1.0f, 0, 9, nan, true, 0.0f},   // whatever the memory held
           Step{1, 0, 0, 0, 1.0f, 0, 9, 0.5f, false,
                0.0f},  // only one step was computed: nothing to extrapolate
           Step{1, 0, 0, 0, 1.0f, 0, 9, 1.0f, true, 0.0f},   // not below
           Step{1, 0, 0, 0, 1.0f, 0, 9, nan, true, 0.0f},    // nor is a NaN
           Step{1, 0, 0, 0, 0.0f, 0, 9, 0.0f, true, 0.0f},   // 0 skips nothing
           Step{6, 2, 3, 2, 1.0f, 0, 9, 0.5f, false, 1.5f},  // three steps on, after two
           Step{3, 0, 2, 2, 1.0f, 4, 9, 0.5f, true, 0.0f},   // warming up
           Step{6, 2, 3, 2, 1.0f, 0, 2, 0.5f, true, 0.0f},   // two skips in a row are enough
           Step{7, 0, 6, 4, infinity, 0, 9, 1e30f, false, 0.25f},
           Step{8, 0, 7, 1, 1.0f, 0, 9, 0.5f, false, 1.0f},  // beyond the record nothing is written down
       }) {
    decides(c, s);
  }
}

const Cases kTests = [](Register& add) {
  for (const Layout& l :
       {Layout{1, 1, 8, 0, kBF16}, Layout{1, 1, 4096, 0, kF32}, Layout{1, 3, 4099, 0, kF32},
        Layout{2, 65, 256, 256, kBF16}, Layout{3, 5, 65, 3, kBF16}, Layout{2, 300, 3072, 0, kF32},
        Layout{2, 1024, 3072, 0, kBF16}, Layout{1, 1, 3072 * 2000, 0, kBF16}}) {
    add.test("cache/relative_difference/" + name_of(l), [l](Context& c) { differences(c, l); });
  }
  add.test("cache/relative_difference/refusals", refusals);
  add.test("cache/decision", decisions);
};

// The image of 1024² in FLUX.1's width: 4096 tokens of 3072.
void bench_difference(Context& c) {
  constexpr int64_t kTokens = 4096, kWidth = 3072, kBytes = kTokens * kWidth * 2;
  const Extent extent{1, int(kTokens), kWidth};
  const int sets = c.rotation(3.0 * kBytes);
  std::vector<DeviceBytes> operands;
  for (int i = 0; i < 3 * sets; ++i) {
    operands.emplace_back(kBytes);
    fill_normal(operands.back().data(), kTokens * kWidth, kBF16, uint64_t(i), i % 3 == 2 ? 1.0f : 2.0f);
  }
  const DeviceBytes workspace(relative_difference_workspace_bytes(extent)), y(4);
  const auto launch = [&](int set) {
    const auto view = [&](int i) {
      return ConstView{operands[size_t(3 * set + i)].data(), kBF16, 0, kWidth};
    };
    return relative_difference(
        {view(0), view(1), view(2), extent, reinterpret_cast<float*>(y.data()), workspace.data()},
        c.stream());
  };
  c.measure({3.0 * kBytes}, sets, launch);

  c.expect(launch(0).ok(), "the launch that is checked");
  must(cudaDeviceSynchronize(), "the launch that is checked");
  Matrix values[3];
  for (size_t i = 0; i < 3; ++i) {
    std::vector<uint8_t> bytes(static_cast<size_t>(kBytes));
    must(cudaMemcpy(bytes.data(), operands[i].data(), bytes.size(), cudaMemcpyDeviceToHost), "download");
    values[i] = Matrix(kTokens, kWidth);
    values[i].values = decode(bytes.data(), kTokens * kWidth, kBF16);
  }
  Matrix got(1, 1);
  must(cudaMemcpy(got.values.data(), y.data(), 4, cudaMemcpyDeviceToHost), "download");
  const Matrix want(1, 1, float(quotient(values[0], values[1], values[2])));
  c.expect_within("y", got, want, {1e-5, -1, -1});
}

const Cases kBenches = [](Register& add) {
  add.bench("cache/relative_difference/4096x3072", bench_difference);
};

}  // namespace
}  // namespace flux::testing
