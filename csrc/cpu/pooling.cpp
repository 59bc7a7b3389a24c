// Dates of a patch pooled by attention: everything of a patch is computed while its values are in the nearest cache.

#include "pooling.h"

#include <cmath>

#include "simd.h"

namespace fusion::pooling {
namespace {

using simd::Floats;
using simd::kLanes;

// The work space of a thread.
struct Space {
  explicit Space(const Sizes& s)
      : x(s.dates * s.dim),
        mean(s.dim),
        scale(s.dim),
        shift(s.dim),
        query(s.heads * s.dim),
        base(s.heads),
        scores(round_up(s.dates * s.heads, kLanes)),
        dates(s.dates) {}
  Buffer<float> x;                   // (n, D) of the n valid dates
  Buffer<float> mean, scale, shift;  // (D): the normalised value is x * scale + shift
  Buffer<float> query;               // (H, D) times scale
  Buffer<float> base;                // (H): query . shift
  Buffer<float> scores;              // (n, H), then what they become
  Buffer<int64_t> dates;             // (n)
};

// Calls step(d) for whole vectors and last(d) for what is left.
template <class Step, class Last>
FUSION_INLINE void along(int64_t dim, const Step& step, const Last& last) {
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) step(d);
  for (; d < dim; ++d) last(d);
}

FUSION_INLINE float dot(const float* a, const float* b, int64_t dim) {
  Floats sums{};
  float rest = 0;
  along(
      dim, [&](int64_t d) { sums += simd::load(a + d) * simd::load(b + d); }, [&](int64_t d) { rest += a[d] * b[d]; });
  return simd::sum(sums) + rest;
}

// products (kA, stride) = the dot products of kA rows of a and kB rows of b: each value is loaded once for all of them.
template <int kA, int kB>
FUSION_INLINE void dots(const float* a, const float* b, int64_t dim, float* products, int64_t stride) {
  Floats sums[kA][kB] = {};
  float rest[kA][kB] = {};
  along(
      dim,
      [&](int64_t d) {
        Floats right[kB];
        for (int j = 0; j < kB; ++j) right[j] = simd::load(b + j * dim + d);
        for (int i = 0; i < kA; ++i) {
          const Floats left = simd::load(a + i * dim + d);
          for (int j = 0; j < kB; ++j) sums[i][j] += left * right[j];
        }
      },
      [&](int64_t d) {
        for (int i = 0; i < kA; ++i)
          for (int j = 0; j < kB; ++j) rest[i][j] += a[i * dim + d] * b[j * dim + d];
      });
  for (int i = 0; i < kA; ++i)
    for (int j = 0; j < kB; ++j) products[i * stride + j] = simd::sum(sums[i][j]) + rest[i][j];
}

// products (n, m) of n rows of a and m rows of b.
void all_dots(const float* a, int64_t n, const float* b, int64_t m, int64_t dim, float* products) {
  constexpr int kBlock = 4;
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    int64_t j = 0;
    for (; j + kBlock <= m; j += kBlock) dots<kBlock, kBlock>(a + i * dim, b + j * dim, dim, products + i * m + j, m);
    for (; j < m; ++j) dots<kBlock, 1>(a + i * dim, b + j * dim, dim, products + i * m + j, m);
  }
  for (; i < n; ++i) {
    int64_t j = 0;
    for (; j + kBlock <= m; j += kBlock) dots<1, kBlock>(a + i * dim, b + j * dim, dim, products + i * m + j, m);
    for (; j < m; ++j) dots<1, 1>(a + i * dim, b + j * dim, dim, products + i * m + j, m);
  }
}

// y += a x
FUSION_INLINE void add(float a, const float* x, int64_t dim, float* y) {
  const Floats every = simd::splat(a);
  along(
      dim, [&](int64_t d) { simd::store(y + d, simd::load(y + d) + every * simd::load(x + d)); },
      [&](int64_t d) { y[d] += a * x[d]; });
}

template <class T>
void load(const T* values, const float* bias, int64_t dim, float* x) {
  if (bias) {
    for (int64_t d = 0; d < dim; ++d) {
      const float v = widen(values[d]) + bias[d];
      x[d] = v < 0.0f ? 0.0f : v;  // NaN stays NaN
    }
  } else {
    for (int64_t d = 0; d < dim; ++d) x[d] = widen(values[d]);
  }
}

// The mean over the channels of each group, for each of them.
void spread(const Sizes& s, int64_t count, float* sums) {
  const int64_t width = s.dim / s.groups;
  for (float* group = sums; group < sums + s.dim; group += width) {
    float sum = 0;
    for (int64_t d = 0; d < width; ++d) sum += group[d];
    std::fill(group, group + width, sum / static_cast<float>(count * width));
  }
}

// In two passes, deviations from the mean in the second.
void normalise(const Space& space, int64_t count, const Norm& norm, const Sizes& s) {
  float *mean = space.mean.get(), *scale = space.scale.get(), *shift = space.shift.get();
  std::fill(mean, mean + s.dim, 0.0f);
  for (int64_t n = 0; n < count; ++n) add(1.0f, space.x.get() + n * s.dim, s.dim, mean);
  spread(s, count, mean);
  std::fill(scale, scale + s.dim, 0.0f);
  for (int64_t n = 0; n < count; ++n) {
    const float* row = space.x.get() + n * s.dim;
    auto square = [&](int64_t d) { scale[d] += (row[d] - mean[d]) * (row[d] - mean[d]); };
    along(
        s.dim,
        [&](int64_t d) {
          const Floats away = simd::load(row + d) - simd::load(mean + d);
          simd::store(scale + d, simd::load(scale + d) + away * away);
        },
        square);
  }
  spread(s, count, scale);
  for (int64_t d = 0; d < s.dim; ++d) {
    scale[d] = norm.weight[d] / std::sqrt(scale[d] + norm.eps);
    shift[d] = norm.bias[d] - mean[d] * scale[d];
  }
}

// space.scores (n, H): the softmax over the n dates.
void attend(const Space& space, int64_t count, const float* offset, const Sizes& s) {
  float* scores = space.scores.get();
  all_dots(space.x.get(), count, space.query.get(), s.heads, s.dim, scores);
  for (int64_t n = 0; n < count; ++n) {
    const float* own = offset + space.dates[n] * s.heads;
    for (int64_t h = 0; h < s.heads; ++h) scores[n * s.heads + h] += space.base[h] + own[h];
  }
  for (int64_t h = 0; h < s.heads; ++h) {
    float largest = -kInfinity<float>;
    for (int64_t n = 0; n < count; ++n) largest = std::max(largest, scores[n * s.heads + h]);
    for (int64_t n = 0; n < count; ++n) scores[n * s.heads + h] = (scores[n * s.heads + h] - largest) * kLog2E;
  }
  for (int64_t i = 0; i < count * s.heads; i += kLanes)  // beyond the last one is what nobody reads
    simd::store(scores + i, simd::exp2(simd::load(scores + i)));
  for (int64_t h = 0; h < s.heads; ++h) {
    float sum = 0;
    for (int64_t n = 0; n < count; ++n) sum += scores[n * s.heads + h];
    for (int64_t n = 0; n < count; ++n) scores[n * s.heads + h] /= sum;
  }
}

// pooled (D): the sum over dates of attention (x scale + shift + positions), which is kept in registers.
void pool(const Space& space, int64_t count, const float* positions, const Sizes& s, float* pooled) {
  const int64_t width = s.dim / s.heads;
  for (int64_t h = 0; h < s.heads; ++h) {
    const int64_t first = h * width;
    const float* scores = space.scores.get() + h;
    float total = 0;
    for (int64_t n = 0; n < count; ++n) total += scores[n * s.heads];
    auto sum = [&](auto kind, int64_t d) {
      using V = decltype(kind);
      V values{}, codes{};
      for (int64_t n = 0; n < count; ++n) {
        const float a = scores[n * s.heads];
        values += a * simd::get<V>(space.x.get() + n * s.dim + first + d);
        codes += a * simd::get<V>(positions + space.dates[n] * width + d);
      }
      const V scale = simd::get<V>(space.scale.get() + first + d), shift = simd::get<V>(space.shift.get() + first + d);
      simd::put(pooled + first + d, values * scale + total * shift + codes);
    };
    along(width, [&](int64_t d) { sum(Floats(), d); }, [&](int64_t d) { sum(float(), d); });
  }
}

}  // namespace

template <class T>
void pool_dates(const T* values, const float* bias, const bool* valid, const Norm& norm, const float* query,
                const float* offset, const float* positions, const Sizes& s, int threads, float* pooled,
                float* attention) {
  const int64_t width = s.dim / s.heads;
#pragma omp parallel num_threads(threads)
  {
    const Space space(s);
    std::fill(space.scale.get(), space.scale.get() + s.dim, 1.0f);
    std::fill(space.shift.get(), space.shift.get() + s.dim, 0.0f);
    std::fill(space.base.get(), space.base.get() + s.heads, 0.0f);
    std::copy(query, query + s.heads * s.dim, space.query.get());
    std::fill(space.scores.get(), space.scores.get() + round_up(s.dates * s.heads, kLanes), 0.0f);
#pragma omp for
    for (int64_t k = 0; k < s.tiles * s.patches; ++k) {
      const int64_t tile = k / s.patches;
      float *out = pooled + k * s.dim, *weights = attention + k * s.dates * s.heads;
      std::fill(out, out + s.dim, 0.0f);
      std::fill(weights, weights + s.dates * s.heads, 0.0f);
      int64_t count = 0;
      for (int64_t l = 0; l < s.dates; ++l) {
        if (valid && !valid[tile * s.dates + l]) continue;
        load(values + (k * s.dates + l) * s.dim, bias, s.dim, space.x.get() + count * s.dim);
        space.dates[count++] = l;
      }
      if (!count) continue;
      if (norm.weight) {
        normalise(space, count, norm, s);
        for (int64_t h = 0; h < s.heads; ++h) {
          const float *own = query + h * s.dim, *scale = space.scale.get();
          float* scaled = space.query.get() + h * s.dim;
          for (int64_t d = 0; d < s.dim; ++d) scaled[d] = own[d] * scale[d];
          space.base[h] = dot(own, space.shift.get(), s.dim);
        }
      }
      attend(space, count, offset + tile * s.dates * s.heads, s);
      pool(space, count, positions + tile * s.dates * width, s, out);
      for (int64_t n = 0; n < count; ++n)
        std::copy_n(space.scores.get() + n * s.heads, s.heads, weights + space.dates[n] * s.heads);
    }
  }
}

template void pool_dates(const float*, const float*, const bool*, const Norm&, const float*, const float*, const float*,
                         const Sizes&, int, float*, float*);
template void pool_dates(const bfloat16*, const float*, const bool*, const Norm&, const float*, const float*,
                         const float*, const Sizes&, int, float*, float*);

}  // namespace fusion::pooling
