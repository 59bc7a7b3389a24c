// The nearest of many codes.
//
// The nearest code maximises (x - centre).c_k + bias_k (kernels/quantize/eager.py, `prepare`, says why). Scores are
// computed in register tiles of kRows rows x kCodes codes, the rows in the lanes of kVectors vectors, and never
// leave the registers: each tile updates the best score and its index lane by lane. Per 24 multiply-adds there are
// 14 loads and 24 x 3 / D instructions for the comparison.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "quantize_common.h"
#include "simd.h"

namespace fusion::quantize {
namespace {

constexpr int kVectors = 2;
#if defined(__AVX512F__)
constexpr int kCodes = 12;  // 24 of 32 registers accumulate
constexpr int kBytes = 64;
#else
constexpr int kCodes = 6;  // 12 of 16
constexpr int kBytes = 32;
#endif
constexpr int64_t kRowBlock = 256 << 10;   // bytes of packed rows a thread keeps in its L2 cache,
constexpr int64_t kCodeBlock = 512 << 10;  // and of codes that pass over them

template <class T>
struct Wide {
  typedef T Vector __attribute__((vector_size(kBytes)));
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(kBytes)));
  static constexpr int kLanes = kBytes / sizeof(T);
  static constexpr int kRows = kVectors * kLanes;
};

// What is compared with: codes in panels of kCodes, (K / kCodes, D, kCodes), the last filled up with codes that
// can never be chosen.
template <class T>
struct Panels {
  Panels(const Rows<T>& codebook, Metric metric, int threads)
      : dim(codebook.dim),
        count(round_up(codebook.rows, kCodes) / kCodes),
        centre(dim, 0),
        codes(count * kCodes * dim),
        bias(count * kCodes) {
    const bool cosine = metric == Metric::kCosine;
    const double unit = cosine ? 1 : unit_of(codebook);
    std::vector<double> scale(codebook.rows, 1 / unit);
    if (cosine)
      for (int64_t k = 0; k < codebook.rows; ++k) scale[k] = inverse_length(codebook.data + k * codebook.stride);
    const std::vector<double> middle = snapped_mean(codebook, scale);
    // A vector taken from all unit codes changes all scores of a row alike, so x itself need not be centred.
    if (!cosine)
      for (int64_t d = 0; d < dim; ++d) centre[d] = T(middle[d] * unit);
    for (double m : middle) finite = finite && is_finite(m);  // it is not, where a code is not
    T* packed = codes.get();
    T* biases = bias.get();
#pragma omp parallel for num_threads(threads)
    for (int64_t k = 0; k < count * kCodes; ++k) {
      T* panel = packed + k / kCodes * kCodes * dim + k % kCodes;
      T square = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const bool real = k < codebook.rows;
        const T c = real ? T(codebook.data[k * codebook.stride + d] * scale[k] - middle[d]) : T(0);
        panel[d * kCodes] = c;
        square += c * c;
      }
      biases[k] = k >= codebook.rows ? -kInfinity<T> : cosine ? T(0) : T(-square / 2 * unit);
    }
  }

  double inverse_length(const T* code) const {
    double square = 0;
    for (int64_t d = 0; d < dim; ++d) square += double(code[d]) * code[d];
    return square > 0 ? 1 / std::sqrt(square) : 0;
  }

  // A power of two near the largest of the codes times their number of values, by which codes and bias are divided: it
  // changes no digit of a score, but squares of codes of 1e19 do not overflow, nor those of 1e-30 vanish.
  double unit_of(const Rows<T>& codebook) const {
    constexpr int kMost = std::numeric_limits<T>::max_exponent * 78 / 100;
    std::vector<T> most(dim, 0);  // one for each d, so that the loop is one of vectors
    for (int64_t k = 0; k < codebook.rows; ++k)
      for (int64_t d = 0; d < dim; ++d) {
        const T size = std::abs(codebook.data[k * codebook.stride + d]);
        most[d] = size > most[d] ? size : most[d];
      }
    const T largest = *std::max_element(most.begin(), most.end());
    if (!is_finite(largest) || largest == 0) return 1;
    int of_code, of_sum;
    std::frexp(largest, &of_code);
    std::frexp(double(dim), &of_sum);
    return std::ldexp(1.0, std::clamp(of_code + of_sum, -kMost, kMost));
  }

  // The mean code, rounded to a multiple of a power of two near the spread: exact to subtract from data on a grid.
  std::vector<double> snapped_mean(const Rows<T>& codebook, const std::vector<double>& scale) const {
    std::vector<double> mean(dim, 0), square(dim, 0);
    for (int64_t k = 0; k < codebook.rows; ++k)
      for (int64_t d = 0; d < dim; ++d) mean[d] += codebook.data[k * codebook.stride + d] * scale[k];
    for (double& m : mean) m /= codebook.rows;
    for (int64_t k = 0; k < codebook.rows; ++k)
      for (int64_t d = 0; d < dim; ++d) {
        const double away = codebook.data[k * codebook.stride + d] * scale[k] - mean[d];
        square[d] += away * away;
      }
    for (int64_t d = 0; d < dim; ++d) {
      const double spread = std::sqrt(square[d] / codebook.rows);
      int exponent;
      std::frexp(spread, &exponent);
      if (spread > 0) mean[d] = std::nearbyint(std::ldexp(mean[d], -exponent)) * std::ldexp(1.0, exponent);
      mean[d] = T(mean[d]);
    }
    return mean;
  }

  int64_t dim, count;
  bool finite = true;     // all codes
  std::vector<T> centre;  // (D)
  Buffer<T> codes, bias;
};

// One tile of rows, packed (D, kRows), against `count` panels; best and index (kRows) carry on from earlier panels.
template <class T>
void compare(const T* x, const T* codes, const T* bias, int64_t first, int64_t count, int64_t dim, T* best,
             typename Wide<T>::Index* index) {
  using Vector = typename Wide<T>::Vector;
  using Indices = typename Wide<T>::Indices;
  using Index = typename Wide<T>::Index;
  constexpr int kLanes = Wide<T>::kLanes;
  Vector top[kVectors];
  Indices at[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    top[v] = simd::load<Vector>(best + v * kLanes);
    at[v] = simd::load<Indices>(index + v * kLanes);
  }
  for (int64_t panel = 0; panel < count; ++panel) {
    const T* c = codes + panel * kCodes * dim;
    Vector score[kVectors][kCodes];
#pragma GCC unroll 12
    for (int k = 0; k < kCodes; ++k)
      for (int v = 0; v < kVectors; ++v) score[v][k] = Vector{} + bias[panel * kCodes + k];
    for (int64_t d = 0; d < dim; ++d) {
      const T* row = x + d * Wide<T>::kRows;
      Vector value[kVectors];
      for (int v = 0; v < kVectors; ++v) value[v] = simd::load<Vector>(row + v * kLanes);
#pragma GCC unroll 12
      for (int k = 0; k < kCodes; ++k)
        for (int v = 0; v < kVectors; ++v) score[v][k] += value[v] * c[d * kCodes + k];
    }
#pragma GCC unroll 12
    for (int k = 0; k < kCodes; ++k) {
      const Indices number = Indices{} + Index((first + panel) * kCodes + k);
      for (int v = 0; v < kVectors; ++v) {
        const auto better = score[v][k] > top[v];  // strictly: the first of equals stays; never for a NaN
        top[v] = better ? score[v][k] : top[v];
        at[v] = better ? number : at[v];
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    simd::store(best + v * kLanes, top[v]);
    simd::store(index + v * kLanes, at[v]);
  }
}

// `count` <= kRows rows as (D, kRows), centred; the rest is zero.
template <class T, class A>
void pack(const Rows<T>& x, int64_t first, int64_t count, const A* centre, A* packed) {
  constexpr int kRows = Wide<A>::kRows;
  constexpr int kTogether = 16;  // columns that are written line by line while the rows' lines are in cache
  for (int64_t d0 = 0; d0 < x.dim; d0 += kTogether) {
    const int64_t d1 = std::min(x.dim, d0 + kTogether);
    for (int r = 0; r < kRows; ++r) {
      const T* row = x.data + (first + r) * x.stride;
      for (int64_t d = d0; d < d1; ++d) packed[d * kRows + r] = r < count ? A(widen(row[d])) - centre[d] : A(0);
    }
  }
}

// What the comparison could not decide: rows with a NaN are missing, rows with an infinity are equally far from all.
template <class T, class A, class Index>
int64_t settle(const T* row, int64_t dim, A best, Index index) {
  if (is_finite(best) && index >= 0) return index;
  bool infinite = false;
  for (int64_t d = 0; d < dim; ++d) {
    const A value = widen(row[d]);
    if (is_nan(value)) return -1;
    infinite |= !is_finite(value);
  }
  return infinite ? 0 : std::max<int64_t>(index, 0);
}

}  // namespace

template <class T>
void nearest_code(const Rows<T>& x, const Rows<Arithmetic<T>>& codebook, Metric metric, int threads, int64_t* codes) {
  using A = Arithmetic<T>;
  using Index = typename Wide<A>::Index;
  constexpr int kRows = Wide<A>::kRows;
  if (x.rows == 0) return;
  Panels<A> panels(codebook, metric, threads);
  if (!panels.finite) {  // nothing is nearest
    std::fill(codes, codes + x.rows, int64_t(-1));
    return;
  }
  const int64_t dim = x.dim, bytes = dim * sizeof(A);
  // Small enough for the cache and for every thread to get some, but whole tiles.
  const int64_t fair = (x.rows + 4 * threads - 1) / (4 * threads);
  const int64_t block = round_up(std::max<int64_t>(1, std::min(kRowBlock / bytes, fair)), kRows);
  const int64_t together = std::max<int64_t>(1, kCodeBlock / (bytes * kCodes));
  Buffer<A> packed(threads * block * dim), best(threads * block);
  Buffer<Index> index(threads * block);
  const A *all = panels.codes.get(), *bias = panels.bias.get();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t start = 0; start < x.rows; start += block) {
    const int64_t mine = omp_get_thread_num() * block, count = std::min(block, x.rows - start);
    A *rows = packed.get() + mine * dim, *top = best.get() + mine;
    Index* at = index.get() + mine;
    for (int64_t r = 0; r < count; r += kRows)
      pack(x, start + r, std::min<int64_t>(kRows, count - r), panels.centre.data(), rows + r * dim);
    std::fill(top, top + block, -kInfinity<A>);
    std::fill(at, at + block, Index(-1));
    for (int64_t p = 0; p < panels.count; p += together)
      for (int64_t r = 0; r < count; r += kRows)
        compare<A>(rows + r * dim, all + p * kCodes * dim, bias + p * kCodes, p, std::min(together, panels.count - p),
                   dim, top + r, at + r);
    for (int64_t r = 0; r < count; ++r)
      codes[start + r] = settle(x.data + (start + r) * x.stride, dim, top[r], at[r]);
  }
}

template void nearest_code<float>(const Rows<float>&, const Rows<float>&, Metric, int, int64_t*);
template void nearest_code<double>(const Rows<double>&, const Rows<double>&, Metric, int, int64_t*);
template void nearest_code<bfloat16>(const Rows<bfloat16>&, const Rows<float>&, Metric, int, int64_t*);

}  // namespace fusion::quantize
