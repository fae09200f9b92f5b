// Every launch function of fluxwarp's kernels, by family. No Node, no model names, nothing beyond the CUDA runtime.
#pragma once

#include "attention/attention.h"
#include "cache/cache.h"
#include "conv/conv.h"
#include "elementwise/elementwise.h"
#include "gemm/gemm.h"
#include "gemv/gemv.h"
#include "lora/lora.h"
#include "norm/norm.h"
#include "portable/portable.h"
#include "quantise/quantise.h"
#include "status.h"
