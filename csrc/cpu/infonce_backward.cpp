// Patch InfoNCE, backward: W formed again tile by tile and multiplied with the directions, then the positives.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "infonce_work.h"
#include "vector_math.h"

namespace fusion::infonce {
namespace {

template <class C, class A>
struct BackwardScratch {
  Buffer<A> s;  // (tile, tile) similarities, then W
  Buffer<C> w;  // (tile, tile) W as an operand, where operands are narrower
};

template <class T, class C, class A>
struct Backward : Work<T, C, A> {
  std::vector<A> grad, log_z, log_y;  // (n,) of the packed tokens
  std::vector<A> weight;              // (n,) grad e^(scale - log_z), with a fixed shift
  Buffer<A> d_f;                      // (rows, D) over 1 / scale, without the positives' share

  Backward(const Problem<T>& p, const A* all_grad, const A* all_log_z, const A* all_log_y) : Work<T, C, A>(p) {
    for (int source : this->tokens.source) {
      grad.push_back(all_grad[source]), log_z.push_back(all_log_z[source]), log_y.push_back(all_log_y[source]);
      weight.push_back(A(grad.back() * std::exp(double(this->scale) - log_z.back())));
    }
    const int64_t size = int64_t(this->ids.size()) * this->tokens.dim;
    d_f = Buffer<A>(size);
    std::fill_n(d_f.get(), size, A(0));
    const int tile = this->tiling.tile;
    auto make = [tile] {
      return BackwardScratch<C, A>{Buffer<A>(tile * tile),
                                   Buffer<C>(std::is_same_v<C, A> ? 0 : tile * tile)};
    };
    this->tiling.each(p.threads, make,
                      [this](BackwardScratch<C, A>& scratch, int i, int j) { tile_gradients(scratch, i, j); });
  }

  void tile_gradients(BackwardScratch<C, A>& scratch, int i, int j) {
    if (this->excluded(i, j)) return;
    const Tiling& t = this->tiling;
    this->similarities(i, j, scratch.s.get());
    const int r0 = t.begin(i), height = t.row_end(i) - r0, c0 = t.begin(j), width = t.column_end(j) - c0;
    const A *column_weight = weight.data() + c0, *column_grad = grad.data() + c0, *column_log_z = log_z.data() + c0;
    for (int r = 0; r < height; ++r) {
      A* s = scratch.s.get() + r * t.tile;
      const int id = this->ids[r0 + r];
      if (this->fixed) {
        const A row_weight = weight[id], shift = this->scale;
        for (int c = 0; c < width; ++c) s[c] = exponential(s[c] - shift) * (row_weight + column_weight[c]);
      } else {
        const A row_grad = grad[id], row_log_z = log_z[id];
        for (int c = 0; c < width; ++c)
          s[c] = row_grad * exponential(s[c] - row_log_z) + column_grad[c] * exponential(s[c] - column_log_z[c]);
      }
    }
    const C* w;
    if constexpr (std::is_same_v<C, A>)
      w = scratch.s.get();
    else {
      for (int64_t k = 0; k < int64_t(height) * t.tile; ++k) scratch.w[k] = round_to<C>(scratch.s[k]);
      w = scratch.w.get();
    }
    const int64_t dim = this->tokens.dim;
    add_product_nn(height, int(dim), width, w, t.tile, this->tokens.f.get() + c0 * dim, d_f.get() + r0 * dim);
    if (this->mirrored(i, j))
      add_product_tn(width, int(dim), height, w, t.tile, this->row_f + r0 * dim, d_f.get() + c0 * dim);
  }

  // What token i's loss gives to W_ij for a positive j: e^s / Z - e^s / Y.
  double pull(int i, double s) const {
    if (log_z[i] == kInfinity<A>) return 0;
    return grad[i] * std::exp(s - log_y[i]) * std::expm1(double(log_y[i]) - log_z[i]);
  }
};

template <class T, class C, class A>
void run_backward(const Problem<T>& p, const A* grad, const A* log_z, const A* log_y, T* d_tokens,
                  double* d_temperature) {
  const Backward<T, C, A> work(p, grad, log_z, log_y);
  const auto& tokens = work.tokens;
  const int64_t dim = tokens.dim;
  if (int64_t(work.ids.size()) < p.rows) std::memset(d_tokens, 0, p.rows * dim * sizeof(T));
  std::vector<double> slope(work.ids.size());  // f . dL/df
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int r = 0; r < int(work.ids.size()); ++r) {
    const int id = work.ids[r];
    const C* f = &tokens.f[id * dim];
    A* d_f = &work.d_f[r * dim];
    tokens.each_positive(id, 0, tokens.n, [&](int j) {
      const double s = work.scale * tokens.dot(id, j);
      const A w = A(work.pull(id, s) + work.pull(j, s));
      for (int d = 0; d < dim; ++d) d_f[d] += w * widen(tokens.f[j * dim + d]);
    });
    A along = 0;
#pragma omp simd reduction(+ : along)
    for (int d = 0; d < dim; ++d) along += d_f[d] * widen(f[d]);
    slope[r] = double(work.scale) * along;
    const A scale = work.scale * tokens.inverse[id];
    const A radial = p.normalize ? along : A(0);
    T* out = d_tokens + work.places[r] * dim;
    for (int d = 0; d < dim; ++d) out[d] = round_to<T>(A(scale * (d_f[d] - radial * widen(f[d]))));
  }
  *d_temperature = -0.5 / p.temperature * std::accumulate(slope.begin(), slope.end(), 0.0);
}

}  // namespace

template <class T, class A>
void backward(const Problem<T>& problem, const A* grad, const A* log_z, const A* log_y, T* d_tokens,
              double* d_temperature) {
  const auto p = with_useful_threads(problem);
  if constexpr (std::is_same_v<T, bfloat16>)
    if (!multiplies_bfloat16()) return run_backward<T, float, A>(p, grad, log_z, log_y, d_tokens, d_temperature);
  run_backward<T, T, A>(p, grad, log_z, log_y, d_tokens, d_temperature);
}

template void backward(const Problem<float>&, const float*, const float*, const float*, float*, double*);
template void backward(const Problem<double>&, const double*, const double*, const double*, double*, double*);
template void backward(const Problem<bfloat16>&, const float*, const float*, const float*, bfloat16*, double*);

}  // namespace fusion::infonce
