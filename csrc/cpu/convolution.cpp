// The transforms of convolution.h. The pixels of a tile are in registers, a vector of channels at a time.

#include "convolution.h"

#include <algorithm>

#include "simd.h"

namespace fusion::convolution {
namespace {

using simd::Floats;
using simd::kLanes;

// V: a vector of channels, or the one channel of what is left over.

// B' x, A' x, A x and B x of one line of pixels.
template <class V>
FUSION_INLINE void times_b(const V (&x)[4], V (&y)[4]) {
  y[0] = x[0] - x[2], y[1] = x[1] + x[2], y[2] = x[2] - x[1], y[3] = x[1] - x[3];
}
template <class V>
FUSION_INLINE void times_a(const V (&x)[4], V (&y)[2]) {
  y[0] = x[0] + x[1] + x[2], y[1] = x[1] - x[2] - x[3];
}
template <class V>
FUSION_INLINE void times_a_back(const V (&x)[2], V (&y)[4]) {
  y[0] = x[0], y[1] = x[0] + x[1], y[2] = x[0] - x[1], y[3] = -x[1];
}
template <class V>
FUSION_INLINE void times_b_back(const V (&x)[4], V (&y)[4]) {
  y[0] = x[0], y[1] = x[1] - x[2] + x[3], y[2] = x[1] + x[2] - x[0], y[3] = -x[3];
}

// y = M x M' for M of `line`, from From x From pixels to To x To.
template <int From, int To, class V, class Line>
FUSION_INLINE void both_ways(const V (&x)[From][From], V (&y)[To][To], const Line& line) {
  V half[From][To];  // every row
  for (int i = 0; i < From; ++i) line(x[i], half[i]);
  for (int j = 0; j < To; ++j) {
    V column[From], out[To];
    for (int i = 0; i < From; ++i) column[i] = half[i][j];
    line(column, out);
    for (int i = 0; i < To; ++i) y[i][j] = out[i];
  }
}

// What one call works on: a tile of a map.
struct Tile {
  int64_t map, row, column;  // of its first pixel
  int64_t number;
};

// Calls work(V(), tile, channel) for every tile of map `map`, and every vector and left-over channel of it.
template <class Work>
FUSION_INLINE void for_tiles(const Sizes& s, int64_t map, const Work& work) {
  int64_t number = map * s.rows() * s.columns();
  for (int64_t row = 0; row < s.height; row += 2)
    for (int64_t column = 0; column < s.width; column += 2, ++number) {
      const Tile tile{map, row, column, number};
      int64_t c = 0;
      for (; c + kLanes <= s.channels; c += kLanes) work(Floats(), tile, c);
      for (; c < s.channels; ++c) work(float(), tile, c);
    }
}

FUSION_INLINE bool inside(const Sizes& s, int64_t row, int64_t column) {
  return row >= 0 && row < s.height && column >= 0 && column < s.width;
}

FUSION_INLINE int64_t offset(const Sizes& s, const Tile& tile, int64_t row, int64_t column) {
  return ((tile.map * s.height + row) * s.width + column) * s.channels;
}

// Side x Side pixels of a map, from `margin` before the tile on; zero beyond the map.
template <int Side, class V>
FUSION_INLINE void load_pixels(const float* x, const Sizes& s, const Tile& tile, int margin, int64_t c,
                               V (&pixels)[Side][Side]) {
  for (int i = 0; i < Side; ++i)
    for (int j = 0; j < Side; ++j) {
      const int64_t row = tile.row - margin + i, column = tile.column - margin + j;
      pixels[i][j] = inside(s, row, column) ? simd::get<V>(x + offset(s, tile, row, column) + c) : V{};
    }
}

// Between the 4x4 pixels of a tile and the 16 matrices.
template <class V>
FUSION_INLINE void store_matrices(const V (&t)[4][4], const Sizes& s, const Tile& tile, int64_t c, float* matrices) {
  const int64_t step = s.tiles() * s.channels;
  for (int k = 0; k < 16; ++k) simd::put(matrices + k * step + tile.number * s.channels + c, t[k / 4][k % 4]);
}
template <class V>
FUSION_INLINE void load_matrices(const float* matrices, const Sizes& s, const Tile& tile, int64_t c, V (&t)[4][4]) {
  const int64_t step = s.tiles() * s.channels;
  for (int k = 0; k < 16; ++k) t[k / 4][k % 4] = simd::get<V>(matrices + k * step + tile.number * s.channels + c);
}

// The 16 matrices of a transform by `line` of the Side x Side pixels from `margin` before each tile on.
template <int Side, class Line>
void gather(const float* maps, const Sizes& s, int threads, int margin, const Line& line, float* transformed) {
#pragma omp parallel for num_threads(threads)
  for (int64_t map = 0; map < s.maps; ++map)
    for_tiles(s, map, [&](auto kind, const Tile& tile, int64_t c) {
      decltype(kind) pixels[Side][Side], t[4][4];
      load_pixels(maps, s, tile, margin, c, pixels);
      both_ways(pixels, t, line);
      store_matrices(t, s, tile, c, transformed);
    });
}

}  // namespace

void gather_tiles(const float* x, const Sizes& s, int threads, float* transformed) {
  gather<4>(x, s, threads, 1, [](const auto& x, auto& y) { times_b(x, y); }, transformed);
}

void gather_gradients(const float* grad, const Sizes& s, int threads, float* transformed) {
  gather<2>(grad, s, threads, 0, [](const auto& x, auto& y) { times_a_back(x, y); }, transformed);
}

void write_tiles(const float* products, const Sizes& s, int threads, float* y) {
#pragma omp parallel for num_threads(threads)
  for (int64_t map = 0; map < s.maps; ++map)
    for_tiles(s, map, [&](auto kind, const Tile& tile, int64_t c) {
      using V = decltype(kind);
      V m[4][4], out[2][2];
      load_matrices(products, s, tile, c, m);
      both_ways(m, out, times_a<V>);
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
          if (inside(s, tile.row + i, tile.column + j))
            simd::put(y + offset(s, tile, tile.row + i, tile.column + j) + c, out[i][j]);
    });
}

void add_tiles(const float* products, const Sizes& s, int threads, float* grad) {
#pragma omp parallel for num_threads(threads)
  for (int64_t map = 0; map < s.maps; ++map) {  // tiles of a map overlap: one thread adds them all, in order
    const int64_t size = s.height * s.width * s.channels;
    std::fill_n(grad + map * size, size, 0.0f);
    for_tiles(s, map, [&](auto kind, const Tile& tile, int64_t c) {
      using V = decltype(kind);
      V t[4][4], d[4][4];
      load_matrices(products, s, tile, c, t);
      both_ways(t, d, times_b_back<V>);
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
          const int64_t row = tile.row - 1 + i, column = tile.column - 1 + j;
          if (!inside(s, row, column)) continue;
          float* target = grad + offset(s, tile, row, column) + c;
          simd::put(target, simd::get<V>(target) + d[i][j]);
        }
    });
  }
}

}  // namespace fusion::convolution
