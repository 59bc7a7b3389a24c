// The building blocks of attention: packing, the two register-tiled products, the bias and the dropout mask.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention.h"
#include "common.h"
#include "simd.h"

namespace fusion::attention {

using simd::Floats;
using simd::Ints;
using simd::kLanes;
using simd::Words;

#if defined(__AVX512F__)  // 32 vector registers
inline constexpr int kGroups = 4;  // vectors of keys in a panel
inline constexpr int kSums = 16;   // vectors that accumulate() holds
#else                     // 16
inline constexpr int kGroups = 2;
inline constexpr int kSums = 8;
#endif
inline constexpr int64_t kPanel = kGroups * kLanes;  // keys in a panel
inline constexpr int64_t kRows = 32;                 // queries in a block
inline constexpr int64_t kKeys = 128;                // keys in a block: its tiles stay in the first-level cache
static_assert(kKeys % kPanel == 0 && kRows % kSums == 0 && kLanes % 4 == 0);

// ---------------------------------------------------------------- memory

// Hands out consecutive cache-line aligned pieces of a buffer; from nullptr it only counts.
class Pieces {
 public:
  explicit Pieces(float* start) : start_(start) {}
  float* take(int64_t size) {
    float* piece = start_ == nullptr ? nullptr : start_ + used_;
    used_ += round_up(size, 16);
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  float* start_;
  int64_t used_ = 0;
};

// ---------------------------------------------------------------- rows in and out

// Reads a row, and asks for one that comes soon: heads often lie side by side in a token, and then the rows of one
// head are single cache lines, too far apart for the hardware to foresee.
inline void read_row(const Heads& tensor, Element element, int64_t b, int64_t h, int64_t token, int64_t dim,
                     float* row) {
  const int64_t offset = b * tensor.batch + h * tensor.head + token * tensor.token;
  const auto fetch = [&](const auto* source) {
    constexpr int64_t kAhead = 16, kLine = 64 / sizeof *source;
    for (int64_t d = 0; d < dim; d += kLine) __builtin_prefetch(source + kAhead * tensor.token + d, 0, 2);
  };
  if (element == Element::kFloat32) {
    const float* source = static_cast<const float*>(tensor.data) + offset;
    fetch(source);
    std::memcpy(row, source, dim * sizeof(float));
  } else {
    const bfloat16* source = static_cast<const bfloat16*>(tensor.data) + offset;
    fetch(source);
    for (int64_t d = 0; d < dim; ++d) row[d] = widen(source[d]);
  }
}

inline void write_row(const Heads& tensor, Element element, int64_t b, int64_t h, int64_t token, int64_t dim,
                      const float* row, float factor) {
  const int64_t offset = b * tensor.batch + h * tensor.head + token * tensor.token;
  if (element == Element::kFloat32) {
    float* target = static_cast<float*>(tensor.data) + offset;
    for (int64_t d = 0; d < dim; ++d) target[d] = row[d] * factor;
  } else {
    bfloat16* target = static_cast<bfloat16*>(tensor.data) + offset;
    for (int64_t d = 0; d < dim; ++d) target[d] = round_to<bfloat16>(row[d] * factor);
  }
}

// Row j of X (D) becomes column j of panels (n / kPanel, D, kPanel): one load then holds a dimension of kLanes keys.
inline void write_column(float* panels, int64_t dim, int64_t j, const float* row) {
  float* column = panels + j / kPanel * dim * kPanel + j % kPanel;
  for (int64_t d = 0; d < dim; ++d) column[d * kPanel] = row[d];
}

// ---------------------------------------------------------------- products

// sums[r][c] += rows (kR, stride) . panel (D, kPanel): the scores of kR queries and kC vectors of keys.
template <int kR, int kC>
FUSION_INLINE void multiply_panel(const float* rows, int64_t stride, const float* panel, int64_t dim,
                                  Floats (&sums)[kR][kC]) {
  for (int64_t d = 0; d < dim; ++d) {
    Floats keys[kC];
#pragma GCC unroll 8
    for (int c = 0; c < kC; ++c) keys[c] = simd::load(panel + d * kPanel + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r) {
      const float q = rows[r * stride + d];
#pragma GCC unroll 8
      for (int c = 0; c < kC; ++c) sums[r][c] += keys[c] * q;
    }
  }
}

template <int kN, bool kTransposed>
FUSION_INLINE void accumulate_rows(float* sums, const float* factors, int64_t stride, int64_t depth,
                                   const float* rows, int64_t width) {
  for (int64_t column = 0; column < width; column += kLanes) {
    Floats held[kN];
#pragma GCC unroll 16
    for (int n = 0; n < kN; ++n) held[n] = simd::load(sums + n * width + column);
    for (int64_t k = 0; k < depth; ++k) {
      const Floats row = simd::load(rows + k * width + column);
#pragma GCC unroll 16
      for (int n = 0; n < kN; ++n) held[n] += row * (kTransposed ? factors[k * stride + n] : factors[n * stride + k]);
    }
#pragma GCC unroll 16
    for (int n = 0; n < kN; ++n) simd::store(sums + n * width + column, held[n]);
  }
}

// sums (count, width) += F rows (depth, width), F = factors (count, stride) or, transposed, (depth, stride).
// count is a multiple of 4 and width of kLanes.
template <bool kTransposed>
inline void accumulate(float* sums, int64_t count, const float* factors, int64_t stride, int64_t depth,
                       const float* rows, int64_t width) {
  int64_t n = 0;
  for (; n + kSums <= count; n += kSums)
    accumulate_rows<kSums, kTransposed>(sums + n * width, factors + n * (kTransposed ? 1 : stride), stride, depth,
                                        rows, width);
  for (; n < count; n += 4)
    accumulate_rows<4, kTransposed>(sums + n * width, factors + n * (kTransposed ? 1 : stride), stride, depth, rows,
                                    width);
}

// ---------------------------------------------------------------- keys and their buckets

// The keys of one tile that are attended to, and where their buckets lie in a row of the bucket table. Invalid
// keys are left out here once, so that nothing downstream spends time on them.
struct KeySet {
  std::vector<int32_t> index;     // (n) into the keys
  std::vector<int32_t> position;  // (groups * kLanes), 0 beyond n
  std::vector<int32_t> start;     // (groups): position of the first lane if the others follow one by one, else -1
  int64_t count = 0, groups = 0;
  bool complete = true;

  void select(const Problem& p, int64_t b) {
    const bool* valid = p.key_valid == nullptr ? nullptr : p.key_valid + b * p.keys;
    index.clear();
    for (int64_t j = 0; j < p.keys; ++j)
      if (valid == nullptr || valid[j]) index.push_back(static_cast<int32_t>(j));
    count = static_cast<int64_t>(index.size());
    complete = count == p.keys;
    groups = (count + kLanes - 1) / kLanes;
    position.assign(groups * kLanes, 0);
    start.assign(groups, -1);
    for (int64_t j = 0; j < count; ++j) position[j] = p.key_position[index[j]];
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * kLanes, last = std::min(count, first + kLanes);
      bool consecutive = true;
      for (int64_t j = first + 1; j < last; ++j) consecutive &= position[j] == position[j - 1] + 1;
      if (consecutive) start[g] = position[first];
    }
  }
};

// Bucket rows of a set of keys: of the (S, S) table where positions are consecutive or lanes are picked one by
// one; of the expanded (Lq, Lk) map at short lengths, where it costs little and every row is consecutive.
template <class Index>
struct BucketRows {
  const Index* base;
  int64_t stride;
  const int32_t* row_of;  // (Lq), null: identity
  const int32_t* start;   // (groups)
  const int32_t* position;

  const Index* row(int64_t query) const { return base + stride * (row_of == nullptr ? query : row_of[query]); }

  FUSION_INLINE Ints load(const Index* row, int64_t group) const {
    if (start[group] >= 0) return simd::widen(row + start[group]);
    Index lanes[kLanes];
    for (int l = 0; l < kLanes; ++l) lanes[l] = row[position[group * kLanes + l]];
    return simd::widen(lanes);
  }

  // Whether every lane of a group is in the most frequent bucket, whose bias has been subtracted from the row.
  FUSION_INLINE bool all_far(const Index* row, int64_t group, uint64_t far) const {
    if (start[group] < 0) return false;
    const auto* bytes = reinterpret_cast<const char*>(row + start[group]);
    uint64_t differs = 0;
    for (unsigned at = 0; at < kLanes * sizeof(Index); at += 8) {
      uint64_t word;
      std::memcpy(&word, bytes + at, 8);
      differs |= word ^ far;
    }
    return differs == 0;
  }
};

inline Floats look_up(const float* bias, Ints bucket, uint8_t) { return simd::look_up_16(bias, bucket); }
inline Floats look_up(const float* bias, Ints bucket, uint16_t) { return simd::gather(bias, bucket); }

// ---------------------------------------------------------------- dropout (kernels/attention/dropout.py)

struct RowKey {
  uint32_t low, high;
};

inline RowKey row_key(uint64_t seed, uint64_t row) {
  uint64_t z = seed + (row + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return {static_cast<uint32_t>(z), static_cast<uint32_t>(z >> 32)};
}

// All ones in the lanes that are kept; columns holds key index * 0x9E3779B9.
FUSION_INLINE Ints keep_mask(Words columns, RowKey key, int32_t threshold) {
  Words x = columns + key.low;
  x = (x ^ (x >> 16)) * 0x21F0AAADu + key.high;
  x = (x ^ (x >> 15)) * 0x735A2D97u;
  x ^= x >> 15;
  return reinterpret_cast<Ints>(x >> 1) >= threshold;
}

}  // namespace fusion::attention
