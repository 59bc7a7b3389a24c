// Winograd's minimal filtering F(2x2, 3x3) of maps in channels-last memory, on raw pointers and without torch.
//
// A 3x3 convolution of stride 1 and padding 1 gives 2x2 pixels from 4x4: y = A' [(G w G') . (B' d B)] A (Lavin & Gray
// 2016, arXiv 1509.09308), where a dash transposes and the dot multiplies pixel by pixel, summed over channels: 16
// products instead of 36. These are the transforms; the products, 16 matrices of tiles x channels, are the caller's.
//
// N maps of height x width pixels of C channels; ceil(height / 2) * ceil(width / 2) tiles a map, in raster order.
// Every value is read and written once, at 2 to 4 additions each: memory bounds all four.
#pragma once

#include <cstdint>

namespace fusion::convolution {

struct Sizes {
  int64_t maps, height, width, channels;
  int64_t rows() const { return (height + 1) / 2; }   // of tiles
  int64_t columns() const { return (width + 1) / 2; }
  int64_t tiles() const { return maps * rows() * columns(); }
};

// B' d B of the 4x4 pixels around each tile, zero beyond the map: x (N, h, w, C) -> (16, tiles, C).
void gather_tiles(const float* x, const Sizes& sizes, int threads, float* transformed);

// A' m A, the pixels of each tile: products (16, tiles, C) -> y (N, h, w, C).
void write_tiles(const float* products, const Sizes& sizes, int threads, float* y);

// The transposes of these: A g A' of the pixels of each tile, zero beyond the map, y (N, h, w, C) -> (16, tiles, C) ...
void gather_gradients(const float* grad, const Sizes& sizes, int threads, float* transformed);

// ... and the sum over tiles of B t B' where their 4x4 pixels overlap, (16, tiles, C) -> x (N, h, w, C).
void add_tiles(const float* products, const Sizes& sizes, int threads, float* grad);

}  // namespace fusion::convolution
