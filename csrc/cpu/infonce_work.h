// What the forward and the backward pass of patch InfoNCE share: the rows wanted, and one tile of similarities.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "infonce_gemm.h"
#include "infonce_tokens.h"
#include "tiling.h"

namespace fusion::infonce {

// Up to this scale e^(s - scale) of cosines lies between e^-64 and 1: one shift for all rows, and no running maximum.
constexpr double kSafeScale = 32;
// Multiplications that pay for waking one more thread.
constexpr double kWorkPerThread = 4e6;

// What forward and backward share: the rows wanted and one tile of similarities.
template <class T, class C, class A>
struct Work {
  const Problem<T>& problem;
  Tokens<T, C, A> tokens;
  std::vector<int> ids;         // (rows,) packed token of each row
  std::vector<int64_t> places;  // (rows,) where each row stands in the output
  Buffer<C> gathered;           // (rows, D) of chosen rows
  const C* row_f;               // (rows, D)
  A scale;
  bool fixed;  // one shift for all rows
  Tiling tiling;

  explicit Work(const Problem<T>& p)
      : problem(p),
        tokens(p),
        row_f(tokens.f.get()),
        scale(A(1 / p.temperature)),
        fixed(p.normalize && scale <= A(kSafeScale)),
        tiling(choose_rows(), tokens.n, p.anchor == nullptr, p.threads) {}

  // Lists the observed rows that are wanted; how many.
  int choose_rows() {
    const auto& p = problem;
    for (int64_t r = 0; r < p.rows; ++r) {
      const int id = tokens.packed[p.anchor ? p.anchor[r] : r];
      if (id >= 0) ids.push_back(id), places.push_back(r);
    }
    if (p.anchor) {
      const int64_t dim = tokens.dim;
      gathered = Buffer<C>(int64_t(ids.size()) * dim);
      for (size_t r = 0; r < ids.size(); ++r)
        std::memcpy(&gathered[r * dim], &tokens.f[ids[r] * dim], dim * sizeof(C));
      row_f = gathered.get();
    }
    return int(ids.size());
  }

  bool mirrored(int i, int j) const { return tiling.symmetric && i != j; }

  // All of the tile in one block: nothing to do.
  bool excluded(int i, int j) const {
    const int first = ids[tiling.begin(i)], last = ids[tiling.row_end(i) - 1];
    return tokens.block_lo[first] <= tiling.begin(j) && tiling.column_end(j) <= tokens.block_hi[first] &&
           tokens.block_lo[last] == tokens.block_lo[first];
  }

  // Scaled similarities of tile (i, j), -inf where not a negative: positives are summed apart from the tiles.
  void similarities(int i, int j, A* s) const {
    const int r0 = tiling.begin(i), r1 = tiling.row_end(i), c0 = tiling.begin(j), c1 = tiling.column_end(j);
    const int64_t dim = tokens.dim;
    product_nt(r1 - r0, c1 - c0, int(dim), scale, row_f + r0 * dim, tokens.f.get() + c0 * dim, s, tiling.tile);
    for (int r = r0; r < r1; ++r, s += tiling.tile) {
      const int id = ids[r];
      const int lo = std::max(tokens.block_lo[id], c0), hi = std::min(tokens.block_hi[id], c1);
      for (int c = lo; c < hi; ++c) s[c - c0] = -kInfinity<A>;
      tokens.each_positive(id, c0, c1, [&](int c) { s[c - c0] = -kInfinity<A>; });
    }
  }
};

template <class T>
Problem<T> with_useful_threads(Problem<T> p) {
  const double work = double(p.rows) * p.tokens_count * p.dim;
  p.threads = int(std::clamp(work / kWorkPerThread, 1.0, double(p.threads)));
  return p;
}

}  // namespace fusion::infonce
