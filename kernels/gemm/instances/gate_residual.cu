#include "gemm/gate_residual.cuh"
#include "gemm/instance.cuh"

namespace flux::kernels::gemm {
namespace {

template <typename Config>
constexpr Instance gated() {
  return instance<Config, GateResidualEpilogue<Config>>(GemmEpilogue::kGateResidual);
}

constexpr Instance kInstances[] = {
    gated<Config128x256<__nv_fp8_e4m3>>(), gated<Config192x192<__nv_fp8_e4m3>>(),
    gated<Config128x128<__nv_fp8_e4m3>>(), gated<Config128x256<__nv_bfloat16>>(),
    gated<Config192x192<__nv_bfloat16>>(), gated<Config128x128<__nv_bfloat16>>(),
};

}  // namespace

InstanceList gate_residual() { return {kInstances, int(std::size(kInstances))}; }

}  // namespace flux::kernels::gemm
