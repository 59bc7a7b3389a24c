#include "infonce.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include "infonce_tokens.h"
#include "tournament.h"
#include "vector_math.h"

namespace fusion::infonce {
namespace {

constexpr double kTie = 1e-5;  // as in kernels/infonce/reference.py
// Up to this scale e^(s - scale) of cosines lies between e^-64 and 1: one shift for all rows, and no running maximum.
constexpr double kSafeScale = 32;
// Multiplications that pay for waking one more thread.
constexpr double kWorkPerThread = 4e6;

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

// What forward and backward share: the rows wanted and one tile of similarities.
template <class T, class C, class A>
struct Work {
  const Problem<T>& problem;
  Tokens<T, C, A> tokens;
  std::vector<int> ids;         // (rows,) packed token of each row
  std::vector<int64_t> places;  // (rows,) where each row stands in the output
  std::unique_ptr<C[]> gathered;
  const C* row_f;  // (rows, D)
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
      gathered = uninitialised<C>(int64_t(ids.size()) * dim);
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

// Sums of exponentials relative to a running maximum; with a fixed shift the maximum never moves.
template <class A>
struct RunningSum {
  A maximum;
  double sum = 0;

  void add(A other_maximum, double other_sum) {
    if (other_sum == 0) return;
    if (other_maximum == maximum) {
      sum += other_sum;
      return;
    }
    const A top = std::max(maximum, other_maximum);
    sum = sum * std::exp(double(maximum - top)) + other_sum * std::exp(double(other_maximum - top));
    maximum = top;
  }
  double log() const { return sum == 0 ? -kInfinity<double> : maximum + std::log(sum); }
};

double log_add(double a, double b) {
  const double top = std::max(a, b);
  return top == -kInfinity<double> ? top : top + std::log1p(std::exp(std::min(a, b) - top));
}

template <class A>
struct ForwardScratch {
  std::unique_ptr<A[]> s;               // (tile, tile)
  std::vector<A> maximum, shift, sum;  // (tile,) of the columns
};

template <class T, class C, class A>
struct Forward : Work<T, C, A> {
  std::vector<RunningSum<A>> z;  // (rows,) over negatives
  std::vector<A> rival;          // (rows,) most similar negative; only if asked for

  Forward(const Problem<T>& p, bool accuracy)
      : Work<T, C, A>(p),
        z(this->ids.size(), {this->fixed ? this->scale : -kInfinity<A>}),
        rival(accuracy ? this->ids.size() : 0, -kInfinity<A>) {
    const int tile = this->tiling.tile;
    auto make = [tile] {
      return ForwardScratch<A>{uninitialised<A>(tile * tile), std::vector<A>(tile), std::vector<A>(tile),
                               std::vector<A>(tile)};
    };
    this->tiling.each(p.threads, make, [this](ForwardScratch<A>& scratch, int i, int j) { tile_sums(scratch, i, j); });
  }

  void tile_sums(ForwardScratch<A>& scratch, int i, int j) {
    if (this->excluded(i, j)) return;
    const Tiling& t = this->tiling;
    this->similarities(i, j, scratch.s.get());
    const int r0 = t.begin(i), r1 = t.row_end(i), c0 = t.begin(j), width = t.column_end(j) - c0;
    const bool mirrored = this->mirrored(i, j), maxima = !this->fixed || !rival.empty();
    A *maximum = scratch.maximum.data(), *shift = scratch.shift.data(), *sum = scratch.sum.data();
    std::fill_n(maximum, width, -kInfinity<A>);
    std::fill_n(sum, width, A(0));
    if (maxima && mirrored)
      for (int r = r0; r < r1; ++r) {
        const A* s = scratch.s.get() + (r - r0) * t.tile;
        for (int c = 0; c < width; ++c) maximum[c] = s[c] > maximum[c] ? s[c] : maximum[c];
      }
    for (int c = 0; c < width; ++c) shift[c] = maximum[c] == -kInfinity<A> ? A(0) : maximum[c];

    for (int r = r0; r < r1; ++r) {
      const A* s = scratch.s.get() + (r - r0) * t.tile;
      A top = -kInfinity<A>, total = 0;
      if (maxima) {
#pragma omp simd reduction(max : top)
        for (int c = 0; c < width; ++c) top = s[c] > top ? s[c] : top;
        if (!rival.empty()) rival[r] = std::max(rival[r], top);
        if (top == -kInfinity<A>) continue;  // nothing for the columns either
      }
      const A row_shift = this->fixed ? this->scale : top;
      if (this->fixed && mirrored) {
#pragma omp simd reduction(+ : total)
        for (int c = 0; c < width; ++c) {
          const A e = exponential(s[c] - row_shift);
          total += e;
          sum[c] += e;
        }
      } else {
#pragma omp simd reduction(+ : total)
        for (int c = 0; c < width; ++c) total += exponential(s[c] - row_shift);
        if (mirrored)
          for (int c = 0; c < width; ++c) sum[c] += exponential(s[c] - shift[c]);
      }
      z[r].add(row_shift, total);
    }
    if (!mirrored) return;
    for (int c = 0; c < width; ++c) {
      z[c0 + c].add(this->fixed ? this->scale : shift[c], sum[c]);
      if (!rival.empty()) rival[c0 + c] = std::max(rival[c0 + c], maximum[c]);
    }
  }
};

template <class T, class C, class A>
void run_forward(const Problem<T>& p, A* loss, A* log_z, A* log_y, A* inverse, bool* hit) {
  std::fill_n(loss, p.rows, A(0));
  std::fill_n(log_z, p.rows, kInfinity<A>);
  std::fill_n(log_y, p.rows, kInfinity<A>);
  std::fill_n(inverse, p.tokens_count, A(0));
  if (hit) std::fill_n(hit, p.rows, false);

  const Forward<T, C, A> work(p, hit != nullptr);
  const auto& tokens = work.tokens;
  for (int i = 0; i < tokens.n; ++i) inverse[tokens.source[i]] = tokens.inverse[i];
#pragma omp parallel for num_threads(p.threads) schedule(static)
  for (int r = 0; r < int(work.ids.size()); ++r) {
    RunningSum<A> y{-kInfinity<A>};
    A best = -kInfinity<A>;
    tokens.each_positive(work.ids[r], 0, tokens.n, [&](int j) {
      const A s = work.scale * tokens.dot(work.ids[r], j);
      y.add(s, 1);
      best = std::max(best, s);
    });
    if (best == -kInfinity<A>) continue;
    const double negatives = work.z[r].log(), positives = y.log();
    const int64_t place = work.places[r];
    // log Z - log Y would be lost in rounding where the positives outweigh the rest.
    loss[place] = A(log_add(negatives - positives, 0));
    log_z[place] = A(log_add(negatives, positives));
    log_y[place] = A(positives);
    if (hit) {
      const A rival = work.rival[r];
      hit[place] = rival == -kInfinity<A> || best - rival > A(kTie) * std::max(std::abs(best), std::abs(rival));
    }
  }
}

template <class C, class A>
struct BackwardScratch {
  std::unique_ptr<A[]> s;  // (tile, tile) similarities, then W
  std::unique_ptr<C[]> w;  // (tile, tile) W as an operand, where operands are narrower
};

template <class T, class C, class A>
struct Backward : Work<T, C, A> {
  std::vector<A> grad, log_z, log_y;  // (n,) of the packed tokens
  std::vector<A> weight;              // (n,) grad e^(scale - log_z), with a fixed shift
  std::unique_ptr<A[]> d_f;           // (rows, D) over 1 / scale, without the positives' share

  Backward(const Problem<T>& p, const A* all_grad, const A* all_log_z, const A* all_log_y) : Work<T, C, A>(p) {
    for (int source : this->tokens.source) {
      grad.push_back(all_grad[source]), log_z.push_back(all_log_z[source]), log_y.push_back(all_log_y[source]);
      weight.push_back(A(grad.back() * std::exp(double(this->scale) - log_z.back())));
    }
    const int64_t size = int64_t(this->ids.size()) * this->tokens.dim;
    d_f = uninitialised<A>(size);
    std::fill_n(d_f.get(), size, A(0));
    const int tile = this->tiling.tile;
    auto make = [tile] {
      return BackwardScratch<C, A>{uninitialised<A>(tile * tile),
                                   uninitialised<C>(std::is_same_v<C, A> ? 0 : tile * tile)};
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

template <class T>
Problem<T> with_useful_threads(Problem<T> p) {
  const double work = double(p.rows) * p.tokens_count * p.dim;
  p.threads = int(std::clamp(work / kWorkPerThread, 1.0, double(p.threads)));
  return p;
}

}  // namespace

template <class T, class A>
void forward(const Problem<T>& problem, A* loss, A* log_z, A* log_y, A* inverse, bool* hit) {
  const auto p = with_useful_threads(problem);
  if constexpr (std::is_same_v<T, bfloat16>)
    if (!multiplies_bfloat16()) return run_forward<T, float, A>(p, loss, log_z, log_y, inverse, hit);
  run_forward<T, T, A>(p, loss, log_z, log_y, inverse, hit);
}

template <class T, class A>
void backward(const Problem<T>& problem, const A* grad, const A* log_z, const A* log_y, T* d_tokens,
              double* d_temperature) {
  const auto p = with_useful_threads(problem);
  if constexpr (std::is_same_v<T, bfloat16>)
    if (!multiplies_bfloat16()) return run_backward<T, float, A>(p, grad, log_z, log_y, d_tokens, d_temperature);
  run_backward<T, T, A>(p, grad, log_z, log_y, d_tokens, d_temperature);
}

template void forward(const Problem<float>&, float*, float*, float*, float*, bool*);
template void forward(const Problem<double>&, double*, double*, double*, double*, bool*);
template void forward(const Problem<bfloat16>&, float*, float*, float*, float*, bool*);
template void backward(const Problem<float>&, const float*, const float*, const float*, float*, double*);
template void backward(const Problem<double>&, const double*, const double*, const double*, double*, double*);
template void backward(const Problem<bfloat16>&, const float*, const float*, const float*, bfloat16*, double*);

}  // namespace fusion::infonce
