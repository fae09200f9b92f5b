// The compiled kernels of down_project.
#pragma once

#include "lora/params.h"

namespace flux::kernels::lora {

// Tiles of 128 rows × `columns` (16, 64 or 128) ranks, K in `parts` (1 to 8).
Status launch_hopper(const Params& params, bool codes, int columns, int tiles, int parts,
                     cudaStream_t stream);
// Tiles of 64 × 64.
Status launch_portable(const Params& params, bool codes, int tiles, cudaStream_t stream);

}  // namespace flux::kernels::lora
