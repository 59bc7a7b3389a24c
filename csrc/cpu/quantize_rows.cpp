// Rows replaced by their codes, with the gradient, and the statistics that codes learn from.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quantize_common.h"

namespace fusion::quantize {
namespace {

constexpr int64_t kRowsSummed = 256;  // squares of so many rows make one partial sum, for any number of threads

}  // namespace

template <class T>
void quantize_rows(const Rows<T>& x, const Arithmetic<T>* codebook, const int64_t* codes, int threads, T* quantized,
                   double* squares, int64_t* finite) {
  using A = Arithmetic<T>;
  const int64_t dim = x.dim, blocks = round_up(x.rows, kRowsSummed) / kRowsSummed;
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
      if (!is_finite(square) && !is_finite(row, dim)) continue;
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
    if (!is_finite(row, dim)) {
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

// Rows are listed code by code (a counting sort), and each code's rows are summed by one thread in their order: no
// atomic additions, the same bits for any number of threads.

template <class T>
void code_statistics(const Rows<T>& x, const int64_t* codes, int64_t size, int threads, Arithmetic<T>* counts,
                     Arithmetic<T>* sums) {
  std::vector<uint8_t> used(x.rows);
#pragma omp parallel for num_threads(threads)
  for (int64_t n = 0; n < x.rows; ++n)
    used[n] = codes[n] >= 0 && codes[n] < size && is_finite(x.data + n * x.stride, x.dim);
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

#define FUSION_INSTANCES(T)                                                                                         \
  template void quantize_rows<T>(const Rows<T>&, const Arithmetic<T>*, const int64_t*, int, T*, double*, int64_t*);  \
  template void quantize_rows_backward<T>(const T*, const Rows<T>&, const T*, bool, Arithmetic<T>, int, T*);        \
  template void code_statistics<T>(const Rows<T>&, const int64_t*, int64_t, int, Arithmetic<T>*, Arithmetic<T>*);
FUSION_INSTANCES(float)
FUSION_INSTANCES(double)
FUSION_INSTANCES(bfloat16)
#undef FUSION_INSTANCES

}  // namespace fusion::quantize
