#include "runtime/stage.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/simd/kernels.h"
#include "runtime/error.h"
#include "runtime/widen.h"

namespace flux {
namespace {

// Bytes that a thread copies and checks at once: they stay in its cache.
constexpr int64_t kCopied = 512 << 10;

// A 3 × 3 kernel as the four 2 × 2 kernels of WeightLayout::kUpsamplePhases; element (phase, tap) goes to
// out[(4·phase + tap)·step].
void sum_phases(const float* kernel, float* out, int64_t step) {
  // Of phase and tap along one axis: the first kernel row and one past the last.
  constexpr int kRows[2][2][2] = {{{0, 1}, {1, 3}}, {{0, 2}, {2, 3}}};
  for (int phase = 0; phase < 4; ++phase) {
    for (int tap = 0; tap < 4; ++tap) {
      const auto& rows = kRows[phase / 2][tap / 2];
      const auto& columns = kRows[phase % 2][tap % 2];
      float sum = 0.0f;
      for (int y = rows[0]; y < rows[1]; ++y) {
        for (int x = columns[0]; x < columns[1]; ++x) sum += kernel[3 * y + x];
      }
      out[(4 * phase + tap) * step] = sum;
    }
  }
}

}  // namespace

// Of one chunk: a row's values as stored, widened, and reordered.
struct StagedRows::Scratch {
  std::vector<std::byte> bytes;
  std::vector<float> stored, values;
};

StagedRows::StagedRows(const LoadRequest& request)
    : request_(request),
      width_(request.shape[0] == 0 ? 0 : request.elements() / request.shape[0]),
      kept_width_(request.shape[0] == 0 ? 0 : request.kept_elements() / request.shape[0]) {
  if (request.file != nullptr) {
    data_ =
        request.file->bytes(request.begin, static_cast<uint64_t>(request.elements()) * size_of(request.from));
  } else if (request.from != DType::kBF16) {
    throw FluxError(code::kBadArgument, "random weights are bf16");
  }
  if (request.factors != nullptr) {
    factors_ = request.factors->bytes(request.factors_begin,
                                      static_cast<uint64_t>(request.shape[0]) * sizeof(float));
  }
}

bool StagedRows::kept_as_stored() const {
  const bool scaled = factors_ != nullptr || request_.factor != 1.0f;
  return request_.from == request_.to && request_.layout == WeightLayout::kAsStored &&
         (!scaled || request_.to == DType::kF8E4M3);
}

bool StagedRows::only_quantised() const {
  const bool scaled = factors_ != nullptr || request_.factor != 1.0f;
  return request_.to == DType::kF8E4M3 && request_.from != DType::kF8E4M3 &&
         request_.layout == WeightLayout::kAsStored && !scaled;
}

uint64_t StagedRows::convert(int64_t first, int64_t count, std::byte* out, float* scales,
                             ThreadPool& pool) const {
  if (kept_as_stored()) {
    uint64_t bad = copy(first, count, out, pool);
    for (int64_t row = 0; scales != nullptr && row < count; ++row) {
      scales[row] = factor_of(first + row);
      if (!std::isfinite(scales[row])) bad += static_cast<uint64_t>(width_);
    }
    return bad;
  }
  std::atomic<uint64_t> bad{0};
  pool.parallel_for(count, grain(), [&](int64_t begin, int64_t end) {
    Scratch scratch;
    scratch.bytes.resize(stored_row_bytes());
    scratch.stored.resize(static_cast<size_t>(width_));
    scratch.values.resize(static_cast<size_t>(kept_width_));
    uint64_t found = 0;
    for (int64_t row = begin; row < end; ++row) {
      found += read_row(first + row, scratch);
      store_row(scratch.values.data(), out + row * static_cast<int64_t>(row_bytes()),
                scales == nullptr ? nullptr : scales + row);
    }
    bad += found;
  });
  return bad;
}

uint64_t StagedRows::copy(int64_t first, int64_t count, std::byte* out, ThreadPool& pool) const {
  std::atomic<uint64_t> bad{0};
  const int64_t rows_at_once = std::max<int64_t>(1, kCopied / static_cast<int64_t>(stored_row_bytes()));
  pool.parallel_for(count, rows_at_once, [&](int64_t begin, int64_t end) {
    std::byte* target = out + begin * static_cast<int64_t>(stored_row_bytes());
    if (request_.file == nullptr) {
      stored(first + begin, end - begin, target);
    } else {
      request_.file->copy(request_.begin + static_cast<uint64_t>(first + begin) * stored_row_bytes(),
                          static_cast<uint64_t>(end - begin) * stored_row_bytes(), target);
    }
    // What is checked is the copy: it is in the cache, and the file may change meanwhile.
    bad += count_not_finite(target, (end - begin) * width_, request_.from);
  });
  return bad;
}

// The bytes of these rows: in the file, or drawn into `space`.
const std::byte* StagedRows::stored(int64_t first, int64_t count, std::byte* space) const {
  if (data_ != nullptr) return data_ + first * static_cast<int64_t>(stored_row_bytes());
  request_.random.draw(static_cast<uint64_t>(first * width_), count * width_,
                       reinterpret_cast<uint16_t*>(space));
  return space;
}

uint64_t StagedRows::read_row(int64_t row, Scratch& scratch) const {
  const std::byte* data = stored(row, 1, scratch.bytes.data());
  const bool reordered = request_.layout != WeightLayout::kAsStored;
  float* values = reordered ? scratch.stored.data() : scratch.values.data();
  widen(data, width_, request_.from, values);
  const float factor = factor_of(row);
  uint64_t bad = 0;
  for (int64_t i = 0; i < width_; ++i) {
    values[i] *= factor;
    bad += std::isfinite(values[i]) ? 0 : 1;
  }
  const int64_t channels = request_.shape[1];
  const int64_t taps = request_.shape[2] * request_.shape[3];
  if (request_.layout == WeightLayout::kChannelsLast) {  // stored [Ci, taps]
    for (int64_t channel = 0; channel < channels; ++channel) {
      for (int64_t tap = 0; tap < taps; ++tap)
        scratch.values[tap * channels + channel] = values[channel * taps + tap];
    }
  } else if (request_.layout == WeightLayout::kUpsamplePhases) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      sum_phases(values + channel * taps, scratch.values.data() + channel, channels);
    }
  }
  return bad;
}

float StagedRows::factor_of(int64_t row) const {
  if (factors_ == nullptr) return request_.factor;
  float factor;
  std::memcpy(&factor, factors_ + row * static_cast<int64_t>(sizeof(float)), sizeof(factor));
  return factor;
}

// Rows to a chunk: a quarter of a megabyte and more.
int64_t StagedRows::grain() const { return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, width_)); }

void StagedRows::store_row(const float* values, std::byte* out, float* scale) const {
  switch (request_.to) {
    case DType::kF32:
      std::memcpy(out, values, static_cast<size_t>(kept_width_) * sizeof(float));
      return;
    case DType::kBF16: {
      auto* bits = reinterpret_cast<uint16_t*>(out);
      for (int64_t i = 0; i < kept_width_; ++i) bits[i] = f32_to_bf16(values[i]);
      return;
    }
    case DType::kF8E4M3: {
      *scale = cpu::simd().quantise_row(values, kept_width_, reinterpret_cast<uint8_t*>(out));
      return;
    }
    default:
      throw FluxError(code::kUnsupported, "weights cannot be kept as " + std::string(name_of(request_.to)));
  }
}

}  // namespace flux
