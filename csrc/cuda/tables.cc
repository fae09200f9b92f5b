// Embeddings, tables made from a few numbers, and the latents' rearrangements.
#include <vector>

#include "cuda/check.h"
#include "cuda/launchers.h"
#include "cuda/views.h"

namespace flux::cuda {
namespace {

// `image` is [B, h, w, C], `packed` the other side; which of them is read is the caller's.
kernels::Patches patches_of(const OpCall& call, const TensorView& image) {
  const TensorView& x = call.tensor("x");
  const TensorView& y = call.tensor("y");
  require_contiguous(x, call.kind.c_str());
  require_contiguous(y, call.kind.c_str());
  kernels::Patches patches;
  patches.x = x.data;
  patches.x_type = element_of(x.dtype);
  patches.y = y.data;
  patches.y_type = element_of(y.dtype);
  patches.batch = static_cast<int>(image.shape[0]);
  patches.height = static_cast<int>(image.shape[1]);
  patches.width = static_cast<int>(image.shape[2]);
  patches.channels = static_cast<int>(image.shape[3]);
  patches.scale = static_cast<float>(call.number("scale"));
  patches.shift = static_cast<float>(call.number("shift"));
  return patches;
}

}  // namespace

void embedding(const OpCall& call, const Launch& launch) {
  const TensorView& ids = call.tensor("ids");
  const TensorView& table = call.tensor("table");
  const TensorView& y = call.tensor("y");
  require_contiguous(y, "embedding");
  kernels::Embedding embedding;
  embedding.ids = ids.as<const int32_t>();
  embedding.table = table.data;
  embedding.table_type = element_of(table.dtype);
  if (const TensorView* positions = call.optional("positions")) {
    embedding.positions = positions->data;
    embedding.positions_type = element_of(positions->dtype);
  }
  embedding.y = y.data;
  embedding.y_type = element_of(y.dtype);
  embedding.batch = static_cast<int>(ids.shape[0]);
  embedding.tokens = static_cast<int>(ids.shape[1]);
  embedding.width = static_cast<int>(table.shape[1]);
  embedding.vocabulary = static_cast<int>(table.shape[0]);
  check(kernels::embedding(embedding, launch.stream), "embedding");
}

void timestep_embedding(const OpCall& call, const Launch& launch) {
  const TensorView& t = call.tensor("t");
  const TensorView& y = call.tensor("y");
  check(kernels::timestep_embedding(t.as<const float>(), static_cast<int>(t.elements()),
                                    static_cast<int>(y.inner()), static_cast<float>(call.number("scale")),
                                    static_cast<float>(call.number("maxPeriod")), y.data, element_of(y.dtype),
                                    launch.stream),
        "timestepEmbedding");
}

void rope_table(const OpCall& call, const Launch& launch) {
  const TensorView& ids = call.tensor("ids");
  std::vector<int> dims;
  for (int64_t axis = 0; axis < ids.inner(); ++axis)
    dims.push_back(static_cast<int>(call.integer("dim" + std::to_string(axis))));
  check(kernels::rope_table(ids.as<const float>(), static_cast<int>(ids.shape[0]),
                            static_cast<int>(dims.size()), dims.data(), call.number("theta"),
                            call.tensor("y").as<float>(), launch.stream),
        "ropeTable");
}

void rope_pairs(const OpCall& call, const Launch& launch) {
  const TensorView& table = call.tensor("table");
  require_contiguous(table, "ropePairs");
  check(kernels::rope_pairs(table.as<const float>(), static_cast<int>(table.shape[0]), call.tensor("y").data,
                            launch.stream),
        "ropePairs");
}

void t5_bias(const OpCall& call, const Launch& launch) {
  const TensorView& table = call.tensor("table");
  const TensorView& y = call.tensor("y");
  check(kernels::t5_bias(table.data, element_of(table.dtype), static_cast<int>(table.shape[0]),
                         static_cast<int>(table.shape[1]), static_cast<int>(y.shape[1]),
                         static_cast<int>(call.integer("maxDistance")), y.as<float>(), launch.stream),
        "t5Bias");
}

void pack_latents(const OpCall& call, const Launch& launch) {
  const TensorView& x = call.tensor("x");
  kernels::Patches patches = patches_of(call, x);
  if (call.integer("channelsFirst") != 0) {
    patches.channels = static_cast<int>(x.shape[1]);
    patches.height = static_cast<int>(x.shape[2]);
    patches.width = static_cast<int>(x.shape[3]);
    patches.channels_first = true;
  }
  check(kernels::pack_latents(patches, launch.stream), "packLatents");
}

void unpack_latents(const OpCall& call, const Launch& launch) {
  check(kernels::unpack_latents(patches_of(call, call.tensor("y")), launch.stream), "unpackLatents");
}

void sample_latents(const OpCall& call, const Launch& launch) {
  const TensorView& moments = call.tensor("moments");
  const TensorView& y = call.tensor("y");
  const TensorView* noise = call.optional("noise");
  require_contiguous(moments, "sampleLatents");
  require_contiguous(y, "sampleLatents");
  check(kernels::sample_latents(moments.data, element_of(moments.dtype),
                                noise == nullptr ? nullptr : noise->data,
                                noise == nullptr ? kernels::Element::kF32 : element_of(noise->dtype), y.data,
                                element_of(y.dtype), y.rows(), static_cast<int>(y.inner()), launch.stream),
        "sampleLatents");
}

void blend_tile(const OpCall& call, const Launch& launch) {
  const TensorView& x = call.tensor("x");
  const TensorView& y = call.tensor("y");
  require_contiguous(x, "blendTile");
  const auto size = [](int64_t length) { return static_cast<int>(length); };
  kernels::TileBlend blend;
  blend.x = x.data;
  blend.y = y.data;
  blend.type = element_of(y.dtype);
  FLUX_CHECK(x.dtype == y.dtype, "blendTile: x and y are of one dtype");
  blend.batch = size(x.shape[0]);
  blend.height = size(x.shape[1]);
  blend.width = size(x.shape[2]);
  blend.channels = size(x.shape[3]);
  blend.y_batch_stride = y.stride[0];
  blend.y_row_stride = y.stride[1];
  blend.top = size(call.integer("top"));
  blend.top_ramp = size(call.integer("topRamp"));
  blend.left = size(call.integer("left"));
  blend.left_ramp = size(call.integer("leftRamp"));
  check(kernels::blend_tile(blend, launch.stream), "blendTile");
}

}  // namespace flux::cuda
