// Attention with a learned relative-position bias: backward. Weights are recomputed from the row statistics that
// the forward pass saved; attention_forward.cpp explains units, tiles and the far bucket.

#include "attention_partial.h"

namespace fusion::attention {
namespace {

template <class Index>
class Backward : Worker<Index> {
  using Base = Worker<Index>;
  using Base::p_, Base::dim_, Base::width_, Base::padded_, Base::keys_, Base::query_, Base::bias_width_;

 public:
  Backward(const Problem& p, const Shared<Index>& shared, Pieces pieces, const Heads& grad_output, const Heads& output,
           const float* largest, const float* weight, const Heads& grad_query, const Heads& grad_key,
           const Heads& grad_value, Partial& partial)
      : Base(p, shared, pieces),
        grad_output_(grad_output),
        output_(output),
        largest_(largest),
        weight_(weight),
        grad_query_(grad_query),
        grad_key_(grad_key),
        grad_value_(grad_value),
        partial_(partial) {
    key_rows_ = pieces.take(padded_ * width_);
    value_panels_ = pieces.take(padded_ * dim_);
    key_sums_ = pieces.take(padded_ * width_);
    value_sums_ = pieces.take(padded_ * width_);
    weights_ = pieces.take(kRows * kKeys);
    grad_scores_ = pieces.take(kRows * kKeys);
    grad_rows_ = pieces.take(kRows * width_);
    query_sums_ = pieces.take(kRows * width_);
    table_rows_ = pieces.take(bias_width_ * width_);
    table_sums_ = pieces.take(width_ * bias_width_);
    grad_bias_ = pieces.take(kRows * bias_width_);
    for (int64_t k = 1; k < p.live_count; ++k) near_.push_back(p.live[k]);
    near_.resize(round_up(near_.size(), kNear), -1);  // -1: no lane's bucket
    near_sums_ = pieces.take(kRows * near_.size() * kLanes);
    size_ = pieces.used();
  }

  int64_t size() const { return size_; }

  void run(const Item& item) {
    this->pack_table(item.head(item.first));
    for (int64_t k = 0; k < bias_width_; ++k)
      for (int64_t d = 0; d < width_; ++d) table_rows_[k * width_ + d] = this->table_[d * bias_width_ + k];
    std::fill(table_sums_, table_sums_ + width_ * bias_width_, 0.0f);
    for (int64_t pair = item.first; pair < item.last; ++pair) {
      const int64_t tile = item.tile(pair), head = item.head(pair);
      this->select_keys(tile);
      this->pack(p_.key, tile, head, this->key_panels_, key_rows_);
      this->pack(p_.value, tile, head, value_panels_, nullptr);
      std::fill(key_sums_, key_sums_ + padded_ * width_, 0.0f);
      std::fill(value_sums_, value_sums_ + padded_ * width_, 0.0f);
      for (int64_t first = item.first_row; first < item.last_row; first += kRows)
        rows(tile, head, first, std::min(kRows, item.last_row - first));
      write_keys(item.chunk, tile, head);
    }
    const int64_t rows = p_.contextual ? dim_ : 1;
    float* target = partial_.table.get() + item.number * partial_.table_size;
    for (int64_t d = 0; d < rows; ++d)
      for (int64_t k = 0; k < p_.buckets; ++k)
        target[d * p_.buckets + k] = table_sums_[d * bias_width_ + k] * (p_.contextual ? kLn2 : 1.0f);
  }

 private:
  static constexpr int kNear = 4;  // buckets summed in one pass over a row

  void rows(int64_t tile, int64_t head, int64_t first, int64_t rows) {
    const int64_t padded_rows = round_up(rows, 4);
    std::fill(query_sums_, query_sums_ + padded_rows * width_, 0.0f);
    if (keys_->count == 0) {  // no gradient, and no product of zeros with what is not finite
      for (int64_t r = 0; r < rows; ++r)
        write_row(grad_query_, p_.element, tile, head, first + r, dim_, query_sums_, 0.0f);
      return;
    }
    this->pack_queries(tile, head, first, rows);
    pack_gradients(tile, head, first, rows);
    std::fill(grad_bias_, grad_bias_ + padded_rows * bias_width_, 0.0f);
    std::fill(near_sums_, near_sums_ + rows * near_.size() * kLanes, 0.0f);
    constexpr int64_t kStep = kKeys / kLanes;
    for (int64_t group = 0; group < keys_->groups; group += kStep) {
      const int64_t last = std::min(group + kStep, keys_->groups);
      const int64_t keys = (last - group) * kLanes, offset = group * kLanes * width_;
      score_gradients(group, last, padded_rows);
      if (this->dropout_) drop(group, last, rows);
      for (int64_t r = 0; r < rows; ++r) sum_buckets(r, group, last);
      accumulate<false>(query_sums_, padded_rows, grad_scores_, kKeys, keys, key_rows_ + offset, width_);
      accumulate<true>(key_sums_ + offset, keys, grad_scores_, kKeys, rows, query_, width_);
      accumulate<true>(value_sums_ + offset, keys, weights_, kKeys, rows, grad_rows_, width_);
    }
    finish_buckets(rows);
    if (p_.contextual) {
      accumulate<false>(query_sums_, padded_rows, grad_bias_, bias_width_, p_.buckets, table_rows_, width_);
      accumulate<true>(table_sums_, round_up(dim_, 4), query_, width_, rows, grad_bias_, bias_width_);
    } else {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < p_.buckets; ++k) table_sums_[k] += grad_bias_[r * bias_width_ + k];
    }
    for (int64_t r = 0; r < rows; ++r)
      write_row(grad_query_, p_.element, tile, head, first + r, dim_, query_sums_ + r * width_, p_.scale);
  }

  // Of a block of queries dO and sum(dO O), both divided by the row's weight so that scores need not be, and the
  // number to subtract from scores; zeros beyond the last query.
  void pack_gradients(int64_t tile, int64_t head, int64_t first, int64_t rows) {
    std::fill(grad_rows_, grad_rows_ + kRows * width_, 0.0f);
    std::fill(delta_, delta_ + kRows, 0.0f);
    std::fill(less_, less_ + kRows, 0.0f);
    std::fill(top_, top_ + kRows, 0.0f);
    std::vector<float> row(width_);
    for (int64_t r = 0; r < rows; ++r) {
      float* gradient = grad_rows_ + r * width_;
      read_row(grad_output_, p_.element, tile, head, first + r, dim_, gradient);
      read_row(output_, p_.element, tile, head, first + r, dim_, row.data());
      const int64_t at = (tile * p_.heads + head) * p_.queries + first + r;
      const double top = static_cast<double>(largest_[at]) - this->far_bias_[r];
      top_[r] = static_cast<float>(top);
      const float factor = std::exp2(static_cast<float>(top_[r] - top)) / weight_[at];
      Floats products{};
      for (int64_t d = 0; d < width_; d += kLanes) {  // both rows end in zeros
        const Floats scaled = simd::load(gradient + d) * factor;
        products += scaled * simd::load(row.data() + d);
        simd::store(gradient + d, scaled);
      }
      delta_[r] = simd::sum(products);
      if (!this->dropout_) less_[r] = delta_[r];
    }
  }

  // weights_ = P weight and grad_scores_ = dS = P (dP - delta) for a block of keys; with dropout P dP, see drop().
  void score_gradients(int64_t first_group, int64_t last_group, int64_t padded_rows) {
    this->for_panels(first_group, last_group, [&](auto groups, int64_t group) {
      constexpr int kC = groups;
      const float* keys = this->key_panels_ + group * kLanes * dim_;
      const float* values = value_panels_ + group * kLanes * dim_;
      const int64_t at = (group - first_group) * kLanes;
      for (int64_t r = 0; r < padded_rows; r += 2) {
        Floats scores[2][kC], grad_weights[2][kC];
#pragma GCC unroll 4
        for (int c = 0; c < kC; ++c) {
          scores[0][c] = scores[1][c] = simd::load(this->key_bias_ + (group + c) * kLanes);
          grad_weights[0][c] = grad_weights[1][c] = Floats{};
        }
        multiply_panel<2, kC>(query_ + r * width_, width_, keys, dim_, scores);
        multiply_panel<2, kC>(grad_rows_ + r * width_, width_, values, dim_, grad_weights);
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
#pragma GCC unroll 4
          for (int c = 0; c < kC; ++c) {
            const Floats weight = simd::exp2(this->add_bias(scores[n][c], r + n, group + c) - top_[r + n]);
            simd::store(weights_ + (r + n) * kKeys + at + c * kLanes, weight);
            simd::store(grad_scores_ + (r + n) * kKeys + at + c * kLanes, weight * (grad_weights[n][c] - less_[r + n]));
          }
        }
      }
    });
  }

  // Dropout of the weights and of their gradients: a pass of its own, so that the products above are compiled once.
  void drop(int64_t first_group, int64_t last_group, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      float *weights = weights_ + r * kKeys, *gradients = grad_scores_ + r * kKeys;
      for (int64_t g = first_group; g < last_group; ++g, weights += kLanes, gradients += kLanes) {
        const Ints keep = this->keep(r, g);
        const Floats weight = simd::load(weights), gradient = simd::load(gradients) * this->kept_;
        simd::store(gradients, (keep ? gradient : Floats{}) - weight * delta_[r]);
        simd::store(weights, keep ? weight * this->kept_ : Floats{});
      }
    }
  }

  // Adds a row of dS to the sums of its buckets; of few buckets, the far one is left out.
  void sum_buckets(int64_t r, int64_t first_group, int64_t last_group) {
    const Index* buckets = this->bucket_rows_[r];
    const float* row = grad_scores_ + r * kKeys;
    if constexpr (sizeof(Index) > 1) {
      for (int64_t g = first_group; g < last_group; ++g, row += kLanes) {
        if (this->buckets_.all_far(buckets, g, this->far_word_)) {
          grad_bias_[r * bias_width_ + this->far_] += simd::sum(simd::load(row));
          continue;
        }
        const Ints bucket = this->buckets_.load(buckets, g);
        for (int l = 0; l < kLanes; ++l) grad_bias_[r * bias_width_ + bucket[l]] += row[l];
      }
    } else {
      for (size_t first = 0; first < near_.size(); first += kNear) {
        float* target = near_sums_ + (r * near_.size() + first) * kLanes;
        Floats sums[kNear];
        for (int n = 0; n < kNear; ++n) sums[n] = simd::load(target + n * kLanes);
        for (int64_t g = first_group; g < last_group; ++g) {
          if (this->buckets_.all_far(buckets, g, this->far_word_)) continue;
          const Ints bucket = this->buckets_.load(buckets, g);
          const Floats gradient = simd::load(row + (g - first_group) * kLanes);
#pragma GCC unroll 4
          for (int n = 0; n < kNear; ++n) sums[n] += bucket == near_[first + n] ? gradient : Floats{};
        }
        for (int n = 0; n < kNear; ++n) simd::store(target + n * kLanes, sums[n]);
      }
    }
  }

  // grad_bias_ (kRows, K): lanes added up, and the far bucket from the others, since a row of dS sums to zero.
  void finish_buckets(int64_t rows) {
    if constexpr (sizeof(Index) == 1) {
      for (int64_t r = 0; r < rows; ++r) {
        float* gradient = grad_bias_ + r * bias_width_;
        float others = 0.0f;
        for (size_t n = 0; n < near_.size(); ++n) {
          if (near_[n] < 0) continue;
          gradient[near_[n]] = simd::sum(simd::load(near_sums_ + (r * near_.size() + n) * kLanes));
          others += gradient[near_[n]];
        }
        gradient[this->far_] = -others;
      }
    }
  }

  void write_keys(int64_t chunk, int64_t tile, int64_t head) {
    const bool whole = this->shared_.plan.chunks == 1;
    const Element element = whole ? p_.element : Element::kFloat32;
    const Heads grad_key = whole ? grad_key_ : partial_.share(p_, partial_.key, chunk);
    const Heads grad_value = whole ? grad_value_ : partial_.share(p_, partial_.value, chunk);
    if (!keys_->complete) {
      const std::vector<float> zeros(width_, 0.0f);
      for (int64_t j = 0; j < p_.keys; ++j) {
        write_row(grad_key, element, tile, head, j, dim_, zeros.data(), 0.0f);
        write_row(grad_value, element, tile, head, j, dim_, zeros.data(), 0.0f);
      }
    }
    for (int64_t j = 0; j < keys_->count; ++j) {
      const int64_t token = keys_->index[j];
      write_row(grad_key, element, tile, head, token, dim_, key_sums_ + j * width_, kLn2);
      write_row(grad_value, element, tile, head, token, dim_, value_sums_ + j * width_, 1.0f);
    }
  }

  const Heads &grad_output_, &output_;
  const float *largest_, *weight_;
  const Heads &grad_query_, &grad_key_, &grad_value_;
  Partial& partial_;

  float* key_rows_;      // (padded_, width_)
  float* value_panels_;  // (padded_ / kPanel, D, kPanel)
  float* key_sums_;      // (padded_, width_)
  float* value_sums_;    // (padded_, width_)
  float* weights_;       // (kRows, kKeys)
  float* grad_scores_;   // (kRows, kKeys)
  float* grad_rows_;     // (kRows, width_)
  float* query_sums_;    // (kRows, width_)
  float* table_rows_;    // (bias_width_, width_)
  float* table_sums_;    // (width_, bias_width_)
  float* grad_bias_;     // (kRows, bias_width_)
  float* near_sums_;     // (kRows, near, kLanes)
  std::vector<int32_t> near_;
  float delta_[kRows];
  float less_[kRows];  // delta_, or 0 where drop() subtracts it
  float top_[kRows];
  int64_t size_;
};

template <class Index>
void backward_of(const Problem& p, const Heads& grad_output, const Heads& output, const float* largest,
                 const float* weight, const Heads& grad_query, const Heads& grad_key, const Heads& grad_value,
                 float* grad_table) {
  const Shared<Index> shared(p);
  Partial partial(p, shared.plan);
  run_items(p, shared.plan, [&](Pieces pieces) {
    return Backward<Index>(p, shared, pieces, grad_output, output, largest, weight, grad_query, grad_key,
                                     grad_value, partial);
  });
  if (shared.plan.chunks > 1) {
    add_chunks(p, shared.plan, partial, partial.key, grad_key);
    add_chunks(p, shared.plan, partial, partial.value, grad_value);
  }
  add_tables(p, shared.plan, partial, grad_table);
}

}  // namespace

void backward(const Problem& p, const Heads& grad_output, const Heads& output, const float* largest,
              const float* weight, const Heads& grad_query, const Heads& grad_key, const Heads& grad_value,
              float* grad_table) {
  const auto run = p.buckets <= kRegisterBuckets ? backward_of<uint8_t> : backward_of<uint16_t>;
  run(p, grad_output, output, largest, weight, grad_query, grad_key, grad_value, grad_table);
}

}  // namespace fusion::attention
