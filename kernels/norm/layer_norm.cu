// LayerNorm with modulation (FLUX's blocks) and with weight and bias (CLIP). See row_norm.cuh.
#include "norm/hidden_norm.cuh"
#include "norm/row_norm.cuh"

namespace flux::kernels {

Status check_norm_rows(const NormRows& rows, const char* name) {
  const auto refuse = [name](const char* reason) {
    return Status::bad_argument(std::string(name) + ": " + reason);
  };
  const bool to_codes = rows.y_type == Element::kE4M3;
  if (!to_codes && rows.y_type != Element::kBF16) return refuse("the output is bf16 or e4m3");
  if (rows.width <= 0 || rows.width % 8 != 0 || rows.width > 16384) {
    return refuse(("width " + std::to_string(rows.width) + " is not a multiple of 8 up to 16384").c_str());
  }
  if (rows.batch < 0 || rows.rows < 0 || int64_t(rows.batch) * rows.rows > int64_t(0x7fffffff)) {
    return refuse("batch and rows must not be negative, and at most 2^31 - 1 rows in all");
  }
  if (!aligned16(rows.x, rows.x_row_stride, 2) || !aligned16(rows.x, rows.x_batch_stride, 2)) {
    return refuse("x and its strides must be multiples of 16 bytes");
  }
  const int alignment = to_codes ? 8 : 16, size = to_codes ? 1 : 2;
  if (reinterpret_cast<uintptr_t>(rows.y) % alignment || (rows.y_row_stride * size) % alignment ||
      (rows.y_batch_stride * size) % alignment) {
    return refuse("y and its strides must be multiples of 16 bytes (8 for e4m3)");
  }
  if (to_codes && rows.y_scale == nullptr) return refuse("an e4m3 output needs y_scale");
  return {};
}

namespace {

bool aligned_vector(const void* pointer, int64_t stride, Element type) {
  return aligned16(pointer, stride, type == Element::kBF16 ? 2 : 4);
}

template <typename Parameter>
Status modulate(const ModulatedRows* groups, int count, cudaStream_t stream) {
  if (groups[0].rows.width == HiddenNorm::kWidth)
    return launch_hidden_norm<Parameter>("layer_norm_modulate", groups, count, stream);
  for (int i = 0; i < count; ++i) {
    const Modulate<Parameter> modulation{groups[i].modulation};
    const Status status = dispatch_row_norm("layer_norm_modulate", groups[i].rows, modulation, stream);
    if (!status.ok()) return status;
  }
  return {};
}

template <typename Parameter>
Status weigh(const NormRows& rows, const void* weight, const void* bias, cudaStream_t stream) {
  const WeightAndBias<Parameter> affine{static_cast<const Parameter*>(weight),
                                        static_cast<const Parameter*>(bias)};
  return dispatch_row_norm("layer_norm", rows, affine, stream);
}

}  // namespace

Status layer_norm_modulate(const ModulatedRows* groups, int count, Element type, cudaStream_t stream) {
  const auto refuse = [](const char* reason) {
    return Status::bad_argument(std::string("layer_norm_modulate: ") + reason);
  };
  if (type != Element::kBF16 && type != Element::kF32) return refuse("shift and scale are bf16 or f32");
  if (groups == nullptr || count < 1 || count > kNormMaxGroups) return refuse("it takes one group or two");
  const NormRows& first = groups[0].rows;
  for (int i = 0; i < count; ++i) {
    const auto& [rows, modulation] = groups[i];
    if (Status status = check_norm_rows(rows, "layer_norm_modulate"); !status.ok()) return status;
    if (rows.width != first.width || rows.y_type != first.y_type || rows.epsilon != first.epsilon)
      return refuse("groups have one width, output type and epsilon");
    if ((modulation.shift == nullptr) != (modulation.scale == nullptr))
      return refuse("give shift and scale together, or neither");
    if (!aligned_vector(modulation.shift, modulation.batch_stride, type) ||
        !aligned_vector(modulation.scale, modulation.batch_stride, type)) {
      return refuse("shift, scale and their stride must be multiples of 16 bytes");
    }
  }
  return type == Element::kBF16 ? modulate<bf16>(groups, count, stream)
                                : modulate<float>(groups, count, stream);
}

Status layer_norm(const NormRows& rows, const void* weight, const void* bias, Element type,
                  cudaStream_t stream) {
  if (type != Element::kBF16 && type != Element::kF32) {
    return Status::bad_argument("layer_norm: weight and bias are bf16 or f32");
  }
  if (weight == nullptr || bias == nullptr || !aligned_vector(weight, 0, type) ||
      !aligned_vector(bias, 0, type)) {
    return Status::bad_argument("layer_norm: weight and bias must be given, aligned to 16 bytes");
  }
  return type == Element::kBF16 ? weigh<bf16>(rows, weight, bias, stream)
                                : weigh<float>(rows, weight, bias, stream);
}

}  // namespace flux::kernels
