// The instantiations of the convolution kernel, by tile.
#pragma once

#include "conv/params.h"
#include "status.h"

namespace flux::kernels::conv {

struct Instance {
  int tile_width, tile_height;  // pixels
  int box_height;               // of the residual
  int columns;                  // output channels of a tile
  bool channel_rows;
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
