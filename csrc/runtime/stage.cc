#include "runtime/stage.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "runtime/error.h"

namespace flux {
namespace {

// The file's elements may lie at any address, so they are read byte-wise.
template <typename Stored>
Stored stored_at(const std::byte* data, int64_t index) {
  Stored value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
  return value;
}

// Elements [0, count) as f32.
void widen(const std::byte* data, int64_t count, DType from, float* out) {
  switch (from) {
    case DType::kF32:
      std::memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(stored_at<uint16_t>(data, i));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = f16_to_f32(stored_at<uint16_t>(data, i));
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < count; ++i) out[i] = e4m3_to_f32(stored_at<uint8_t>(data, i));
      return;
    default:
      throw FluxError(code::kUnsupported,
                      "weights of dtype " + std::string(name_of(from)) + " cannot be loaded");
  }
}

}  // namespace

StagedRows::StagedRows(const LoadRequest& request)
    : request_(request),
      width_(request.shape[0] == 0 ? 0 : request.elements() / request.shape[0]),
      data_(request.file->bytes(request.begin,
                                static_cast<uint64_t>(request.elements()) * size_of(request.from))) {}

uint64_t StagedRows::convert(int64_t first, int64_t count, std::byte* out, float* scales,
                             ThreadPool& pool) const {
  std::atomic<uint64_t> bad{0};
  const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, width_));
  pool.parallel_for(count, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(width_));
    uint64_t found = 0;
    for (int64_t row = begin; row < end; ++row) {
      found += read_row(first + row, values.data());
      store_row(values.data(), out + row * static_cast<int64_t>(row_bytes()),
                scales == nullptr ? nullptr : scales + row);
    }
    bad += found;
  });
  return bad;
}

uint64_t StagedRows::read_row(int64_t row, float* out) const {
  const std::byte* data = data_ + row * width_ * static_cast<int64_t>(size_of(request_.from));
  std::vector<float> stored;
  float* target = out;
  if (request_.convolution) {
    stored.resize(static_cast<size_t>(width_));
    target = stored.data();
  }
  widen(data, width_, request_.from, target);
  uint64_t bad = 0;
  for (int64_t i = 0; i < width_; ++i) bad += std::isfinite(target[i]) ? 0 : 1;
  if (request_.convolution) {  // stored [Ci, taps]: element (ci, tap) goes to [tap, ci]
    const int64_t channels = request_.shape[1];
    const int64_t taps = request_.shape[2] * request_.shape[3];
    for (int64_t channel = 0; channel < channels; ++channel) {
      for (int64_t tap = 0; tap < taps; ++tap) out[tap * channels + channel] = stored[channel * taps + tap];
    }
  }
  return bad;
}

void StagedRows::store_row(const float* values, std::byte* out, float* scale) const {
  switch (request_.to) {
    case DType::kF32:
      std::memcpy(out, values, static_cast<size_t>(width_) * sizeof(float));
      return;
    case DType::kBF16: {
      auto* bits = reinterpret_cast<uint16_t*>(out);
      for (int64_t i = 0; i < width_; ++i) bits[i] = f32_to_bf16(values[i]);
      return;
    }
    case DType::kF8E4M3: {
      float largest = 0.0f;
      for (int64_t i = 0; i < width_; ++i) largest = std::max(largest, std::fabs(values[i]));
      *scale = largest > 0.0f ? largest / 448.0f : 1.0f;
      auto* codes = reinterpret_cast<uint8_t*>(out);
      for (int64_t i = 0; i < width_; ++i) codes[i] = f32_to_e4m3(values[i] / *scale);
      return;
    }
    default:
      throw FluxError(code::kUnsupported, "weights cannot be kept as " + std::string(name_of(request_.to)));
  }
}

}  // namespace flux
