// Dates of a patch pooled by attention, on raw pointers and without torch.
//
// B tiles of P patches of L dates of D channels; H heads, D % H == 0. Results do not depend on `threads`.
#pragma once

#include <cstdint>

#include "common.h"

namespace fusion::pooling {

struct Sizes {
  int64_t tiles, patches, dates, dim, heads, groups;
};

// The group norm over the valid dates of a patch and the channels of a group; weight is null where there is none.
struct Norm {
  const float* weight;  // (D)
  const float* bias;    // (D)
  float eps;
};

// Every value is read once; 2 L D (H + 4) operations and L H exponentials a patch, whose L D values stay in the cache.
//
// x = max(values + bias, 0), then normalised; attention (B, P, L, H) is the softmax over valid dates of
// x . query + offset, 0 elsewhere; pooled (B, P, D) the sum over dates of attention * (x + positions), head by head.
// values (B, P, L, D), bias (D) or null: then x = values. valid (B, L) or null: all are. query (H, D), offset (B, L, H),
// positions (B, L, D / H). What dates that are not valid hold plays no part, be it NaN. T: float, bfloat16.
template <class T>
void pool_dates(const T* values, const float* bias, const bool* valid, const Norm& norm, const float* query,
                const float* offset, const float* positions, const Sizes& sizes, int threads, float* pooled,
                float* attention);

}  // namespace fusion::pooling
