#include "harness/compare.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace flux::testing {
namespace {

constexpr int64_t kTile = 128;

struct Sums {
  double error = 0;
  double want = 0;
  int64_t count = 0;
};

Sums tile_sums(const Matrix& got, const Matrix& want, int64_t row, int64_t col, Difference& total) {
  Sums sums;
  for (int64_t r = row; r < std::min(row + kTile, want.rows); ++r) {
    for (int64_t c = col; c < std::min(col + kTile, want.cols); ++c) {
      const double g = got.at(r, c), w = want.at(r, c);
      ++sums.count;
      if (!std::isfinite(g) || !std::isfinite(w)) {
        const bool alike = (std::isnan(g) && std::isnan(w)) || g == w;
        if (!alike) ++total.not_finite;
        continue;
      }
      const double error = std::fabs(g - w);
      sums.error += error * error;
      sums.want += w * w;
      if (error > total.max_abs) {
        total.max_abs = error;
        total.worst_row = r;
        total.worst_col = c;
      }
    }
  }
  return sums;
}

double ratio(double error, double want) {
  if (error == 0) return 0;
  return want == 0 ? INFINITY : std::sqrt(error / want);
}

}  // namespace

Difference difference(const Matrix& got, const Matrix& want) {
  if (got.rows != want.rows || got.cols != want.cols)
    throw std::runtime_error("compared matrices differ in shape");
  Difference total;
  std::vector<Sums> tiles;
  Sums all;
  for (int64_t row = 0; row < want.rows; row += kTile) {
    for (int64_t col = 0; col < want.cols; col += kTile) {
      tiles.push_back(tile_sums(got, want, row, col, total));
      all.error += tiles.back().error;
      all.want += tiles.back().want;
      all.count += tiles.back().count;
    }
  }
  total.relative_l2 = ratio(all.error, all.want);
  for (const Sums& tile : tiles) {
    const double even_share = all.want * double(tile.count) / double(all.count);
    total.worst_tile = std::max(total.worst_tile, ratio(tile.error, std::max(tile.want, 0.01 * even_share)));
  }
  return total;
}

std::string exceeds(const Difference& d, const Tolerance& t) {
  const auto sentence = [&](const char* what, double is, double may) {
    char text[200];
    std::snprintf(text, sizeof text, "%s %.3e exceeds %.3e (largest error %.3e at row %lld, column %lld)",
                  what, is, may, d.max_abs, (long long)d.worst_row, (long long)d.worst_col);
    return std::string(text);
  };
  if (d.not_finite > 0)
    return std::to_string(d.not_finite) + " elements are not finite where the other side is";
  if (t.relative_l2 >= 0 && !(d.relative_l2 <= t.relative_l2)) {
    return sentence("relative L2", d.relative_l2, t.relative_l2);
  }
  if (t.max_abs >= 0 && !(d.max_abs <= t.max_abs)) return sentence("largest error", d.max_abs, t.max_abs);
  if (t.worst_tile >= 0 && !(d.worst_tile <= t.worst_tile))
    return sentence("worst tile", d.worst_tile, t.worst_tile);
  return {};
}

}  // namespace flux::testing
