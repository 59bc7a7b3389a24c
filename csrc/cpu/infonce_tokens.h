// The tokens of one call: observed ones only, normalised, with their blocks and positives.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common.h"
#include "infonce.h"

namespace fusion::infonce {

constexpr double kNoDirection = 1e-8;  // as in kernels/infonce/reference.py

// The observed tokens, packed. T: dtype of the input, C: of the operands of products, A: of sums.
template <class T, class C, class A>
struct Tokens {
  int n, dim;
  std::vector<int> source;            // (n,) row of the input
  std::vector<int> packed;            // (N,) or -1
  Buffer<C> f;                        // (n, D)
  std::vector<A> inverse;             // (n,)
  std::vector<int> kind;              // (n,) modality
  std::vector<int> block_lo, block_hi;  // (n,) tokens of the same block, left out of the denominator
  std::vector<int> site_lo, site_hi, members;  // (n,) members[site_lo .. site_hi): tokens of the same patch, ascending

  explicit Tokens(const Problem<T>& p) : dim(int(p.dim)), packed(p.tokens_count, -1) {
    for (int64_t i = 0; i < p.tokens_count; ++i)
      if (p.modality[i] >= 0) {
        packed[i] = int(source.size());
        source.push_back(int(i));
      }
    n = int(source.size());
    find_blocks(p);
    find_sites(p);
    f = Buffer<C>(int64_t(n) * dim);
    inverse.resize(n);
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int i = 0; i < n; ++i) find_direction(p, i);
  }

  void find_blocks(const Problem<T>& p) {
    kind.resize(n), block_lo.resize(n), block_hi.resize(n);
    for (int i = 0, j; i < n; i = j) {
      for (j = i; j < n && p.block[source[j]] == p.block[source[i]]; ++j) kind[j] = p.modality[source[j]];
      std::fill(block_lo.begin() + i, block_lo.begin() + j, i);
      std::fill(block_hi.begin() + i, block_hi.begin() + j, j);
    }
  }

  void find_sites(const Problem<T>& p) {
    site_lo.assign(n, -1), site_hi.resize(n);
    members.reserve(n);
    for (int i = 0; i < n; ++i) {
      if (site_lo[i] >= 0) continue;
      const int lo = int(members.size());
      int32_t j = source[i];
      do {
        if (packed[j] >= 0) members.push_back(packed[j]);
        j = p.ring[j];
      } while (j != source[i]);
      std::sort(members.begin() + lo, members.end());
      const int hi = int(members.size());
      for (int k = lo; k < hi; ++k) site_lo[members[k]] = lo, site_hi[members[k]] = hi;
    }
  }

  // f and the inverse norm of token i.
  void find_direction(const Problem<T>& p, int i) {
    const T* token = p.tokens + int64_t(source[i]) * dim;
    A scale = 1;
    if (p.normalize) {
      A square = 0;
#pragma omp simd reduction(+ : square)
      for (int d = 0; d < dim; ++d) square += widen(token[d]) * widen(token[d]);
      scale = square > A(kNoDirection * kNoDirection) ? 1 / std::sqrt(square) : A(0);
      if (square == kInfinity<A>) scale = std::numeric_limits<A>::quiet_NaN();  // else cosine 0 with everything
    }
    inverse[i] = scale;
    // Values that the dtype of the tokens can hold, also where the operands are wider.
    for (int d = 0; d < dim; ++d)
      f[int64_t(i) * dim + d] = round_to<C>(A(widen(round_to<T>(A(widen(token[d]) * scale)))));
  }

  template <class Visit>
  void each_positive(int i, int lo, int hi, Visit visit) const {
    const auto end = members.begin() + site_hi[i];
    for (auto j = std::lower_bound(members.begin() + site_lo[i], end, lo); j != end && *j < hi; ++j)
      if (kind[*j] != kind[i]) visit(*j);
  }

  A dot(int i, int j) const {
    const C *x = &f[int64_t(i) * dim], *y = &f[int64_t(j) * dim];
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int d = 0; d < dim; ++d) sum += widen(x[d]) * widen(y[d]);
    return sum;
  }
};

}  // namespace fusion::infonce
