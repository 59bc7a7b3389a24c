// Tiles of a matrix for several threads, without atomics and in one order of summation.
#pragma once

#include <algorithm>

#include "infonce_gemm.h"

namespace fusion {

constexpr int kTile = 384;  // rows of a tile; its float32 entries and operands stay in a 2 MB second-level cache

// Rows and columns of the similarity matrix cut into tiles, each visited by one thread at a time such that no two
// threads work on the same rows or columns: no atomics, and sums in one order.
struct Tiling {
  int rows, columns;
  bool symmetric;  // rows are the columns: only tiles on and above the diagonal, each standing for its mirror image
  int tile, row_tiles, column_tiles;

  Tiling(int rows, int columns, bool symmetric, int threads) : rows(rows), columns(columns), symmetric(symmetric) {
    // A multiple of 2 x threads tiles keeps all threads busy through every round of each_pair.
    const int round = symmetric ? 2 * threads : threads;
    const int wanted = round * ((rows + round * kTile - 1) / (round * kTile));
    tile = std::clamp(((rows + wanted - 1) / std::max(wanted, 1) + 15) / 16 * 16, 16, kTile);
    row_tiles = (rows + tile - 1) / tile;
    column_tiles = (columns + tile - 1) / tile;
  }

  // visit(scratch, I, J) for every tile; make() gives each thread its scratch.
  template <class Make, class Visit>
  void each(int threads, Make make, Visit visit) const {
#pragma omp parallel num_threads(threads)
    {
      SerialProducts serial;
      auto scratch = make();
      if (symmetric)
        each_pair(scratch, visit);
      else {
#pragma omp for schedule(dynamic)
        for (int i = 0; i < row_tiles; ++i)
          for (int j = 0; j < column_tiles; ++j) visit(scratch, i, j);
      }
    }
  }

  // Every pair of tiles once, in rounds in which no tile occurs twice: the circle method. One index stands still and
  // the others move on by one place a round; with an odd number of tiles, the one that meets the added index rests.
  template <class Scratch, class Visit>
  void each_pair(Scratch& scratch, Visit visit) const {
#pragma omp for schedule(dynamic)
    for (int i = 0; i < row_tiles; ++i) visit(scratch, i, i);
    const int even = row_tiles + row_tiles % 2, circle = even - 1;
    for (int round = 0; round < circle; ++round) {
#pragma omp for schedule(dynamic)
      for (int pair = 0; pair < even / 2; ++pair) {
        const int i = pair == 0 ? circle : (round + pair) % circle;
        const int j = (round - pair + circle) % circle;
        if (std::max(i, j) < row_tiles) visit(scratch, std::min(i, j), std::max(i, j));
      }
    }
  }

  int begin(int tile_index) const { return tile_index * tile; }
  int row_end(int i) const { return std::min(rows, begin(i + 1)); }
  int column_end(int j) const { return std::min(columns, begin(j + 1)); }
};

}  // namespace fusion
