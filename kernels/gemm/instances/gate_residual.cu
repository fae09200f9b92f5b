#include "gemm/gate_residual.cuh"
#include "gemm/instance.cuh"

namespace flux::kernels::gemm {
namespace {

template <typename Config>
constexpr Instance gated() {
  return instance<Config, GateResidualEpilogue<Config>>(GemmEpilogue::kGateResidual);
}

constexpr Instance kInstances[] = {
    gated<Tile192<__nv_fp8_e4m3>>(), gated<Tile128<__nv_fp8_e4m3>>(), gated<Tile64<__nv_fp8_e4m3>>(),
    gated<Tile192<__nv_bfloat16>>(), gated<Tile128<__nv_bfloat16>>(), gated<Tile64<__nv_bfloat16>>(),
};

}  // namespace

InstanceList gate_residual() { return {kInstances, int(std::size(kInstances))}; }

}  // namespace flux::kernels::gemm
