// Quantization on raw pointers, without torch: shared by the torch operators and the NumPy module.
//
// N rows of D values, K codes; T is the type of the values, Arithmetic<T> the type computed in. Results do not
// depend on `threads`.
#pragma once

#include <cstdint>

#include "common.h"

namespace fusion::quantize {

// Rows of equal length whose elements are contiguous.
template <class T>
struct Rows {
  const T* data;   // (rows, dim)
  int64_t rows, dim;
  int64_t stride;  // elements from one row to the next
};

enum class Metric { kL2, kCosine };
enum class Form { kTanh, kSigmoid };

// argmax_k (x - centre).c_k + bias_k: 2 N K D operations. Reads N D values, and K D for every block of rows.
// codes (N): index of the nearest of the K rows of codebook, the lowest on ties, -1 for rows with a NaN and
// where a code is not finite. T: float, double, bfloat16.
template <class T>
void nearest_code(const Rows<T>& x, const Rows<Arithmetic<T>>& codebook, Metric metric, int threads, int64_t* codes);

// codebook[codes]: 2 N D + N read, N D written.
// quantized (N, D): the rows' codes, NaN where the code is -1. Of the finite rows: their number, and the sum of squares
// of x - quantized. T: float, double, bfloat16.
template <class T>
void quantize_rows(const Rows<T>& x, const Arithmetic<T>* codebook, const int64_t* codes, int threads, T* quantized,
                   double* squares, int64_t* finite);

// 3 N D read, N D written.
// dx (N, D) = grad, turned and scaled with the rotation of x onto quantized if `rotate`, plus pull (x - quantized); 0
// for rows that are not finite.
template <class T>
void quantize_rows_backward(const T* grad, const Rows<T>& x, const T* quantized, bool rotate, Arithmetic<T> pull,
                            int threads, T* dx);

// N D values read twice, once row by row and once code by code, O(N + K) integers of work space.
// counts (K) and sums (K, D) of the finite rows whose code is in 0..K-1. T: float, double, bfloat16.
template <class T>
void code_statistics(const Rows<T>& x, const int64_t* codes, int64_t size, int threads, Arithmetic<T>* counts,
                     Arithmetic<T>* sums);

// round(squash(z + shift) half - offset) / unit: N D read, N D + N written, one exponential a value.
// quantized (N, D) and codes (N) of contiguous z (N, D). T: float, double, bfloat16.
template <class T>
void finite_scalar_quantize(const T* z, int64_t rows, const int64_t* levels, int64_t dim, Form form, int threads,
                            T* quantized, int64_t* codes);

// dz (N, D) = grad * d bound/dz / unit: 2 N D read, N D written, two exponentials a value.
template <class T>
void finite_scalar_quantize_backward(const T* grad, const T* z, int64_t rows, const int64_t* levels, int64_t dim,
                                     Form form, int threads, T* dz);

// N read, N written; a multiplication and two comparisons a value where edges are equally spaced, else log2 K steps.
// codes (count): bin of each value; edges (bins + 1) increase. T, E: float float, double double, float double,
// bfloat16 float.
template <class T, class E>
void bin_encode(const T* values, int64_t count, const E* edges, int64_t bins, int threads, int64_t* codes);

// centres[codes]: N codes and N D values read, N D written.
// values (count, dim): rows of centres (bins, dim), NaN where the code is not in 0..bins-1. Lowest and highest code (0
// and -1 of nothing) go to range (2). T: float, double.
template <class T>
void bin_decode(const int64_t* codes, int64_t count, const T* centres, int64_t bins, int64_t dim, int threads,
                T* values, int64_t* range);

}  // namespace fusion::quantize
