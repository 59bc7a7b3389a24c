// Patch InfoNCE from half of the symmetric similarity matrix. Plain pointers, no torch.
//
// n tokens of D features; s_ij = f_i . f_j / temperature, f the (normalised) tokens.
//   Y_i = sum of e^s_ij over j on the ring of i with another modality, Z_i = over these and all j in another block,
//   loss_i = log Z_i - log Y_i.
// Both relations are symmetric, so a tile of s serves its rows and its columns: forward N^2 D operations, backward
// (which forms s again) 3 N^2 D. kernels/infonce/registration.py has the gradient, layout.py the three tables.
#pragma once

#include <cstdint>

#include "common.h"

namespace fusion::infonce {

template <class T>
struct Problem {
  int64_t tokens_count;
  int64_t dim;
  const T* tokens;          // (N, D)
  const int32_t* modality;  // (N,) -1: not observed
  const int32_t* block;     // (N,) never decreases
  const int32_t* ring;      // (N,)
  const int64_t* anchor;    // (R,) rows wanted, or null: all
  int64_t rows;             // R, or N
  double temperature;
  bool normalize;
  int threads;
};

// Reads tokens and the three tables. 2 N D operations a row, half of that where all rows are wanted, and one
// exponential a pair. Work space O(N D) and a tile a thread.
// loss, log_z, log_y (R,): 0, +inf, +inf in rows without a positive. inverse (N,): 1 / |token|. hit (R,): whether the
// most similar token of the denominator is a positive, or null. The same bits every time for one number of threads.
template <class T, class A = Arithmetic<T>>
void forward(const Problem<T>& problem, A* loss, A* log_z, A* log_y, A* inverse, bool* hit);

// Forms s again and multiplies W with the tokens: 4 N D operations a row, three quarters of that where all rows are
// wanted. Work space O(N D) and a tile a thread.
// grad, log_z, log_y (N,), of all tokens. d_tokens (R, D). d_temperature: the share of these rows.
template <class T, class A = Arithmetic<T>>
void backward(const Problem<T>& problem, const A* grad, const A* log_z, const A* log_y, T* d_tokens,
              double* d_temperature);

}  // namespace fusion::infonce
