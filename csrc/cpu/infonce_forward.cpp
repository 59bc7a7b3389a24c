// Patch InfoNCE, forward: log-sum-exps over the negatives tile by tile, then the positives row by row.

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "infonce_work.h"
#include "vector_math.h"

namespace fusion::infonce {
namespace {

constexpr double kTie = 1e-5;  // as in kernels/infonce/reference.py

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
  if (std::isnan(a) || std::isnan(b)) return a + b;
  const double top = std::max(a, b);
  return top == -kInfinity<double> ? top : top + std::log1p(std::exp(std::min(a, b) - top));
}

template <class A>
struct ForwardScratch {
  Buffer<A> s;                         // (tile, tile)
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
      return ForwardScratch<A>{Buffer<A>(tile * tile), std::vector<A>(tile), std::vector<A>(tile),
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
      }
      // -inf: the tile has no negative for the row, or one that is not a number, which its sum will show.
      const A row_shift = this->fixed ? this->scale : top == -kInfinity<A> ? A(0) : top;
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
    bool anchor = false;  // a token that has positives, whatever they hold
    tokens.each_positive(work.ids[r], 0, tokens.n, [&](int j) {
      const A s = work.scale * tokens.dot(work.ids[r], j);
      y.add(s, 1);
      best = std::max(best, s);
      anchor = true;
    });
    if (!anchor) continue;
    const double negatives = work.z[r].log(), positives = y.log();
    const int64_t place = work.places[r];
    // log Z - log Y would be lost in rounding where the positives outweigh the rest.
    loss[place] = A(log_add(negatives - positives, 0));
    log_z[place] = A(log_add(negatives, positives));
    log_y[place] = A(positives);
    if (hit) {
      const A rival = work.rival[r];
      const bool ahead = rival == -kInfinity<A> || best - rival > A(kTie) * std::max(std::abs(best), std::abs(rival));
      hit[place] = ahead && !std::isnan(negatives) && !std::isnan(positives);
    }
  }
}

}  // namespace

template <class T, class A>
void forward(const Problem<T>& problem, A* loss, A* log_z, A* log_y, A* inverse, bool* hit) {
  const auto p = with_useful_threads(problem);
  if constexpr (std::is_same_v<T, bfloat16>)
    if (!multiplies_bfloat16()) return run_forward<T, float, A>(p, loss, log_z, log_y, inverse, hit);
  run_forward<T, T, A>(p, loss, log_z, log_y, inverse, hit);
}

template void forward(const Problem<float>&, float*, float*, float*, float*, bool*);
template void forward(const Problem<double>&, double*, double*, double*, double*, bool*);
template void forward(const Problem<bfloat16>&, float*, float*, float*, float*, bool*);

}  // namespace fusion::infonce
