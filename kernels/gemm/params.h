// What a GEMM kernel is given, by value: it must stay valid in a captured graph.
#pragma once

#include <cuda.h>

#include "gemm/gemm.h"

namespace flux::kernels::gemm {

struct GroupParams {
  CUtensorMap a;         // [batches, rows, K], box kLoadRowsA × k-block
  CUtensorMap w;         // [N, K], box kLoadRowsW (kQkv: 64) × k-block
  CUtensorMap c;         // box 16 rows × a panel's columns
  CUtensorMap residual;  // kGateResidual, as c
  CUtensorMap mlp;       // kQkv: of the columns beyond q, k, v
  CUtensorMap low;       // as a and w, of the low-rank branch
  CUtensorMap up;
  const float* a_scale;
  const float* w_scale;
  const float* bias;
  const float* gate;
  bool adds;  // kGateResidual: see gate_residual.cuh
  const float* norm_q;
  const float* norm_k;
  const void* rope_pairs;
  float* c_scale;
  const float* bounds;
  PackedQkv packed;
  int packed_tokens;
  int first_token;
  const float* key_offset;
  int64_t a_scale_batch_stride;
  int64_t gate_batch_stride;
  int64_t c_scale_batch_stride;
  int rows;
  int row_blocks;    // of one batch; a row block is the rows of one cluster tile
  int total_blocks;  // of all batches
  int band_blocks;   // see schedule.cuh
  int tile_end;      // cluster tiles of this and all earlier groups
};

struct GemmParams {
  GroupParams groups[kGemmMaxGroups];
  int n;
  int k_blocks;
  int column_blocks;
  int low_rank;
  int low_blocks;  // k-blocks of 64 ranks
  int low_parts;
  bool low_is_next;
  int low_begin[kGemmMaxParts];
  int tiles;       // cluster tiles of all groups, halves of a cut last wave counted one by one
  int first_half;  // see schedule.cuh
  Activation activation;
  int heads;
  float eps;
};

}  // namespace flux::kernels::gemm
