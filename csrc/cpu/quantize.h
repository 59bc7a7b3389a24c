// Quantization look-ups on raw pointers, without torch: shared by the torch operators and the NumPy module.
//
// N rows of D values, K codes; T is the type of the values, Arithmetic<T> the type computed in. Results do not
// depend on `threads`.
#pragma once

#include <cstdint>

#include "vector_math.h"

namespace fusion::quantize {

template <class T>
struct ArithmeticOf {
  using type = float;
};
template <>
struct ArithmeticOf<double> {
  using type = double;
};
template <class T>
using Arithmetic = typename ArithmeticOf<T>::type;

// Rows of equal length whose elements are contiguous.
template <class T>
struct Rows {
  const T* data;   // (rows, dim)
  int64_t rows, dim;
  int64_t stride;  // elements from one row to the next
};

enum class Metric { kL2, kCosine };
enum class Form { kTanh, kSigmoid };

// codes (N): index of the nearest of the K rows of codebook, the lowest on ties, -1 for rows with a NaN.
// T: float, double, bfloat16.
template <class T>
void nearest_code(const Rows<T>& x, const Rows<Arithmetic<T>>& codebook, Metric metric, int threads, int64_t* codes);

// quantized (N, D): the rows' codes, NaN where the code is -1. Of the finite rows: their number, and the sum of squares
// of x - quantized. T: float, double, bfloat16.
template <class T>
void quantize_rows(const Rows<T>& x, const Arithmetic<T>* codebook, const int64_t* codes, int threads, T* quantized,
                   double* squares, int64_t* finite);

// dx (N, D) = grad, turned and scaled with the rotation of x onto quantized if `rotate`, plus pull (x - quantized); 0
// for rows that are not finite.
template <class T>
void quantize_rows_backward(const T* grad, const Rows<T>& x, const T* quantized, bool rotate, Arithmetic<T> pull,
                            int threads, T* dx);

// counts (K) and sums (K, D) of the finite rows whose code is in 0..K-1. T: float, double, bfloat16.
template <class T>
void code_statistics(const Rows<T>& x, const int64_t* codes, int64_t size, int threads, Arithmetic<T>* counts,
                     Arithmetic<T>* sums);

// quantized (N, D) and codes (N) of contiguous z (N, D). T: float, double, bfloat16.
template <class T>
void finite_scalar_quantize(const T* z, int64_t rows, const int64_t* levels, int64_t dim, Form form, int threads,
                            T* quantized, int64_t* codes);

// dz (N, D) = grad * d bound/dz / unit.
template <class T>
void finite_scalar_quantize_backward(const T* grad, const T* z, int64_t rows, const int64_t* levels, int64_t dim,
                                     Form form, int threads, T* dz);

// codes (count): bin of each value; edges (bins + 1) increase. T, E: float float, double double, float double,
// bfloat16 float.
template <class T, class E>
void bin_encode(const T* values, int64_t count, const E* edges, int64_t bins, int threads, int64_t* codes);

// values (count, dim): rows of centres (bins, dim), NaN where the code is not in 0..bins-1. Lowest and highest code (0
// and -1 of nothing) go to range (2). T: float, double.
template <class T>
void bin_decode(const int64_t* codes, int64_t count, const T* centres, int64_t bins, int64_t dim, int threads, T* values,
                int64_t* range);

}  // namespace fusion::quantize
