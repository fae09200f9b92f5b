#include "gemm/instance.cuh"
#include "gemm/linear.cuh"

namespace flux::kernels::gemm {
namespace {

using Operand = __nv_bfloat16;

template <typename Config, typename Output>
constexpr Instance linear() {
  return instance<Config, LinearEpilogue<Config, Output>>(GemmEpilogue::kLinear);
}

constexpr Instance kInstances[] = {
    linear<Tile192Deep<Operand>, __nv_bfloat16>(),
    linear<Tile128<Operand>, __nv_bfloat16>(),
    linear<Tile64<Operand>, __nv_bfloat16>(),
    linear<Tile128<Operand>, float>(),
    linear<Tile64<Operand>, float>(),
};

}  // namespace

InstanceList linear_bf16() { return {kInstances, int(std::size(kInstances))}; }

}  // namespace flux::kernels::gemm
