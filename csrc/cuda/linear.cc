// linear, qkvLinear and quantizeRows: few rows go to the kernel that is limited by reading the weight, others to the GEMM.
// Linears of one shape that run together are groups of one GEMM.
#include <algorithm>

#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/packed_heads.h"
#include "cuda/views.h"
#include "gemv/gemv.h"
#include "lora/lora.h"
#include "portable/portable.h"
#include "quantise/quantise.h"

namespace flux::cuda {
namespace {

constexpr int64_t kSmallRows = 64;

const float* f32_or_null(const TensorView* view) {
  return view == nullptr ? nullptr : view->as<const float>();
}

// Operands that every GEMM here shares.
kernels::GemmGroup group_of(const OpCall& call) {
  const TensorView& x = call.tensor("x");
  const TensorView& weight = call.tensor("weight");
  FLUX_CHECK(x.dtype == weight.dtype, call.kind + ": x is " + std::string(name_of(x.dtype)) +
                                          " and the weight " + std::string(name_of(weight.dtype)) +
                                          "; the GPU multiplies like with like");
  const bool codes = weight.dtype == DType::kF8E4M3;
  FLUX_CHECK(
      (call.optional("xScale") != nullptr) == codes && (call.optional("weightScale") != nullptr) == codes,
      call.kind + ": on the GPU e4m3 operands both have scales, and others none");
  const Matrix a = matrix_of(x, call.kind.c_str());
  kernels::GemmGroup group;
  group.batches = a.batches;
  group.rows = a.rows;
  group.a = {x.data, a.row_stride, a.batch_stride};
  if (const TensorView* scale = call.optional("xScale")) {
    group.a_scale = scale->as<const float>();
    group.a_scale_batch_stride = scale->rank > 1 ? scale->stride[0] : a.rows;  // of part of a sequence [B, T]
  }
  group.w = weight.data;
  group.w_row_stride = a.width;
  group.w_scale = f32_or_null(call.optional("weightScale"));
  group.bias = f32_or_null(call.optional("bias"));
  if (const TensorView* low = call.optional("low")) {
    const Matrix rows = matrix_of(*low, call.kind.c_str());
    group.low = {low->data, rows.row_stride, rows.batch_stride};
    group.up = call.tensor("lowUp").data;
  }
  return group;
}

kernels::GemmRows<void> output_rows(const TensorView& y, const char* op) {
  const Matrix c = matrix_of(y, op);
  return {y.data, c.row_stride, c.batch_stride};
}

// Where the scales of an e4m3 output go, and the bounds that they come from.
void bind_output_scale(kernels::GemmGroup& group, const OpCall& call, const char* name) {
  const TensorView* scale = call.optional(name);
  if (scale == nullptr) return;
  group.c_scale = scale->as<float>();
  group.c_scale_batch_stride = group.rows;
  group.bounds = call.tensor("bounds").as<const float>();
}

kernels::GemmGroup linear_group(const OpCall& call) {
  kernels::GemmGroup group = group_of(call);
  group.c = output_rows(call.tensor("y"), "linear");
  bind_output_scale(group, call, "yScale");
  if (const TensorView* residual = call.optional("residual")) {
    const Matrix rows = matrix_of(*residual, "linear");
    group.residual = {residual->data, rows.row_stride, rows.batch_stride};
    if (const TensorView* gate = call.optional("gate")) {
      group.gate = gate->as<const float>();
      group.gate_batch_stride = gate->stride[0];
    }
  }
  return group;
}

kernels::GemmGroup qkv_group(const OpCall& call) {
  kernels::GemmGroup group = group_of(call);
  if (const TensorView* qkv = call.optional("qkv")) {  // [B, T, 3, H, 128]
    group.c = {qkv->data, qkv->stride[1], qkv->stride[0]};
  } else {
    const TensorView& q = call.tensor("q");  // [B, H, T, 128]
    group.first_token = call.integer("firstToken");
    group.packed = packed_heads(call, group.first_token);
    group.packed_tokens = q.stride[1] / q.stride[2];
    if (const TensorView* offset = call.optional("keyOffset")) group.key_offset = offset->as<const float>();
  }
  group.norm_q = call.tensor("normQ").as<const float>();
  group.norm_k = call.tensor("normK").as<const float>();
  group.rope = call.tensor("rope").as<const float>();
  group.rope_pairs = call.tensor("ropePairs").data;
  if (const TensorView* mlp = call.optional("mlp")) group.mlp = output_rows(*mlp, "qkvLinear");
  bind_output_scale(group, call, "mlpScale");
  return group;
}

// The columns with which the parts of a low-rank branch begin: attributes part1 … partP.
using Parts = std::vector<int64_t>;

Parts parts_of(const OpCall& call) {
  const TensorView &low = call.tensor("low"), &up = call.tensor("lowUp");
  FLUX_CHECK(low.dtype == DType::kBF16 && up.dtype == DType::kBF16 && up.contiguous(),
             call.kind + ": on the GPU low and lowUp are bf16");
  Parts parts{0};
  for (int64_t part = 1; part < low.inner() / up.inner(); ++part)
    parts.push_back(call.integer("part" + std::to_string(part)));
  return parts;
}

// low = (x·downᵀ)·scale is a linear whose weight has scales and whose x has none: codes are taken as numbers.
bool projects_down(const OpCall& call) {
  return call.kind == "linear" && call.optional("weightScale") != nullptr &&
         call.optional("xScale") == nullptr;
}

// The kernel before writes low, and nothing else is left to wait for.
bool low_is_next(const OpCall& call, const Launch& launch) {
  return launch.before != nullptr && projects_down(*launch.before) &&
         launch.before->tensor("y").data == call.tensor("low").data;
}

// What a GEMM's groups have in common.
kernels::Gemm gemm_of(const OpCall& call, const Launch& launch) {
  const TensorView& weight = call.tensor("weight");
  kernels::Gemm gemm;
  gemm.operand = element_of(weight.dtype);
  gemm.n = weight.shape[0];
  gemm.k = weight.shape[1];
  gemm.activation = activation_of(call.integer("activation"));
  if (call.optional("low") != nullptr) {
    const Parts parts = parts_of(call);
    gemm.low_rank = call.tensor("lowUp").inner();
    // What has more has them one after another (linear_by_parts).
    gemm.low_parts = std::min<int>(static_cast<int>(parts.size()), kernels::kGemmMaxParts);
    std::copy_n(parts.begin(), gemm.low_parts, gemm.low_begin);
    gemm.low_is_next = low_is_next(call, launch);
  }
  if (call.kind == "qkvLinear") {
    gemm.epilogue = kernels::GemmEpilogue::kQkv;
    if (const TensorView* qkv = call.optional("qkv")) {
      gemm.heads = qkv->shape[3];
    } else {
      gemm.heads = call.tensor("q").shape[1];
      gemm.heads_as = heads_as(call);
    }
    gemm.eps = static_cast<float>(call.number("eps"));
    if (const TensorView* mlp = call.optional("mlp")) gemm.output = element_of(mlp->dtype);
    return gemm;
  }
  gemm.output = element_of(call.tensor("y").dtype);
  if (call.optional("residual") != nullptr) gemm.epilogue = kernels::GemmEpilogue::kGateResidual;
  return gemm;
}

bool alike(const kernels::Gemm& a, const kernels::Gemm& b) {
  return a.operand == b.operand && a.output == b.output && a.epilogue == b.epilogue &&
         a.activation == b.activation && a.n == b.n && a.k == b.k && a.heads == b.heads &&
         a.heads_as == b.heads_as && a.eps == b.eps && a.low_rank == b.low_rank &&
         a.low_parts == b.low_parts && std::equal(a.low_begin, a.low_begin + a.low_parts, b.low_begin);
}

void run_gemm(kernels::Gemm gemm, const kernels::GemmGroup* groups, size_t count, const Launch& launch,
              const std::string& op) {
  gemm.groups = groups;
  gemm.group_count = static_cast<int>(count);
  check(kernels::gemm(gemm, launch.stream), op);
}

// A launch for each run of calls that are alike.
template <kernels::GemmGroup (*kGroup)(const OpCall&)>
bool run_together(const std::vector<const OpCall*>& calls, const Launch& launch) {
  std::vector<kernels::GemmGroup> groups;
  for (size_t at = 0; at < calls.size(); at += groups.size()) {
    const kernels::Gemm gemm = gemm_of(*calls[at], launch);
    groups.clear();
    for (size_t i = at; i < calls.size() && groups.size() < kernels::kGemmMaxGroups; ++i) {
      if (!alike(gemm_of(*calls[i], launch), gemm)) break;
      groups.push_back(kGroup(*calls[i]));
    }
    run_gemm(gemm, groups.data(), groups.size(), launch, calls[at]->kind);
  }
  return true;
}

bool small(const OpCall& call) {
  const TensorView& x = call.tensor("x");
  return x.dtype == DType::kBF16 && call.tensor("weight").dtype == DType::kBF16 && x.rows() <= kSmallRows &&
         call.optional("residual") == nullptr && call.optional("low") == nullptr && x.rank <= 3 &&
         (x.rank < 3 || x.shape[0] == 1 || x.contiguous()) && call.tensor("y").contiguous();
}

void small_linear(const OpCall& call, const Launch& launch) {
  const TensorView& x = call.tensor("x");
  const TensorView& weight = call.tensor("weight");
  const TensorView& y = call.tensor("y");
  kernels::SmallLinear linear;
  linear.x = x.data;
  linear.x_row_stride = x.rank > 1 && x.rows() > 1 && !x.contiguous() ? x.stride[x.rank - 2] : x.inner();
  linear.weight = weight.data;
  linear.bias = f32_or_null(call.optional("bias"));
  linear.y = y.data;
  linear.y_row_stride = y.inner();
  linear.y_type = element_of(y.dtype);
  linear.m = static_cast<int>(x.rows());
  linear.n = static_cast<int>(weight.shape[0]);
  linear.k = static_cast<int>(weight.shape[1]);
  linear.activation = activation_of(call.integer("activation"));
  check(kernels::small_linear(linear, launch.stream), "linear");
}

kernels::DownGroup down_group(const OpCall& call) {
  FLUX_CHECK(call.tensor("x").dtype == call.tensor("weight").dtype,
             "linear: x and down are of different types");
  for (const char* other : {"bias", "residual", "gate", "low", "yScale"})
    FLUX_CHECK(call.optional(other) == nullptr,
               "linear: a weight with scales, and an x without, takes no " + std::string(other));
  FLUX_CHECK(call.integer("activation") == 0 && call.tensor("y").dtype == DType::kBF16,
             "linear: a weight with scales, and an x without, gives bf16 without an activation");
  const Matrix x = matrix_of(call.tensor("x"), "linear"), low = matrix_of(call.tensor("y"), "linear");
  kernels::DownGroup group;
  group.batches = x.batches;
  group.rows = x.rows;
  group.x = {call.tensor("x").data, x.row_stride, x.batch_stride};
  group.down = call.tensor("weight").data;
  group.scale = call.tensor("weightScale").as<const float>();
  group.low = {call.tensor("y").data, low.row_stride, low.batch_stride};
  return group;
}

bool alike_down(const OpCall& a, const OpCall& b) {
  return projects_down(b) && a.tensor("x").dtype == b.tensor("x").dtype &&
         a.tensor("weight").shape == b.tensor("weight").shape;
}

void project_down(const std::vector<const OpCall*>& calls, const Launch& launch) {
  std::vector<kernels::DownGroup> groups;
  for (const OpCall* call : calls) groups.push_back(down_group(*call));
  kernels::DownProjection down;
  down.operand = element_of(calls.front()->tensor("x").dtype);
  down.k = calls.front()->tensor("weight").shape[1];
  down.ranks = calls.front()->tensor("weight").shape[0];
  down.groups = groups.data();
  down.group_count = static_cast<int>(groups.size());
  check(kernels::down_project(down, launch.stream), "linear");
}

// The GEMM's tiles are of one part each.
bool tiles_hold_parts(const OpCall& call) {
  constexpr int64_t kCommonTile = 384;  // of 192 columns, and of 128
  if (call.optional("low") == nullptr) return true;
  const Parts parts = parts_of(call);
  return parts.size() <= kernels::kGemmMaxParts &&
         std::all_of(parts.begin(), parts.end(), [](int64_t begin) { return begin % kCommonTile == 0; });
}

kernels::GemmRows<void> from_column(kernels::GemmRows<void> rows, int64_t column, const TensorView& view) {
  rows.data = static_cast<std::byte*>(rows.data) + column * size_of(view.dtype);
  return rows;
}

// A product a part.
void linear_by_parts(const OpCall& call, const Launch& launch) {
  const kernels::GemmGroup whole = linear_group(call);
  kernels::Gemm gemm = gemm_of(call, launch);
  const TensorView &weight = call.tensor("weight"), &up = call.tensor("lowUp");
  FLUX_CHECK(gemm.output != kernels::Element::kE4M3,
             "linear: parts of a quantised output begin at multiples of 384");
  Parts ends = parts_of(call);
  ends.push_back(weight.shape[0]);
  gemm.low_parts = 1;
  gemm.low_is_next = false;
  for (size_t part = 0; part + 1 < ends.size(); ++part) {
    const int64_t begin = ends[part];
    kernels::GemmGroup group = whole;
    group.w = weight.as<const std::byte>() + begin * weight.shape[1] * size_of(weight.dtype);
    group.up = up.as<const std::byte>() + begin * up.inner() * size_of(up.dtype);
    group.low.data = static_cast<const std::byte*>(whole.low.data) + part * up.inner() * size_of(up.dtype);
    if (group.w_scale != nullptr) group.w_scale += begin;
    if (group.bias != nullptr) group.bias += begin;
    if (group.gate != nullptr) group.gate += begin;
    group.c = from_column(whole.c, begin, call.tensor("y"));
    if (const TensorView* residual = call.optional("residual"))
      group.residual.data =
          static_cast<const std::byte*>(whole.residual.data) + begin * size_of(residual->dtype);
    gemm.n = ends[part + 1] - begin;
    run_gemm(gemm, &group, 1, launch, "linear");
  }
}

}  // namespace

void linear(const OpCall& call, const Launch& launch) {
  if (projects_down(call)) return project_down({&call}, launch);
  if (small(call)) return small_linear(call, launch);
  if (!tiles_hold_parts(call)) return linear_by_parts(call, launch);
  const kernels::GemmGroup group = linear_group(call);
  run_gemm(gemm_of(call, launch), &group, 1, launch, "linear");
}

bool linear_together(const std::vector<const OpCall*>& calls, const Launch& launch) {
  if (projects_down(*calls.front())) {
    const auto differs = [&](const OpCall* call) { return !alike_down(*calls.front(), *call); };
    if (calls.size() > kernels::kGemmMaxGroups || std::any_of(calls.begin(), calls.end(), differs))
      return false;
    project_down(calls, launch);
    return true;
  }
  const auto alone = [](const OpCall* call) {
    return projects_down(*call) || small(*call) || !tiles_hold_parts(*call);
  };
  if (std::any_of(calls.begin(), calls.end(), alone)) return false;
  return run_together<linear_group>(calls, launch);
}

void qkv_linear(const OpCall& call, const Launch& launch) {
  const kernels::GemmGroup group = qkv_group(call);
  run_gemm(gemm_of(call, launch), &group, 1, launch, "qkvLinear");
}

bool qkv_linear_together(const std::vector<const OpCall*>& calls, const Launch& launch) {
  return run_together<qkv_group>(calls, launch);
}

void quantize_rows(const OpCall& call, const Launch& launch) {
  const TensorView& x = call.tensor("x");
  const TensorView& codes = call.tensor("codes");
  const Matrix from = matrix_of(x, "quantizeRows");
  const Matrix to = matrix_of(codes, "quantizeRows");
  kernels::QuantiseRows rows;
  rows.x = x.data;
  rows.x_batch_stride = from.batch_stride;
  rows.x_row_stride = from.row_stride;
  rows.codes = codes.as<uint8_t>();
  rows.codes_batch_stride = to.batch_stride;
  rows.codes_row_stride = to.row_stride;
  rows.scale = call.tensor("scale").as<float>();
  rows.batch = static_cast<int>(from.batches);
  rows.rows = static_cast<int>(from.rows);
  rows.width = static_cast<int>(from.width);
  check(kernels::quantise_rows(rows, launch.stream), "quantizeRows");
}

void weight_bounds(const OpCall& call, const Launch& launch) {
  const TensorView& weight = call.tensor("weight");
  require_contiguous(weight, "weightBounds");
  check(
      kernels::weight_bounds(weight.as<const uint8_t>(), call.tensor("weightScale").as<const float>(),
                             f32_or_null(call.optional("bias")), static_cast<int>(weight.shape[0]),
                             static_cast<int>(weight.shape[1]), call.tensor("y").as<float>(), launch.stream),
      "weightBounds");
}

uint64_t branch_bounds_workspace(const OpCall& call) {
  return static_cast<uint64_t>(call.tensor("down").shape[0]) * sizeof(float);
}

void branch_bounds(const OpCall& call, const Launch& launch) {
  const TensorView &down = call.tensor("down"), &up = call.tensor("up");
  kernels::BranchBounds bounds;
  bounds.down = down.data;
  bounds.down_type = element_of(down.dtype);
  bounds.scale = call.tensor("scale").as<const float>();
  bounds.up = up.data;
  bounds.w_scale = call.tensor("weightScale").as<const float>();
  bounds.base = call.tensor("base").as<const float>();
  bounds.n = up.shape[0];
  bounds.k = down.shape[1];
  bounds.rank = up.shape[1];
  bounds.parts = static_cast<int>(down.shape[0] / up.shape[1]);
  FLUX_CHECK(bounds.parts <= kernels::kGemmMaxParts, "branchBounds: more than 4 parts");
  for (int part = 1; part < bounds.parts; ++part)
    bounds.begin[part] = call.integer("part" + std::to_string(part));
  bounds.norms = static_cast<float*>(launch.workspace);
  bounds.bounds = call.tensor("y").as<float>();
  check(kernels::branch_bounds(bounds, launch.stream), "branchBounds");
}

}  // namespace flux::cuda
