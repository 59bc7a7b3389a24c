// Values replaced by levels and bins: no codebook, no search among vectors.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quantize_common.h"
#include "vector_math.h"

namespace fusion::quantize {

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
void bin_decode(const int64_t* codes, int64_t count, const T* centres, int64_t bins, int64_t dim, int threads,
                T* values, int64_t* range) {
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
