// LayerNorm with modulation, LayerNorm with weight and bias, RMSNorm.
#include <algorithm>

#include "harness/case.h"
#include "kernels.h"
#include "reference/norms.h"

namespace flux::testing {
namespace {

using namespace kernels;

// A code can move by a step where f32 and double round y to different sides; the published tolerance.
constexpr double kMovedCodes = 0.002;

struct Layout {
  int batch, rows, width;
  int skip = 0;    // rows of each batch before the view: the text part of a joint buffer
  int gap = 0;     // elements between rows
  int split = -1;  // the row with which a second group begins, with a modulation of its own; -1: one group
  Element parameters = Element::kBF16;
  Element output = Element::kBF16;
};

std::string name_of(const Layout& l) {
  std::string name = std::to_string(l.batch) + "x" + std::to_string(l.rows) + "x" + std::to_string(l.width);
  if (l.skip) name += "/skip" + std::to_string(l.skip);
  if (l.gap) name += "/gap" + std::to_string(l.gap);
  if (l.split >= 0) name += "/split" + std::to_string(l.split);
  return name + "/" + testing::name_of(l.parameters) + "-to-" + testing::name_of(l.output);
}

using Make = Matrix (*)(int64_t rows, int64_t cols);
Matrix random(int64_t rows, int64_t cols) { return heavy_tailed(rows, cols, 11); }
Matrix far_from_zero(int64_t rows, int64_t cols) { return normal(rows, cols, 12, 0.25f, 60.0f); }
Matrix hot(int64_t rows, int64_t cols) { return one_hot(rows, cols, rows - 1, cols - 1, 3.0f); }

// x in a buffer of skip + rows rows a batch; the view's rows are those after skip.
struct Source {
  Matrix view;
  Input buffer;
  const void* first;
  int64_t row_stride, batch_stride;

  Source(const Layout& l, Make make)
      : Source(l, rounded_to(make(int64_t(l.batch) * (l.skip + l.rows), l.width), Element::kBF16)) {}

 private:
  Source(const Layout& l, const Matrix& all)
      : view(int64_t(l.batch) * l.rows, l.width),
        buffer(all, Element::kBF16, l.width + l.gap),
        first(buffer.data<uint16_t>() + int64_t(l.skip) * (l.width + l.gap)),
        row_stride(l.width + l.gap),
        batch_stride((l.skip + l.rows) * row_stride) {
    for (int64_t r = 0; r < view.rows; ++r) {
      const int64_t from = r / l.rows * (l.skip + l.rows) + l.skip + r % l.rows;
      for (int64_t c = 0; c < view.cols; ++c) view.at(r, c) = all.at(from, c);
    }
  }
};

// `rows` as one group, or as two of which the second begins at row `split` of each batch.
Status launch_groups(const NormRows& rows, int split, const Modulation& first, const Modulation& second,
                     Element parameters, cudaStream_t stream) {
  ModulatedRows groups[2] = {{rows, first}, {rows, second}};
  if (split < 0) return layer_norm_modulate(groups, 1, parameters, stream);
  NormRows& rest = groups[1].rows;
  groups[0].rows.rows = split;
  rest.rows -= split;
  rest.x = static_cast<const uint8_t*>(rows.x) + split * rows.x_row_stride * 2;
  rest.y = static_cast<uint8_t*>(rows.y) + split * rows.y_row_stride * size_of(rows.y_type);
  if (rows.y_scale != nullptr) rest.y_scale += rows.batch * split;
  return layer_norm_modulate(groups, 2, parameters, stream);
}

Status launch_one(const NormRows& rows, const Modulation& modulation, Element parameters,
                  cudaStream_t stream) {
  return launch_groups(rows, -1, modulation, {}, parameters, stream);
}

// Scales come group by group: where that of row r of batch b lies.
int scale_of(const Layout& l, int b, int r) {
  if (l.split < 0) return b * l.rows + r;
  return r < l.split ? b * l.split + r : l.batch * l.split + b * (l.rows - l.split) + r - l.split;
}

// Runs the launch that `launch` makes of the rows and holds it against `want`.
void check_rows(Context& c, const Layout& l, const Source& x, const Matrix& want,
                const std::function<Status(const NormRows&)>& launch) {
  const int64_t total = int64_t(l.batch) * l.rows;
  Output y(total, l.width, l.output, l.width + l.gap), scale(total, 1, Element::kF32);
  NormRows rows;
  rows.x = x.first;
  rows.x_row_stride = x.row_stride;
  rows.x_batch_stride = x.batch_stride;
  rows.y = y.data();
  rows.y_row_stride = l.width + l.gap;
  rows.y_batch_stride = l.rows * rows.y_row_stride;
  rows.y_type = l.output;
  rows.y_scale = scale.data<float>();
  rows.batch = l.batch;
  rows.rows = l.rows;
  rows.width = l.width;
  if (l.output == Element::kBF16) {
    if (c.run({&y}, [&] { return launch(rows); })) c.expect_within("y", y.values(), want, kAfterBf16);
    return;
  }
  if (!c.run({&y, &scale}, [&] { return launch(rows); })) return;
  const reference::Codes codes = reference::quantise(want);
  Matrix scales(total, 1);
  for (int64_t r = 0; r < total; ++r)
    scales.at(scale_of(l, int(r / l.rows), int(r % l.rows)), 0) = codes.scale.at(r, 0);
  c.expect_within("scale", scale.values(), scales, {2e-6, -1, -1});
  c.expect_codes("codes", y.bytes(), codes.codes, kMovedCodes);
}

void modulated(Context& c, const Layout& l, Make make) {
  const Source x(l, make);
  // shift and scale of both parts side by side, as a block's modulation is
  const Matrix table = rounded_to(normal(l.batch, 4 * l.width, 13, 0.5f), l.parameters);
  const Input parameters(table, l.parameters);
  const int split = l.split < 0 ? l.rows : l.split;
  Matrix multiplier(2 * l.batch, l.width), addend(2 * l.batch, l.width);
  for (int b = 0; b < l.batch; ++b) {
    for (int64_t i = 0; i < l.width; ++i) {
      addend.at(2 * b, i) = table.at(b, i), multiplier.at(2 * b, i) = 1.0f + table.at(b, l.width + i);
      addend.at(2 * b + 1, i) = table.at(b, 2 * l.width + i),
                           multiplier.at(2 * b + 1, i) = 1.0f + table.at(b, 3 * l.width + i);
    }
  }
  std::vector<int> of_row;
  for (int r = 0; r < l.batch * l.rows; ++r) of_row.push_back(r / l.rows * 2 + (r % l.rows >= split));
  const Matrix want = reference::affine(reference::layer_norm(x.view, 1e-6), multiplier, addend, of_row);
  const auto part = [&](int index) {
    const auto* base = parameters.data<uint8_t>() + int64_t(index) * 2 * l.width * size_of(l.parameters);
    return Modulation{base, base + int64_t(l.width) * size_of(l.parameters), 4 * l.width};
  };
  check_rows(c, l, x, want, [&](const NormRows& rows) {
    return launch_groups(rows, l.split, part(0), part(1), l.parameters, c.stream());
  });
}

void weighed(Context& c, const Layout& l, Make make, bool root_mean_square) {
  const Source x(l, make);
  const Matrix weight = rounded_to(normal(1, l.width, 14, 0.5f, 1.0f), l.parameters);
  const Matrix bias = rounded_to(normal(1, l.width, 15, 0.5f), l.parameters);
  const Input weights(weight, l.parameters), biases(bias, l.parameters);
  const std::vector<int> of_row(size_t(l.batch) * l.rows, 0);
  if (root_mean_square) {
    const Matrix want =
        reference::affine(reference::rms_norm(x.view, 1e-6), weight, Matrix(1, l.width), of_row);
    check_rows(c, l, x, want, [&](const NormRows& rows) {
      return rms_norm(rows, weights.data(), l.parameters, c.stream());
    });
  } else {
    const Matrix want = reference::affine(reference::layer_norm(x.view, 1e-6), weight, bias, of_row);
    check_rows(c, l, x, want, [&](const NormRows& rows) {
      return layer_norm(rows, weights.data(), biases.data(), l.parameters, c.stream());
    });
  }
}

void plain(Context& c) {
  const Layout l{1, 37, 3072};
  const Source x(l, far_from_zero);
  check_rows(c, l, x, reference::layer_norm(x.view, 1e-6),
             [&](const NormRows& rows) { return launch_one(rows, {}, Element::kF32, c.stream()); });
}

// Results so small that 1 / scale would overflow: the modulation leaves nothing but a shift of 1e-30.
void tiny(Context& c) {
  const Layout l{1, 33, 3072, 0, 0, -1, Element::kF32, Element::kE4M3};
  const Source x(l, random);
  const Matrix shift = normal(1, l.width, 17, 1e-30f);
  Matrix minus_one(1, l.width);
  for (float& value : minus_one.values) value = -1.0f;
  const Input shifts(shift, Element::kF32), scales(minus_one, Element::kF32);
  const Matrix want = reference::affine(reference::layer_norm(x.view, 1e-6), Matrix(1, l.width), shift,
                                        std::vector<int>(size_t(l.rows), 0));
  check_rows(c, l, x, want, [&](const NormRows& rows) {
    return launch_one(rows, {shifts.data(), scales.data(), 0}, Element::kF32, c.stream());
  });
}

void in_place(Context& c) {
  const Matrix x = rounded_to(random(130, 3072), Element::kBF16);
  Output y(130, 3072, Element::kBF16);
  y.starts_as(x);
  NormRows rows;
  rows.x = rows.y = y.data();
  rows.x_row_stride = rows.y_row_stride = rows.width = 3072;
  rows.rows = 130;
  if (c.run({&y}, [&] { return launch_one(rows, {}, Element::kF32, c.stream()); })) {
    c.expect_within("y", y.values(), reference::layer_norm(x, 1e-6), kAfterBf16);
  }
}

void refusals(Context& c) {
  const DeviceBytes memory(1 << 16);
  NormRows rows;
  rows.x = rows.y = memory.data();
  rows.x_row_stride = rows.y_row_stride = rows.width = 64;
  rows.rows = 4;
  const auto expect_refused = [&](const char* what, NormRows changed) {
    c.expect_refused(what, launch_one(changed, {}, Element::kF32, c.stream()), Status::Code::kBadArgument);
  };
  NormRows changed = rows;
  changed.width = 63;
  expect_refused("a width of 63", changed);
  changed = rows;
  changed.width = 16392;
  expect_refused("a width beyond 16384", changed);
  changed = rows;
  changed.x_row_stride = 68;
  expect_refused("a row stride of 136 bytes", changed);
  changed = rows;
  changed.x = memory.data() + 2;
  expect_refused("a pointer off by one element", changed);
  changed = rows;
  changed.y_type = Element::kE4M3;
  expect_refused("codes without a scale", changed);
  changed = rows;
  changed.rows = -1;
  expect_refused("negative rows", changed);
  const auto half = launch_one(rows, {memory.data(), nullptr, 0}, Element::kF32, c.stream());
  c.expect_refused("shift without scale", half, Status::Code::kBadArgument);
  ModulatedRows groups[3] = {{rows, {}}, {rows, {}}, {rows, {}}};
  c.expect_refused("three groups", layer_norm_modulate(groups, 3, Element::kF32, c.stream()),
                   Status::Code::kBadArgument);
  groups[1].rows.width = 32;
  c.expect_refused("groups of two widths", layer_norm_modulate(groups, 2, Element::kF32, c.stream()),
                   Status::Code::kBadArgument);
  c.expect_refused("rms_norm without weight", rms_norm(rows, nullptr, Element::kF32, c.stream()),
                   Status::Code::kBadArgument);
  rows.rows = 0;
  c.expect(launch_one(rows, {}, Element::kF32, c.stream()).ok(), "no rows are no error");
}

void golden(Context& c) {
  const Golden file = c.golden();
  const auto compare = [&](const char* label, const Matrix& x, const Matrix& want,
                           const std::function<Status(const NormRows&)>& launch) {
    const Input input(x, Element::kBF16);
    Output y(x.rows, x.cols, Element::kBF16);
    NormRows rows;
    rows.x = input.data();
    rows.y = y.data();
    rows.x_row_stride = rows.y_row_stride = x.cols;
    rows.width = int(x.cols);
    rows.rows = int(x.rows);
    if (c.run({&y}, [&] { return launch(rows); })) c.expect_within(label, y.values(), want, {3e-3, -1, -1});
  };
  const Input weight(file.matrix("rmsnorm.weight"), Element::kBF16);
  compare("rmsnorm", file.matrix("rmsnorm.x"), file.matrix("rmsnorm.y"),
          [&](const NormRows& rows) { return rms_norm(rows, weight.data(), Element::kBF16, c.stream()); });
  const Input shift(file.matrix("ln_mod.shift"), Element::kBF16),
      scale(file.matrix("ln_mod.scale"), Element::kBF16);
  compare("ln_mod", file.matrix("ln_mod.x"), file.matrix("ln_mod.y"), [&](NormRows rows) {
    rows.batch = 2;  // [2, 45, 256]
    rows.rows /= 2;
    rows.x_batch_stride = rows.y_batch_stride = int64_t(rows.rows) * rows.width;
    return launch_one(rows, {shift.data(), scale.data(), rows.width}, Element::kBF16, c.stream());
  });
}

const Cases kTests = [](Register& add) {
  constexpr Element kBF16 = Element::kBF16, kF32 = Element::kF32, kE4M3 = Element::kE4M3;
  for (const Layout& l : {
           Layout{1, 1, 3072},
           Layout{2, 63, 3072, 0, 0, -1, kF32},
           Layout{1, 65, 3072, 0, 0, -1, kBF16, kE4M3},
           Layout{2, 64, 3072, 7, 64, 20, kF32, kE4M3},
           Layout{2, 129, 3072, 33, 8, 129, kBF16},
           Layout{1, 4609, 3072, 0, 0, 512, kBF16, kE4M3},
           Layout{2, 45, 256, 3, 0, 5},
           Layout{1, 5, 8, 0, 8, -1, kF32, kE4M3},
           Layout{3, 31, 1024, 0, 0, 9, kF32, kE4M3},
           Layout{1, 33, 1032},
           Layout{1, 9, 4096, 0, 0, 4, kF32, kE4M3},
           Layout{2, 3, 4104, 1, 16},
           Layout{1, 7, 16384, 0, 0, -1, kF32, kE4M3},
       }) {
    add.test("norm/layer_norm_modulate/" + name_of(l), [l](Context& c) { modulated(c, l, random); });
  }
  const Layout ramps{2, 70, 3072, 5, 0, 31};
  add.test("norm/layer_norm_modulate/ramp", [ramps](Context& c) { modulated(c, ramps, index_ramp); });
  add.test("norm/layer_norm_modulate/constant_rows",
           [ramps](Context& c) { modulated(c, ramps, constant_per_row); });
  add.test("norm/layer_norm_modulate/one_hot", [ramps](Context& c) { modulated(c, ramps, hot); });
  add.test("norm/layer_norm_modulate/far_from_zero",
           [ramps](Context& c) { modulated(c, ramps, far_from_zero); });
  add.test("norm/layer_norm_modulate/none", plain);
  add.test("norm/layer_norm_modulate/tiny", tiny);
  add.test("norm/layer_norm_modulate/in_place", in_place);
  add.test("norm/refusals", refusals);
  add.golden_test("norm/golden", golden);

  for (const Layout& l : {Layout{1, 77, 768}, Layout{2, 5, 32, 0, 0, -1, kF32},
                          Layout{1, 9, 1280, 0, 0, -1, kF32, kE4M3}, Layout{1, 3, 5120, 2, 0}}) {
    add.test("norm/layer_norm/" + name_of(l), [l](Context& c) { weighed(c, l, random, false); });
  }
  for (const Layout& l : {Layout{1, 512, 4096}, Layout{2, 1025, 128, 3, 0, -1, kF32}, Layout{1, 1, 128},
                          Layout{1, 77, 128, 0, 0, -1, kF32, kE4M3}, Layout{2, 5, 64, 0, 64, -1, kF32},
                          Layout{1, 31, 4096, 0, 0, -1, kF32, kE4M3}, Layout{1, 3, 10240}}) {
    add.test("norm/rms_norm/" + name_of(l), [l](Context& c) { weighed(c, l, random, true); });
  }
  add.test("norm/rms_norm/ramp", [](Context& c) { weighed(c, {1, 130, 128}, index_ramp, true); });
};

// One set of operands a rotation; of the result of set 0 the first and last rows are checked, which says enough of what tests have
// checked in full. A second modulation holds the same values as the first.
void bench_rows(Context& c, const Layout& l, bool root_mean_square) {
  const int64_t elements = int64_t(l.rows) * l.width;
  const double bytes = double(elements) * (2 + size_of(l.output));
  const int sets = c.rotation(bytes);
  std::vector<DeviceBytes> in, out;
  for (int s = 0; s < sets; ++s) {
    in.emplace_back(elements * 2);
    out.emplace_back(elements * size_of(l.output));
    fill_normal(in.back().data(), elements, Element::kBF16, uint64_t(s), 2.0f);
  }
  const Matrix table = rounded_to(normal(1, 2 * l.width, 16, 0.5f), l.parameters);
  const Input parameters(table, l.parameters);
  DeviceBytes scales(int64_t(l.rows) * 4);
  const auto rows_of = [&](int set) {
    NormRows rows;
    rows.x = in[size_t(set)].data();
    rows.y = out[size_t(set)].data();
    rows.x_row_stride = rows.y_row_stride = rows.width = l.width;
    rows.y_type = l.output;
    rows.y_scale = reinterpret_cast<float*>(scales.data());
    rows.rows = l.rows;
    return rows;
  };
  const auto* scale_vector = parameters.data<uint8_t>() + int64_t(l.width) * size_of(l.parameters);
  const auto launch = [&](int set) {
    if (root_mean_square) return rms_norm(rows_of(set), parameters.data(), l.parameters, c.stream());
    const Modulation modulation{parameters.data(), scale_vector, 0};
    return launch_groups(rows_of(set), l.split, modulation, modulation, l.parameters, c.stream());
  };
  c.measure({bytes + (l.output == Element::kE4M3 ? 4.0 * l.rows : 0.0)}, sets, launch);

  c.expect(launch(0).ok(), "the launch that is checked");
  must(cudaDeviceSynchronize(), "the launch that is checked");
  Matrix multiplier(1, l.width), addend(1, l.width);
  for (int64_t i = 0; i < l.width; ++i) {
    multiplier.at(0, i) = root_mean_square ? table.at(0, i) : 1.0f + table.at(0, l.width + i);
    addend.at(0, i) = root_mean_square ? 0.0f : table.at(0, i);
  }
  const int checked = std::min(l.rows, 128);
  const int64_t values = int64_t(checked) * l.width;
  const auto download = [&](const DeviceBytes& from, int64_t first, int size) {
    std::vector<uint8_t> bytes(size_t(values) * size);
    must(cudaMemcpy(bytes.data(), from.data() + first * l.width * size, bytes.size(), cudaMemcpyDeviceToHost),
         "download");
    return bytes;
  };
  for (const int64_t first : {int64_t(0), int64_t(l.rows) - checked}) {
    Matrix x(checked, l.width), got(checked, l.width);
    x.values = decode(download(in[0], first, 2).data(), values, Element::kBF16);
    const std::vector<uint8_t> result = download(out[0], first, size_of(l.output));
    const Matrix normed = root_mean_square ? reference::rms_norm(x, 1e-6) : reference::layer_norm(x, 1e-6);
    const Matrix want = reference::affine(normed, multiplier, addend, std::vector<int>(size_t(checked), 0));
    if (l.output == Element::kE4M3) {
      c.expect_codes("codes", result, reference::quantise(want).codes, kMovedCodes);
    } else {
      got.values = decode(result.data(), values, Element::kBF16);
      c.expect_within("y", got, want, kAfterBf16);
    }
  }
}

const Cases kBenches = [](Register& add) {
  constexpr Element kBF16 = Element::kBF16, kF32 = Element::kF32, kE4M3 = Element::kE4M3;
  for (const Layout& l :
       {Layout{1, 4608, 3072, 0, 0, -1, kBF16, kE4M3}, Layout{1, 4608, 3072, 0, 0, -1, kF32, kE4M3},
        Layout{1, 4608, 3072, 0, 0, 512, kF32, kE4M3}, Layout{1, 4608, 3072, 0, 0, -1, kF32, kBF16},
        Layout{1, 8704, 3072, 0, 0, -1, kF32, kE4M3}, Layout{1, 512, 3072, 0, 0, -1, kF32, kE4M3}}) {
    add.bench("norm/layer_norm_modulate/" + name_of(l), [l](Context& c) { bench_rows(c, l, false); });
  }
  for (const Layout& l : {Layout{1, 512, 4096}, Layout{1, 110592, 128}}) {
    add.bench("norm/rms_norm/" + name_of(l), [l](Context& c) { bench_rows(c, l, true); });
  }
};

}  // namespace
}  // namespace flux::testing
