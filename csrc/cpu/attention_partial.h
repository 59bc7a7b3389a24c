// Gradients of keys, values and table that several items of work contribute to, and their sums in a fixed order.

#pragma once

#include "attention_worker.h"

namespace fusion::attention {

// Sums of gradients that several items contribute to; added up in order once all are done.
struct Partial {
  Partial(const Problem& p, const Plan& plan)
      : table_size(p.contextual ? p.dim * p.buckets : p.buckets),
        keys_size(p.batch * p.heads * p.keys * p.dim),
        table(plan.items * table_size),
        key(plan.chunks > 1 ? plan.chunks * keys_size : 0),
        value(plan.chunks > 1 ? plan.chunks * keys_size : 0) {}

  // Chunk c's share of the gradient of the keys or values, as a (B, H, Lk, D) tensor.
  Heads share(const Problem& p, const Buffer<float>& buffer, int64_t chunk) const {
    return {buffer.get() + chunk * keys_size, p.heads * p.keys * p.dim, p.keys * p.dim, p.dim};
  }

  int64_t table_size, keys_size;
  Buffer<float> table, key, value;
};

// gradient (B, H, Lk, D) = the sum of the chunks' shares (chunks, B, H, Lk, D) of keys or values, in order.
inline void add_chunks(const Problem& p, const Plan& plan, const Partial& partial, const Buffer<float>& shares,
                       const Heads& gradient) {
#pragma omp parallel for num_threads(p.threads)
  for (int64_t row = 0; row < p.batch * p.heads * p.keys; ++row) {
    float* sum = shares.get() + row * p.dim;
    for (int64_t c = 1; c < plan.chunks; ++c)
      for (int64_t d = 0; d < p.dim; ++d) sum[d] += sum[c * partial.keys_size + d];
    const int64_t bh = row / p.keys;
    write_row(gradient, p.element, bh / p.heads, bh % p.heads, row % p.keys, p.dim, sum, 1.0f);
  }
}

// gradient (1|H, [D], K) = the sum of the items' shares (items, [D], K), in order and in float64.
inline void add_tables(const Problem& p, const Plan& plan, const Partial& partial, float* gradient) {
  const int64_t tables = p.shared ? 1 : p.heads;
  const int64_t items = p.shared ? plan.items : plan.groups * plan.chunks;  // of one table, which follow each other
#pragma omp parallel for num_threads(p.threads)
  for (int64_t at = 0; at < tables * partial.table_size; ++at) {
    const float* share = partial.table.get() + at / partial.table_size * items * partial.table_size;
    double sum = 0.0;
    for (int64_t n = 0; n < items; ++n) sum += share[n * partial.table_size + at % partial.table_size];
    gradient[at] = static_cast<float>(sum);
  }
}

}  // namespace fusion::attention
