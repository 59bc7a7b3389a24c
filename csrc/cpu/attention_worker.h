// What the forward and the backward pass of attention share: how work is cut, what a thread keeps of a tile and
// head, and the launch.

#pragma once

#include <omp.h>

#include <type_traits>

#include "attention_tiles.h"

namespace fusion::attention {

// How the work is cut, by shape alone. An item is a chunk of the queries of a few (tile, head) pairs that write
// the same table gradient: heads of one tile, which lie side by side in memory, where all heads share the table,
// else tiles of one head.
struct Plan {
  static constexpr int64_t kFewest = 32;  // items that a short batch is cut into, if its tiles are long enough
  static constexpr int64_t kMost = 256;   // items, about, that a long one is: each keeps a partial table gradient

  explicit Plan(const Problem& p) : inner(p.shared ? p.heads : p.batch) {
    const int64_t pairs = p.batch * p.heads;
    per_item = std::clamp<int64_t>(pairs / kMost, 1, std::max<int64_t>(inner, 1));
    groups = (inner + per_item - 1) / per_item;
    const int64_t whole = std::max<int64_t>(1, groups * (p.shared ? p.batch : p.heads));
    const int64_t wanted = (kFewest + whole - 1) / whole;
    rows = std::max(round_up((p.queries + wanted - 1) / wanted, kRows), 2 * kRows);
    chunks = std::max<int64_t>(1, (p.queries + rows - 1) / rows);
    items = pairs == 0 ? 0 : whole * chunks;
  }

  int64_t inner, per_item, groups, rows, chunks, items;
};

struct Item {
  Item(const Problem& p, const Plan& plan, int64_t number)
      : number(number),
        chunk(number % plan.chunks),
        outer(number / plan.chunks / plan.groups),
        first(number / plan.chunks % plan.groups * plan.per_item),
        last(std::min(plan.inner, first + plan.per_item)),
        first_row(chunk * plan.rows),
        last_row(std::min(p.queries, first_row + plan.rows)),
        heads_inside(p.shared) {}

  int64_t tile(int64_t pair) const { return heads_inside ? outer : pair; }
  int64_t head(int64_t pair) const { return heads_inside ? pair : outer; }

  int64_t number, chunk, outer, first, last, first_row, last_row;
  bool heads_inside;
};

// What all items share: the keys of a tile without invalid ones, and at short lengths the map of buckets.
template <class Index>
struct Shared {
  explicit Shared(const Problem& p) : plan(p) {
    Problem all_keys = p;
    all_keys.key_valid = nullptr;
    keys.select(all_keys, 0);
    constexpr int64_t kLargestMap = 1 << 20;
    if (p.queries * p.keys > kLargestMap) return;
    consecutive.resize(keys.groups);
    for (int64_t g = 0; g < keys.groups; ++g) consecutive[g] = static_cast<int32_t>(g * kLanes);
    const int64_t width = keys.groups * kLanes;
    map.assign(p.queries * width, 0);
    for (int64_t i = 0; i < p.queries; ++i) {
      const Index* row = static_cast<const Index*>(p.bucket) + p.query_position[i] * p.positions;
      for (int64_t j = 0; j < p.keys; ++j) map[i * width + j] = row[p.key_position[j]];
    }
  }

  Plan plan;
  KeySet keys;
  std::vector<Index> map;  // (Lq, groups * kLanes)
  std::vector<int32_t> consecutive;
};

// One thread's view of one tile and head: what forward and backward have in common.
template <class Index>
class Worker {
 protected:
  Worker(const Problem& p, const Shared<Index>& shared, Pieces& pieces)
      : p_(p),
        shared_(shared),
        dim_(p.dim),
        width_(round_up(p.dim, kLanes)),
        padded_(round_up(p.keys, kPanel)),
        bias_width_(round_up(p.buckets, kRegisterBuckets)),
        dropout_(p.dropout > 0),
        threshold_(static_cast<int32_t>(p.dropout * 2147483648.0)),
        kept_(static_cast<float>(1.0 / (1.0 - p.dropout))) {
    key_panels_ = pieces.take(padded_ * dim_);
    key_bias_ = pieces.take(padded_);
    columns_ = reinterpret_cast<uint32_t*>(pieces.take(padded_));
    query_ = pieces.take(kRows * width_);
    bias_ = pieces.take(kRows * bias_width_);
    table_ = pieces.take(width_ * bias_width_);
    far_ = p.live[0];
    for (unsigned at = 0; at < sizeof far_word_; at += sizeof(Index))
      far_word_ |= static_cast<uint64_t>(far_) << (8 * at);
  }

  // The head's table as (D, bias_width_), or one row of it that already is the bias.
  void pack_table(int64_t head) {
    const int64_t rows = p_.contextual ? dim_ : 1;
    const float* source = p_.table + (p_.shared ? 0 : head * rows * p_.buckets);
    std::fill(table_, table_ + width_ * bias_width_, 0.0f);
    for (int64_t d = 0; d < rows; ++d)
      std::copy(source + d * p_.buckets, source + (d + 1) * p_.buckets, table_ + d * bias_width_);
  }

  void select_keys(int64_t tile) {
    keys_ = &shared_.keys;
    if (p_.key_valid != nullptr) {
      own_keys_.select(p_, tile);
      if (!own_keys_.complete) keys_ = &own_keys_;
    }
    const auto* table = static_cast<const Index*>(p_.bucket);
    if (keys_->complete && !shared_.map.empty())
      buckets_ = {shared_.map.data(), keys_->groups * kLanes, nullptr, shared_.consecutive.data(), nullptr};
    else
      buckets_ = {table, p_.positions, p_.query_position, keys_->start.data(), keys_->position.data()};
    for (int64_t j = 0; j < keys_->groups * kLanes; ++j) {
      key_bias_[j] = j < keys_->count ? 0.0f : -INFINITY;
      columns_[j] = j < keys_->count ? static_cast<uint32_t>(keys_->index[j]) * 0x9E3779B9u : 0;
    }
  }

  // Packs the selected keys (or values) of a tile as panels, as rows (padded_, width_), or both.
  void pack(const Heads& tensor, int64_t tile, int64_t head, float* panels, float* rows) const {
    if (panels != nullptr) std::fill(panels, panels + padded_ * dim_, 0.0f);
    if (rows != nullptr) std::fill(rows, rows + padded_ * width_, 0.0f);
    std::vector<float> row(width_);
    for (int64_t j = 0; j < keys_->count; ++j) {
      read_row(tensor, p_.element, tile, head, keys_->index[j], dim_, row.data());
      if (panels != nullptr) write_column(panels, dim_, j, row.data());
      if (rows != nullptr) std::copy(row.begin(), row.begin() + dim_, rows + j * width_);
    }
  }

  // Queries first..first+rows-1 in units of ln 2, their bias tables less the far bucket's, zero rows up to kRows.
  void pack_queries(int64_t tile, int64_t head, int64_t first, int64_t rows) {
    std::fill(query_, query_ + kRows * width_, 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = query_ + r * width_;
      read_row(p_.query, p_.element, tile, head, first + r, dim_, row);
      for (int64_t d = 0; d < dim_; ++d) row[d] *= p_.scale * kLog2E;
      if (dropout_) row_keys_[r] = row_key(p_.seed, (tile * p_.heads + head) * p_.queries + first + r);
    }
    std::fill(bias_, bias_ + kRows * bias_width_, 0.0f);
    if (p_.contextual)
      accumulate<false>(bias_, round_up(rows, 4), query_, width_, dim_, table_, bias_width_);
    for (int64_t r = 0; r < kRows; ++r) {
      float* bias = bias_ + r * bias_width_;
      if (!p_.contextual)
        for (int64_t k = 0; k < p_.buckets; ++k) bias[k] = table_[k] * kLog2E;
      const float far = far_bias_[r] = bias[far_];
      for (int64_t k = 0; k < bias_width_; ++k) bias[k] -= far;
      bucket_rows_[r] = buckets_.row(std::min(first + r, p_.queries - 1));
    }
  }

  FUSION_INLINE Floats add_bias(Floats score, int64_t r, int64_t group) const {
    if (buckets_.all_far(bucket_rows_[r], group, far_word_)) return score;
    return score + look_up(bias_ + r * bias_width_, buckets_.load(bucket_rows_[r], group), Index());
  }

  FUSION_INLINE Ints keep(int64_t r, int64_t group) const {
    return keep_mask(simd::load<Words>(columns_ + group * kLanes), row_keys_[r], threshold_);
  }

  // Calls tile(std::integral_constant<int, groups>, first group) for each panel of a block of keys.
  template <class Tile>
  FUSION_INLINE void for_panels(int64_t first_group, int64_t last_group, const Tile& tile) const {
    for (int64_t g = first_group; g < last_group; g += kGroups) one_panel<kGroups>(last_group - g, g, tile);
  }

  template <int kC, class Tile>
  FUSION_INLINE void one_panel(int64_t groups, int64_t first_group, const Tile& tile) const {
    if constexpr (kC > 1)
      if (groups < kC) return one_panel<kC - 1>(groups, first_group, tile);
    tile(std::integral_constant<int, kC>(), first_group);
  }

  const Problem& p_;
  const Shared<Index>& shared_;
  const int64_t dim_, width_, padded_, bias_width_;
  const bool dropout_;
  const int32_t threshold_;
  const float kept_;  // 1 / (1 - dropout)

  float* key_panels_;   // (padded_ / kPanel, D, kPanel)
  float* key_bias_;     // (padded_) 0, -inf beyond the last key
  uint32_t* columns_;   // (padded_) key index * 0x9E3779B9, for the dropout mask
  float* query_;        // (kRows, width_)
  float* bias_;         // (kRows, bias_width_)
  float* table_;        // (width_, bias_width_)
  float far_bias_[kRows];
  RowKey row_keys_[kRows];
  const Index* bucket_rows_[kRows];

  int32_t far_;
  uint64_t far_word_ = 0;
  KeySet own_keys_;
  const KeySet* keys_ = nullptr;
  BucketRows<Index> buckets_{};
};

// Runs every item on a worker made by make(pieces), one for each thread.
template <class Make>
void run_items(const Problem& p, const Plan& plan, const Make& make) {
  const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(p.threads, plan.items)));
  const int64_t size = round_up(make(Pieces(nullptr)).size(), 1024);
  const Buffer<float> scratch(size * threads);
#pragma omp parallel num_threads(threads)
  {
    auto worker = make(Pieces(scratch.get() + size * omp_get_thread_num()));
#pragma omp for schedule(dynamic)
    for (int64_t number = 0; number < plan.items; ++number) worker.run(Item(p, plan, number));
  }
}

}  // namespace fusion::attention
