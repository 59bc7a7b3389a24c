// Attention with a learned relative-position bias: forward, with an online softmax.
//
// Logits live in units of ln 2 (the query is scaled by scale * log2 e when packed), in tiles of 32 queries and
// 128 keys that never leave the first-level cache; lanes are keys. The bias of a row is a table of at most 16
// floats, one register, and the bias of 16 scores one permute of it. Softmax does not see a constant added to a
// row, so the bias of the most frequent ("far") bucket is subtracted from the row: groups of keys that are all
// far, most of a large grid, then need no bias at all. Nor do they need a sum for the bias gradient: the
// logit gradients of a row add up to zero, which gives the far bucket's sum from the others.

#include "attention_worker.h"

namespace fusion::attention {
namespace {

template <class Index>
class Forward : Worker<Index> {
  using Base = Worker<Index>;
  using Base::p_, Base::dim_, Base::width_, Base::padded_, Base::keys_, Base::query_;

 public:
  Forward(const Problem& p, const Shared<Index>& shared, Pieces pieces, const Heads& output, float* largest,
          float* weight)
      : Base(p, shared, pieces), output_(output), largest_(largest), weight_(weight) {
    values_ = pieces.take(padded_ * width_);
    scores_ = pieces.take(kRows * kKeys);
    sums_ = pieces.take(kRows * width_);
    row_largest_ = pieces.take(kRows * kLanes);
    row_weight_ = pieces.take(kRows * kLanes);
    size_ = pieces.used();
  }

  int64_t size() const { return size_; }

  void run(const Item& item) {
    this->pack_table(item.head(item.first));
    for (int64_t pair = item.first; pair < item.last; ++pair) {
      const int64_t tile = item.tile(pair), head = item.head(pair);
      this->select_keys(tile);
      this->pack(p_.key, tile, head, this->key_panels_, nullptr);
      this->pack(p_.value, tile, head, nullptr, values_);
      for (int64_t first = item.first_row; first < item.last_row; first += kRows)
        rows(tile, head, first, std::min(kRows, item.last_row - first));
    }
  }

 private:
  void rows(int64_t tile, int64_t head, int64_t first, int64_t rows) {
    this->pack_queries(tile, head, first, rows);
    const int64_t padded_rows = round_up(rows, 4);
    std::fill(sums_, sums_ + kRows * width_, 0.0f);
    std::fill(row_weight_, row_weight_ + kRows * kLanes, 0.0f);
    std::fill(top_, top_ + kRows, -1e30f);  // finite: the first rescaling is then exp2(-huge) * 0
    constexpr int64_t kStep = kKeys / kLanes;
    for (int64_t group = 0; group < keys_->groups; group += kStep) {
      const int64_t last = std::min(group + kStep, keys_->groups);
      scores(group, last, padded_rows);
      for (int64_t r = 0; r < padded_rows; ++r)
        this->dropout_ ? softmax<true>(r, group, last) : softmax<false>(r, group, last);
      accumulate<false>(sums_, padded_rows, scores_, kKeys, (last - group) * kLanes, values_ + group * kLanes * width_,
                        width_);
    }
    const int64_t row = (tile * p_.heads + head) * p_.queries + first;
    const bool any = keys_->count > 0;
    for (int64_t r = 0; r < rows; ++r) {
      const float weight = simd::sum(simd::load(row_weight_ + r * kLanes));
      // The far bias rounds when added back; the weight takes up what it lost.
      const double largest = static_cast<double>(top_[r]) + this->far_bias_[r];
      largest_[row + r] = any ? static_cast<float>(largest) : 0.0f;
      weight_[row + r] = any ? weight * std::exp2(static_cast<float>(largest - largest_[row + r])) : INFINITY;
      // far_bias_ has not been added to the scores: if it is not finite, nor is the row.
      const float factor = this->kept_ / weight + (this->far_bias_[r] - this->far_bias_[r]);
      write_row(output_, p_.element, tile, head, first + r, dim_, sums_ + r * width_, any ? factor : 0);
    }
  }

  // scores_ = Q K^T + bias for a block of keys, and the largest of each lane in row_largest_.
  void scores(int64_t first_group, int64_t last_group, int64_t padded_rows) {
    for (int64_t r = 0; r < padded_rows; ++r) simd::store(row_largest_ + r * kLanes, simd::splat(-1e30f));
    this->for_panels(first_group, last_group, [&](auto groups, int64_t group) {
      constexpr int kC = groups;
      const float* panel = this->key_panels_ + group * kLanes * dim_;
      float* target = scores_ + (group - first_group) * kLanes;
      for (int64_t r = 0; r < padded_rows; r += 4) {
        Floats sums[4][kC];
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n)
#pragma GCC unroll 4
          for (int c = 0; c < kC; ++c) sums[n][c] = simd::load(this->key_bias_ + (group + c) * kLanes);
        multiply_panel<4, kC>(query_ + r * width_, width_, panel, dim_, sums);
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) {
          Floats largest = simd::load(row_largest_ + (r + n) * kLanes);
#pragma GCC unroll 4
          for (int c = 0; c < kC; ++c) {
            const Floats score = this->add_bias(sums[n][c], r + n, group + c);
            largest = simd::maximum(largest, score);
            simd::store(target + (r + n) * kKeys + c * kLanes, score);
          }
          simd::store(row_largest_ + (r + n) * kLanes, largest);
        }
      }
    });
  }

  // Turns a row of scores into weights relative to the largest score so far, and rescales what was summed.
  template <bool kDropout>
  void softmax(int64_t r, int64_t first_group, int64_t last_group) {
    const float before = top_[r];
    const float now = std::max(before, simd::largest(simd::load(row_largest_ + r * kLanes)));
    const Floats factor = simd::exp2(simd::splat(before - now));
    Floats weight = simd::load(row_weight_ + r * kLanes) * factor;
    float* row = scores_ + r * kKeys;
    for (int64_t g = first_group; g < last_group; ++g, row += kLanes) {
      Floats kept = simd::exp2(simd::load(row) - now);
      weight += kept;
      if constexpr (kDropout) kept = this->keep(r, g) ? kept : Floats{};
      simd::store(row, kept);
    }
    simd::store(row_weight_ + r * kLanes, weight);
    for (int64_t d = 0; d < width_; d += kLanes)
      simd::store(sums_ + r * width_ + d, simd::load(sums_ + r * width_ + d) * factor);
    top_[r] = now;
  }

  const Heads& output_;
  float *largest_, *weight_;
  float* values_;       // (padded_, width_)
  float* scores_;       // (kRows, kKeys)
  float* sums_;         // (kRows, width_)
  float* row_largest_;  // (kRows, kLanes)
  float* row_weight_;   // (kRows, kLanes)
  float top_[kRows];  // the largest score so far
  int64_t size_;
};

template <class Index>
void forward_of(const Problem& p, const Heads& output, float* largest, float* weight) {
  const Shared<Index> shared(p);
  run_items(p, shared.plan,
            [&](Pieces pieces) { return Forward<Index>(p, shared, pieces, output, largest, weight); });
}

}  // namespace

void forward(const Problem& p, const Heads& output, float* largest, float* weight) {
  const auto run = p.buckets <= kRegisterBuckets ? forward_of<uint8_t> : forward_of<uint16_t>;
  run(p, output, largest, weight);
}

}  // namespace fusion::attention
