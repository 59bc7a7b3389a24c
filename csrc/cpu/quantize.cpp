#include "quantize.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "simd.h"

namespace fusion::quantize {
namespace {

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <class T>
bool is_nan(T x) {
  return x != x;
}
template <class T>
bool is_finite(T x) {
  return x - x == 0;
}

// Memory that starts on a cache line and is not touched before use.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(64, up(std::max<int64_t>(count, 1) * sizeof(T), 64)))) {
    if (!data_) throw std::bad_alloc();
  }
  T* get() { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

// ------------------------------------------------------------------------------------------------ nearest code
//
// The nearest code maximises (x - centre).c_k + bias_k (kernels/quantize/eager.py, `prepare`, says why). Scores are
// computed in register tiles of kRows rows x kCodes codes, the rows in the lanes of kVectors vectors, and never
// leave the registers: each tile updates the best score and its index lane by lane. Per 24 multiply-adds there are
// 14 loads and 24 x 3 / D instructions for the comparison.

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
        count(up(codebook.rows, kCodes) / kCodes),
        centre(dim, 0),
        codes(count * kCodes * dim),
        bias(count * kCodes) {
    const bool cosine = metric == Metric::kCosine;
    std::vector<double> scale(codebook.rows, 1);
    if (cosine)
      for (int64_t k = 0; k < codebook.rows; ++k) scale[k] = inverse_length(codebook.data + k * codebook.stride);
    const std::vector<double> middle = snapped_mean(codebook, scale);
    // A vector taken from all unit codes changes all scores of a row alike, so x itself need not be centred.
    if (!cosine) std::copy(middle.begin(), middle.end(), centre.begin());
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
      biases[k] = k >= codebook.rows ? -kInfinity<T> : cosine ? T(0) : -square / 2;
    }
  }

  double inverse_length(const T* code) const {
    double square = 0;
    for (int64_t d = 0; d < dim; ++d) square += double(code[d]) * code[d];
    return square > 0 ? 1 / std::sqrt(square) : 0;
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
  std::vector<T> centre;  // (D)
  Scratch<T> codes, bias;
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
  const int64_t dim = x.dim, bytes = dim * sizeof(A);
  // Small enough for the cache and for every thread to get some, but whole tiles.
  const int64_t fair = (x.rows + 4 * threads - 1) / (4 * threads);
  const int64_t block = up(std::max<int64_t>(1, std::min(kRowBlock / bytes, fair)), kRows);
  const int64_t together = std::max<int64_t>(1, kCodeBlock / (bytes * kCodes));
  Scratch<A> packed(threads * block * dim), best(threads * block);
  Scratch<Index> index(threads * block);
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

// ---------------------------------------------------------------------------------------------- quantized rows

namespace {

constexpr int64_t kRowsSummed = 256;  // squares of so many rows make one partial sum, for any number of threads

template <class T>
bool finite_row(const T* row, int64_t dim) {
  Arithmetic<T> zero = 0;  // stays so unless a value is not finite
  for (int64_t d = 0; d < dim; ++d) zero += widen(row[d]) * 0;
  return zero == 0;
}

}  // namespace

template <class T>
void quantize_rows(const Rows<T>& x, const Arithmetic<T>* codebook, const int64_t* codes, int threads, T* quantized,
                   double* squares, int64_t* finite) {
  using A = Arithmetic<T>;
  const int64_t dim = x.dim, blocks = up(x.rows, kRowsSummed) / kRowsSummed;
  std::vector<double> partial(blocks);
  std::vector<int64_t> counted(blocks);
#pragma omp parallel for num_threads(threads)
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t n = b * kRowsSummed; n < std::min(x.rows, (b + 1) * kRowsSummed); ++n) {
      const T* row = x.data + n * x.stride;
      T* out = quantized + n * dim;
      if (codes[n] < 0) {
        std::fill(out, out + dim, round_to<T>(kNaN<A>));
        continue;
      }
      const A* code = codebook + codes[n] * dim;
      A square = 0;
#pragma omp simd reduction(+ : square)
      for (int64_t d = 0; d < dim; ++d) {
        out[d] = round_to<T>(code[d]);
        const A away = widen(row[d]) - widen(out[d]);
        square += away * away;
      }
      if (!is_finite(square) && !finite_row(row, dim)) continue;
      partial[b] += square;
      ++counted[b];
    }
  }
  *squares = 0, *finite = 0;
  for (int64_t b = 0; b < blocks; ++b) *squares += partial[b], *finite += counted[b];
}

// The rotation R of e = x/|x| onto q = quantized/|quantized| is I - 2 w w' + 2 q e', with w the unit vector of e + q;
// the gradient is scale R' grad.
template <class T>
void quantize_rows_backward(const T* grad, const Rows<T>& x, const T* quantized, bool rotate, Arithmetic<T> pull,
                            int threads, T* dx) {
  using A = Arithmetic<T>;
  const int64_t dim = x.dim;
#pragma omp parallel for num_threads(threads)
  for (int64_t n = 0; n < x.rows; ++n) {
    const T *row = x.data + n * x.stride, *code = quantized + n * dim, *g = grad + n * dim;
    T* out = dx + n * dim;
    if (!finite_row(row, dim)) {
      std::fill(out, out + dim, round_to<T>(A(0)));
      continue;
    }
    A scale = 1, along_e = 0, along_q = 0;  // dx = scale g + along_e e + along_q q + pull (x - q)
    if (rotate) {
      A ee = 0, qq = 0, eg = 0, qg = 0, ww = 0;
#pragma omp simd reduction(+ : ee, qq, eg, qg)
      for (int64_t d = 0; d < dim; ++d) {
        const A e = widen(row[d]), q = widen(code[d]), gradient = widen(g[d]);
        ee += e * e, qq += q * q, eg += e * gradient, qg += q * gradient;
      }
      const A e_length = std::sqrt(ee), q_length = std::sqrt(qq);
      if (e_length > 0) {
        const A to_e = 1 / e_length, to_q = q_length > 0 ? 1 / q_length : 0;
#pragma omp simd reduction(+ : ww)
        for (int64_t d = 0; d < dim; ++d) {
          const A sum = widen(row[d]) * to_e + widen(code[d]) * to_q;
          ww += sum * sum;
        }
        scale = q_length * to_e;
        const A mirrored = ww > 0 ? 2 * (eg * to_e + qg * to_q) / ww : 0;
        along_e = scale * (2 * qg * to_q - mirrored) * to_e;
        along_q = -scale * mirrored * to_q;
      }
    }
    along_e += pull, along_q -= pull;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d)
      out[d] = round_to<T>(scale * widen(g[d]) + along_e * widen(row[d]) + along_q * widen(code[d]));
  }
}

// -------------------------------------------------------------------------------------------------- statistics
//
// Rows are listed code by code (a counting sort), and each code's rows are summed by one thread in their order: no
// atomic additions, the same bits for any number of threads.

template <class T>
void code_statistics(const Rows<T>& x, const int64_t* codes, int64_t size, int threads, Arithmetic<T>* counts,
                     Arithmetic<T>* sums) {
  std::vector<uint8_t> used(x.rows);
#pragma omp parallel for num_threads(threads)
  for (int64_t n = 0; n < x.rows; ++n) {
    used[n] = codes[n] >= 0 && codes[n] < size && finite_row(x.data + n * x.stride, x.dim);
  }
  std::vector<int64_t> end(size + 1, 0), order(x.rows);
  for (int64_t n = 0; n < x.rows; ++n)
    if (used[n]) ++end[codes[n] + 1];
  for (int64_t k = 0; k < size; ++k) end[k + 1] += end[k];
  std::vector<int64_t> next(end.begin(), end.end() - 1);
  for (int64_t n = 0; n < x.rows; ++n)
    if (used[n]) order[next[codes[n]]++] = n;

  std::vector<double> totals(threads * x.dim);
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads)
  for (int64_t k = 0; k < size; ++k) {
    double* total = totals.data() + omp_get_thread_num() * x.dim;
    std::fill(total, total + x.dim, 0.0);
    for (int64_t i = end[k]; i < end[k + 1]; ++i) {
      const T* row = x.data + order[i] * x.stride;
      for (int64_t d = 0; d < x.dim; ++d) total[d] += widen(row[d]);
    }
    counts[k] = Arithmetic<T>(end[k + 1] - end[k]);
    for (int64_t d = 0; d < x.dim; ++d) sums[k * x.dim + d] = Arithmetic<T>(total[d]);
  }
}

// ---------------------------------------------------------------------------------------------- finite scalars

namespace {

constexpr int64_t kRowsTogether = 64;  // their constants stay in the L1 cache

// Constants of every value of kRowsTogether rows, so that one loop over values has no division by D.
template <class A>
struct Scalars {
  Scalars(const int64_t* levels, int64_t dim, Form form) : shift(kRowsTogether * dim), half(shift), offset(shift),
        lowest(shift), unit(shift), place(dim) {
    int64_t before = 1;
    for (int64_t d = 0; d < dim; before *= levels[d++]) {
      place[d] = before;
      const double reach = form == Form::kTanh ? (levels[d] - 1) * (1 - 1e-3) / 2 : levels[d] - 1;
      const double even = form == Form::kTanh && levels[d] % 2 == 0 ? 0.5 : 0;
      for (int64_t r = 0; r < kRowsTogether; ++r) {
        half[r * dim + d] = A(reach);
        offset[r * dim + d] = A(even);
        shift[r * dim + d] = A(std::tan(even / reach));
        lowest[r * dim + d] = form == Form::kTanh ? -A(levels[d] / 2) : A(0);
        unit[r * dim + d] = form == Form::kTanh ? A(levels[d] / 2) : A(levels[d] - 1);
      }
    }
  }
  std::vector<A> shift, half, offset, lowest, unit;  // (kRowsTogether, D)
  std::vector<int64_t> place;                        // (D)
};

template <class A>
inline A hyperbolic_tangent(A x) {
  const A positive = 1 - 2 / (1 + exponential(2 * std::fabs(x)));
  return std::copysign(positive, x);
}

template <class A>
inline A sigmoid(A x) {
  return 1 / (1 + exponential(-x));
}

}  // namespace

template <class T>
void finite_scalar_quantize(const T* z, int64_t rows, const int64_t* levels, int64_t dim, Form form, int threads,
                            T* quantized, int64_t* codes) {
  using A = Arithmetic<T>;
  const Scalars<A> s(levels, dim, form);
  std::vector<A> all(threads * kRowsTogether * dim);
  const A *shift = s.shift.data(), *half = s.half.data(), *offset = s.offset.data(), *lowest = s.lowest.data(),
          *unit = s.unit.data();
#pragma omp parallel for num_threads(threads)
  for (int64_t start = 0; start < rows; start += kRowsTogether) {
    A* level = all.data() + omp_get_thread_num() * kRowsTogether * dim;
    const int64_t count = std::min(kRowsTogether, rows - start);
    const T* in = z + start * dim;
    T* out = quantized + start * dim;
    if (form == Form::kTanh) {
#pragma omp simd
      for (int64_t i = 0; i < count * dim; ++i) {
        const A rounded = std::nearbyint(hyperbolic_tangent(A(widen(in[i])) + shift[i]) * half[i] - offset[i]);
        level[i] = rounded - lowest[i];
        out[i] = round_to<T>(rounded / unit[i]);
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count * dim; ++i) {
        level[i] = std::nearbyint(sigmoid(A(widen(in[i]))) * half[i]);
        out[i] = round_to<T>(level[i] / unit[i]);
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      int64_t code = 0;
      bool missing = false;
      for (int64_t d = 0; d < dim; ++d) {
        const A value = level[r * dim + d];
        missing |= is_nan(value);
        code += missing ? 0 : int64_t(int32_t(value)) * s.place[d];
      }
      codes[start + r] = missing ? -1 : code;
      if (missing) std::fill(out + r * dim, out + (r + 1) * dim, round_to<T>(kNaN<A>));
    }
  }
}

template <class T>
void finite_scalar_quantize_backward(const T* grad, const T* z, int64_t rows, const int64_t* levels, int64_t dim,
                                     Form form, int threads, T* dz) {
  using A = Arithmetic<T>;
  const Scalars<A> s(levels, dim, form);
  const A *shift = s.shift.data(), *half = s.half.data(), *unit = s.unit.data();
#pragma omp parallel for num_threads(threads)
  for (int64_t start = 0; start < rows; start += kRowsTogether) {
    const int64_t count = std::min(kRowsTogether, rows - start);
    const T *in = z + start * dim, *g = grad + start * dim;
    T* out = dz + start * dim;
#pragma omp simd
    for (int64_t i = 0; i < count * dim; ++i) {
      const A value = widen(in[i]);
      const A t = hyperbolic_tangent(value + shift[i]), p = sigmoid(value);
      const A slope = form == Form::kTanh ? (1 - t * t) * half[i] / unit[i] : p * (1 - p);
      out[i] = round_to<T>(slope == 0 ? A(0) : A(widen(g[i])) * slope);
    }
    for (int64_t r = 0; r < count; ++r) {
      bool missing = false;
      for (int64_t d = 0; d < dim; ++d) missing |= is_nan(widen(in[r * dim + d]));
      if (missing) std::fill(out + r * dim, out + (r + 1) * dim, round_to<T>(A(0)));
    }
  }
}

// -------------------------------------------------------------------------------------------------------- bins

namespace {

constexpr int64_t kValuesTogether = 512;

// How far the inner edges, in steps, are from equally spaced ones.
template <class E>
double unevenness(const E* edges, int64_t bins, double step) {
  double worst = 0;
  for (int64_t e = 1; e < bins; ++e)
    worst = std::max(worst, std::fabs(double(edges[e]) - (double(edges[1]) + (e - 1) * step)) / step);
  return worst;
}

// Equal bins: the nearest edge by arithmetic, then the side of it the value is on, exactly.
template <class T, class E>
struct Equal {
  const E* edges;
  E first, inverse, last;
  void operator()(const T* values, int64_t count, int32_t* codes) const {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const E value = widen(values[i]);
      E edge = std::nearbyint((value - first) * inverse);
      edge = edge > 0 ? edge : E(0);  // NaN, too
      edge = edge < last ? edge : last;
      const int32_t number = int32_t(edge);
      const int32_t code = number + (value >= edges[number + 1] ? 1 : 0);
      codes[i] = is_nan(value) ? -1 : code;
    }
  }
};

// Any bins: how many inner edges are not above the value, by halving, for many values in step and without a branch.
template <class T, class E>
struct Search {
  const E* padded;  // the inner edges, and NaN, which is above everything, up to a power of two
  int64_t size;
  void operator()(const T* values, int64_t count, int32_t* codes) const {
    std::fill(codes, codes + count, 0);
    for (int32_t half = int32_t(size / 2); half > 0; half /= 2) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i)
        codes[i] += E(widen(values[i])) >= padded[codes[i] + half - 1] ? half : 0;
    }
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) codes[i] = is_nan(E(widen(values[i]))) ? -1 : codes[i];
  }
};

template <class T, class Find>
void encode_all(const T* values, int64_t count, int threads, int64_t* codes, const Find& find) {
#pragma omp parallel for num_threads(threads)
  for (int64_t start = 0; start < count; start += kValuesTogether) {
    int32_t found[kValuesTogether];
    const int64_t some = std::min(kValuesTogether, count - start);
    find(values + start, some, found);
    std::copy(found, found + some, codes + start);
  }
}

}  // namespace

template <class T, class E>
void bin_encode(const T* values, int64_t count, const E* edges, int64_t bins, int threads, int64_t* codes) {
  const double step = bins > 2 ? (double(edges[bins - 1]) - double(edges[1])) / (bins - 2) : 0;
  // Half a step would do; what (value - first) / step loses by rounding is far less for bins below this.
  const bool equal = step > 0 && bins < int64_t(0.1 / std::numeric_limits<E>::epsilon()) &&
                     E(1 / step) < kInfinity<E> && unevenness(edges, bins, step) < 0.25;
  if (equal) return encode_all(values, count, threads, codes, Equal<T, E>{edges, edges[1], E(1 / step), E(bins - 2)});
  int64_t size = 1;
  while (size < bins) size *= 2;
  std::vector<E> padded(size, kNaN<E>);
  std::copy(edges + 1, edges + bins, padded.begin());
  encode_all(values, count, threads, codes, Search<T, E>{padded.data(), size});
}

template <class T>
void bin_decode(const int64_t* codes, int64_t count, const T* centres, int64_t bins, int64_t dim, int threads, T* values,
                int64_t* range) {
  int64_t low = 0, high = -1;
#pragma omp parallel for num_threads(threads) reduction(min : low) reduction(max : high)
  for (int64_t i = 0; i < count; ++i) {
    const int64_t code = codes[i];
    low = code < low ? code : low;
    high = code > high ? code : high;
    const bool known = code >= 0 && code < bins;
    const T* centre = centres + (known ? code : 0) * dim;
    for (int64_t d = 0; d < dim; ++d) values[i * dim + d] = known ? centre[d] : kNaN<T>;
  }
  range[0] = low, range[1] = high;
}

// -------------------------------------------------------------------------------------------------- instances

#define FUSION_INSTANCES(T)                                                                                         \
  template void nearest_code<T>(const Rows<T>&, const Rows<Arithmetic<T>>&, Metric, int, int64_t*);                 \
  template void quantize_rows<T>(const Rows<T>&, const Arithmetic<T>*, const int64_t*, int, T*, double*, int64_t*);  \
  template void quantize_rows_backward<T>(const T*, const Rows<T>&, const T*, bool, Arithmetic<T>, int, T*);        \
  template void code_statistics<T>(const Rows<T>&, const int64_t*, int64_t, int, Arithmetic<T>*, Arithmetic<T>*);   \
  template void finite_scalar_quantize<T>(const T*, int64_t, const int64_t*, int64_t, Form, int, T*, int64_t*);     \
  template void finite_scalar_quantize_backward<T>(const T*, const T*, int64_t, const int64_t*, int64_t, Form, int, \
                                                   T*);
FUSION_INSTANCES(float)
FUSION_INSTANCES(double)
FUSION_INSTANCES(bfloat16)
#undef FUSION_INSTANCES

template void bin_encode<float, float>(const float*, int64_t, const float*, int64_t, int, int64_t*);
template void bin_encode<double, double>(const double*, int64_t, const double*, int64_t, int, int64_t*);
template void bin_encode<float, double>(const float*, int64_t, const double*, int64_t, int, int64_t*);
template void bin_encode<bfloat16, float>(const bfloat16*, int64_t, const float*, int64_t, int, int64_t*);
template void bin_decode<float>(const int64_t*, int64_t, const float*, int64_t, int64_t, int, float*, int64_t*);
template void bin_decode<double>(const int64_t*, int64_t, const double*, int64_t, int64_t, int, double*, int64_t*);

}  // namespace fusion::quantize
