// The instantiations of the convolution kernel, by tile.
#pragma once

#include "conv/params.h"
#include "status.h"

namespace flux::kernels::conv {

struct Instance {
  int blocks;  // of 8 rows of pixels a tile
  int columns;
  bool normalises;
  Status (*launch)(const ConvParams& params, int clusters, cudaStream_t stream);
};

struct InstanceList {
  const Instance* data;
  int count;
};

// instances/*.cu
InstanceList wide();
InstanceList square();
InstanceList narrow();

}  // namespace flux::kernels::conv
