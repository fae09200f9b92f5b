#include "cpu/simd/variant.h"

#define FLUX_STRING_OF(x) #x
#define FLUX_STRING(x) FLUX_STRING_OF(x)

namespace flux::cpu::FLUX_SIMD {

const SimdKernels kKernels = {
    .name = FLUX_STRING(FLUX_SIMD),
    .tile_rows = kTileRows,
    .tile_columns = kTileColumns,
    .pack_f32 = pack_f32,
    .pack_bf16 = pack_bf16,
    .pack_f8 = pack_f8,
    .pack_columns = pack_columns,
    .tile = tile,
    .softmax_block = softmax_block,
    .scale_columns = scale_columns,
    .store_transposed = store_transposed,
    .epilogue = epilogue,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .rotate_pairs = rotate_pairs,
    .normalise_columns = normalise_columns,
    .column_moments = column_moments,
    .activate = activate,
    .multiply = multiply,
    .add_scaled = add_scaled,
    .interpolate = interpolate,
    .combine = combine,
    .quantise_row = quantise_row,
    .random_bf16 = random_bf16,
};

}  // namespace flux::cpu::FLUX_SIMD
