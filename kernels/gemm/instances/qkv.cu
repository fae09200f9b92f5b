#include "gemm/instance.cuh"
#include "gemm/qkv.cuh"

namespace flux::kernels::gemm {
namespace {

template <typename Operand, QkvHeads kHeads, typename Output>
constexpr Instance heads() {
  using Config = Tile128Heads<Operand>;
  return instance<Config, QkvEpilogue<Config, kHeads, Output>>(GemmEpilogue::kQkv, kHeads);
}

constexpr Instance kInstances[] = {
    heads<__nv_fp8_e4m3, QkvHeads::kRows, __nv_bfloat16>(),
    heads<__nv_fp8_e4m3, QkvHeads::kInt8, __nv_bfloat16>(),
    heads<__nv_fp8_e4m3, QkvHeads::kE4M3, __nv_bfloat16>(),
    heads<__nv_fp8_e4m3, QkvHeads::kInt8, __nv_fp8_e4m3>(),
    heads<__nv_fp8_e4m3, QkvHeads::kE4M3, __nv_fp8_e4m3>(),
    heads<__nv_bfloat16, QkvHeads::kRows, __nv_bfloat16>(),
    heads<__nv_bfloat16, QkvHeads::kInt8, __nv_bfloat16>(),
    heads<__nv_bfloat16, QkvHeads::kE4M3, __nv_bfloat16>(),
};

}  // namespace

InstanceList qkv() { return {kInstances, int(std::size(kInstances))}; }

}  // namespace flux::kernels::gemm
