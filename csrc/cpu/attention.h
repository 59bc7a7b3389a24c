// Attention with a learned relative-position bias on the CPU; see kernels/attention/op.py for the definition.

#pragma once

#include <cstdint>

namespace fusion::attention {

enum class Element { kFloat32, kBFloat16 };

// A (B, H, L, D) tensor; strides count elements, 0 where broadcast. The last stride is 1.
struct Heads {
  void* data;
  int64_t batch, head, token;
};

struct Problem {
  int64_t batch, heads, queries, keys, dim;
  Element element;
  Heads query;  // (B, H, Lq, D)
  Heads key;    // (B, H, Lk, D)
  Heads value;  // (B, H, Lk, D)

  int64_t buckets;
  bool contextual, shared;
  const float* table;             // (1|H, D, K) contextual, (1|H, K) otherwise
  int64_t positions;              // S
  const void* bucket;             // (S, S) uint8 if buckets <= 16 else uint16, and 64 bytes that may be read beyond
  const int32_t* live;            // the buckets that occur, the most frequent one first
  int64_t live_count;
  const int32_t* query_position;  // (Lq)
  const int32_t* key_position;    // (Lk)

  const bool* key_valid;  // (B, Lk) or null
  int64_t seed;
  double dropout;
  float scale;
  int threads;
};

inline constexpr int64_t kRegisterBuckets = 16;

// O = softmax(scale Q K^T + bias) V: reads queries once, keys and values once for every 32 queries, writes O and two
// numbers a row. 4 D operations and one power of two a pair, 2 D K a row for contextual biases. O(Lk D) work space a
// thread.
// output (B, H, Lq, D); largest and weight (B, H, Lq): with logits x in units of ln 2 a weight of the softmax is
// 2^(x - largest) / weight; weight is +inf for a row without a valid key.
void forward(const Problem& problem, const Heads& output, float* largest, float* weight);

// dS = P (dO V^T - sum(dO O)), dQ = scale dS (K + R), dK = scale dS^T Q, dV = P^T dO, dR = dS summed by bucket: 10 D
// operations and one power of two a pair. O(Lk D) work space a thread, and a table's gradient for every item of work.
// Gradients of query, key, value in their dtype and of the table in float32. The same bits for any number of
// threads: work is split by shape alone, and partial sums are added in a fixed order.
void backward(const Problem& problem, const Heads& grad_output, const Heads& output, const float* largest,
              const float* weight, const Heads& grad_query, const Heads& grad_key, const Heads& grad_value,
              float* grad_table);

}  // namespace fusion::attention
