// Arguments → tile → segments and taps → tensor maps → launch.
#include <algorithm>
#include <vector>

#include "conv/check.h"
#include "conv/instance.h"
#include "launch.cuh"
#include "norm/norm.h"
#include "tensor_map.h"

namespace flux::kernels {
namespace conv {
namespace {

constexpr int kPixelBytes = 128;

int divide_up(int value, int by) { return (value + by - 1) / by; }
int divide_down(int value, int by) { return value >= 0 ? value / by : -divide_up(-value, by); }

// The output pixels of a phase, cut into tiles, two to a cluster side by side or one above the other, as wastes fewer.
struct Tiling {
  int across, down;  // cluster tiles
  bool pairs_down;
  int column_blocks;
};

Tiling tiling_of(const Conv2d& conv, const Instance& instance) {
  const int spread = conv.phases ? 2 : 1;
  const int across = divide_up(conv.out_width / spread, instance.tile_width);
  const int down = divide_up(conv.out_height / spread, instance.tile_height);
  const bool pairs_down = across % 2 != 0 && (down % 2 == 0 || across < down);
  return {pairs_down ? across : divide_up(across, 2), pairs_down ? divide_up(down, 2) : down, pairs_down,
          divide_up(conv.out_channels, instance.columns)};
}

int image_tiles(const Conv2d& conv, const Tiling& tiling) {
  return tiling.across * tiling.down * (conv.phases ? 4 : 1);
}

bool fits(const Instance& instance, const Conv2d& conv) {
  if (instance.normalises != (conv.affine != nullptr)) return false;
  if ((instance.columns == 16) != (conv.out_channels <= 16)) return false;
  // Results of rows of channels leave in boxes of 64 channels of one phase.
  return !(instance.channel_rows && conv.phases && conv.out_channels % 64 != 0);
}

// Of equals the first is chosen.
std::vector<const Instance*> instances() {
  std::vector<const Instance*> all;
  for (const InstanceList& list : {square(), wide(), narrow()}) {
    for (int i = 0; i < list.count; ++i) all.push_back(list.data + i);
  }
  return all;
}

// Of candidate tiles the one whose waves take the least, by the rates that wgmma and shared memory allow. Relative costs of a
// tile's k-block: products, and for 128 columns at a time the second reading of A or W from shared memory.
const Instance* choose_instance(const Conv2d& conv, int clusters) {
  const Instance* best = nullptr;
  double best_time = 0;
  for (const Instance* instance : instances()) {
    if (!fits(*instance, conv)) continue;
    const Tiling tiling = tiling_of(conv, *instance);
    const int64_t tiles = int64_t(image_tiles(conv, tiling)) * conv.batch * tiling.column_blocks;
    const double sums = instance->tile_width * instance->tile_height * instance->columns;
    const double tile = sums * (sums < 128 * 256 ? 1.15 : 1.0);
    const double time = double((tiles + clusters - 1) / clusters) * tile;
    if (best == nullptr || time < best_time) {
      best = instance;
      best_time = time;
    }
  }
  return best;
}

// Stride 1 (and a phase): all taps read one halo. Stride 2: the taps of one parity of row and column do.
void cut_taps(const Conv2d& conv, int halo_width, ConvParams* params) {
  int count = 0;
  for (int row_parity = 0; row_parity < conv.stride; ++row_parity) {
    for (int column_parity = 0; column_parity < conv.stride; ++column_parity) {
      Segment segment{0, INT32_MAX, INT32_MAX, column_parity * conv.channels, row_parity};
      const auto visit = [&](auto&& each) {
        for (int ky = 0; ky < conv.kernel_height; ++ky) {
          for (int kx = 0; kx < conv.kernel_width; ++kx) {
            const int down = divide_down(ky - conv.pad_top, conv.stride);
            const int right = divide_down(kx - conv.pad_left, conv.stride);
            const bool here = ky - conv.pad_top - down * conv.stride == row_parity &&
                              kx - conv.pad_left - right * conv.stride == column_parity;
            if (here) each(down, right, ky * conv.kernel_width + kx);
          }
        }
      };
      visit([&](int down, int right, int) {
        segment.down = std::min(segment.down, down);
        segment.right = std::min(segment.right, right);
      });
      visit([&](int down, int right, int tap) {
        const int pixel = (down - segment.down) * halo_width + right - segment.right;
        params->taps[count++] = {uint16_t(pixel * kPixelBytes / 16), uint16_t(tap)};
        ++segment.taps;
      });
      if (segment.taps > 0) params->segments[params->segment_count++] = segment;
    }
  }
  params->k_blocks = count * params->chunks;
}

// y with its phases apart, so that the pixels of one are neighbours.
Status make_result_map(const Conv2d& conv, const Instance& instance, CUtensorMap* map) {
  const int64_t spread = conv.phases ? 2 : 1, channels = conv.out_channels;
  const int64_t row = int64_t(conv.out_width) * channels;
  TensorBoxSpec y;
  y.data = conv.y;
  y.rank = 5;
  const int64_t size[5] = {spread * channels, conv.out_width / spread, spread, conv.out_height / spread,
                           conv.batch};
  const int64_t stride[4] = {spread * channels, row, spread * row, conv.out_height * row};
  const int box[5] = {64, instance.tile_width, 1, instance.box_height, 1};
  std::copy_n(size, 5, y.size);
  std::copy_n(stride, 4, y.stride);
  std::copy_n(box, 5, y.box);
  return make_tensor_map(y, map);
}

Status make_maps(const Conv2d& conv, const Instance& instance, ConvParams* params) {
  const int64_t s = conv.stride, channels = conv.channels, row = int64_t(conv.width) * channels;
  TensorBoxSpec x;
  x.data = conv.x;
  x.rank = 5;
  const int64_t x_size[5] = {s * channels, conv.width / s, s, conv.height / s, conv.batch};
  const int64_t x_stride[4] = {s * channels, row, s * row, conv.height * row};
  const int x_box[5] = {64, instance.tile_width + 2, 1, instance.tile_height + 2, 1};
  std::copy_n(x_size, 5, x.size);
  std::copy_n(x_stride, 4, x.stride);
  std::copy_n(x_box, 5, x.box);
  if (Status status = make_tensor_map(x, &params->x); !status.ok()) return status;

  TensorMapSpec w;
  w.data = conv.weight;
  w.columns = int64_t(conv.phases ? 4 : 1) * conv.kernel_height * conv.kernel_width * channels;
  w.rows = conv.out_channels;
  w.row_stride = w.columns;
  w.box_columns = 64;
  w.box_rows = instance.columns / 2;
  w.swizzle = Swizzle::k128;
  if (Status status = make_tensor_map(w, &params->w); !status.ok()) return status;
  if (instance.channel_rows) {
    if (Status status = make_result_map(conv, instance, &params->result); !status.ok()) return status;
  }
  if (conv.residual == nullptr) return {};

  TensorBoxSpec residual;
  residual.data = conv.residual;
  residual.rank = 4;
  const int64_t out_row = int64_t(conv.out_width) * conv.out_channels;
  const int64_t size[4] = {conv.out_channels, conv.out_width, conv.out_height, conv.batch};
  const int64_t stride[3] = {conv.out_channels, out_row, conv.out_height * out_row};
  const int box[4] = {64, instance.tile_width, instance.box_height, 1};
  std::copy_n(size, 4, residual.size);
  std::copy_n(stride, 3, residual.stride);
  std::copy_n(box, 4, residual.box);
  return make_tensor_map(residual, &params->residual);
}

}  // namespace
}  // namespace conv

int conv2d_hopper_tiles() { return int(conv::instances().size()); }

bool conv2d_hopper_takes(const Conv2d& conv, int tile) {
  if (tile >= conv2d_hopper_tiles() || (tile >= 0 && !conv::fits(*conv::instances()[size_t(tile)], conv)))
    return false;
  const bool narrow = conv.out_channels <= 16;
  if (conv.channels % 8 != 0 || conv.kernel_height > 3 || conv.kernel_width > 3) return false;
  if (conv.out_channels > 2048) return false;
  if (narrow ? conv.residual != nullptr || conv.sums != nullptr : conv.out_channels % 8 != 0) return false;
  if (conv.upsample && (!conv.phases || conv.residual != nullptr || conv.affine != nullptr)) return false;
  if (conv.stride == 1) return true;
  return conv.stride == 2 && conv.height % 2 == 0 && conv.width % 2 == 0 && conv.channels % 64 == 0 &&
         conv.affine == nullptr;
}

Status conv2d_hopper(const Conv2d& conv, cudaStream_t stream, int tile) {
  if (Status status = conv::check(conv); !status.ok()) return status;
  if (device_architecture() != 90)
    return Status::unsupported("conv2d_hopper runs on compute capability 9.0 alone");
  if (!conv2d_hopper_takes(conv, tile))
    return Status::unsupported("conv2d_hopper has no kernel for this shape; see conv/conv.h");
  const int most = std::min(device_multiprocessors(), kGroupNormSumParts) / 2;
  const conv::Instance& instance =
      tile < 0 ? *conv::choose_instance(conv, most) : *conv::instances()[size_t(tile)];
  const conv::Tiling tiling = conv::tiling_of(conv, instance);
  conv::ConvParams params{};
  params.y = static_cast<__nv_bfloat16*>(conv.y);
  params.bias = conv.bias;
  params.affine = reinterpret_cast<const float2*>(conv.affine);
  params.sums = reinterpret_cast<float2*>(conv.sums);
  params.adds_residual = conv.residual != nullptr;
  params.batch = conv.batch, params.height = conv.height, params.width = conv.width;
  params.channels = conv.channels, params.out_channels = conv.out_channels;
  params.out_height = conv.out_height, params.out_width = conv.out_width;
  params.spread = conv.phases ? 2 : 1;
  params.phases = conv.phases ? 4 : 1;
  params.phase_taps = conv.phases ? 4 : 0;
  params.grid_height = conv.out_height / params.spread;
  params.grid_width = conv.out_width / params.spread;
  params.chunks = (conv.channels + 63) / 64;
  params.clusters_across = tiling.across, params.clusters_down = tiling.down;
  params.pairs_down = tiling.pairs_down;
  params.image_tiles = conv::image_tiles(conv, tiling);
  const int64_t tiles = int64_t(params.image_tiles) * conv.batch * tiling.column_blocks;
  if (tiles > INT32_MAX / 2) return Status::bad_argument("conv2d: more than 2^30 tiles");
  params.tiles = int(tiles);
  const int clusters = std::min(params.tiles, most);
  params.parts = 2 * std::min(params.image_tiles, clusters);
  conv::cut_taps(conv, instance.tile_width + 2, &params);
  if (Status status = conv::make_maps(conv, instance, &params); !status.ok()) return status;
  return instance.launch(params, clusters, stream);
}

}  // namespace flux::kernels
