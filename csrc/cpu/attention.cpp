// Attention with a learned relative-position bias: forward and backward with an online softmax.
//
// Logits live in units of ln 2 (the query is scaled by scale * log2 e when packed), in tiles of 32 queries and
// 128 keys that never leave the first-level cache; lanes are keys. The bias of a row is a table of at most 16
// floats, one register, and the bias of 16 scores one permute of it. Softmax does not see a constant added to a
// row, so the bias of the most frequent ("far") bucket is subtracted from the row: groups of keys that are all
// far, most of a large grid, then need no bias at all. Nor do they need a sum for the bias gradient: the
// logit gradients of a row add up to zero, which gives the far bucket's sum from the others.

#include "attention.h"

#include <omp.h>

#include "attention_tiles.h"

namespace fusion::attention {
namespace {

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
template <class Index, bool kDropout>
class Worker {
 protected:
  Worker(const Problem& p, const Shared<Index>& shared, Pieces& pieces)
      : p_(p),
        shared_(shared),
        dim_(p.dim),
        width_(round_up(p.dim, kLanes)),
        padded_(round_up(p.keys, kPanel)),
        bias_width_(round_up(p.buckets, kRegisterBuckets)),
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
      if (kDropout) row_keys_[r] = row_key(p_.seed, (tile * p_.heads + head) * p_.queries + first + r);
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

// ---------------------------------------------------------------- forward

template <class Index, bool kDropout>
class Forward : Worker<Index, kDropout> {
  using Base = Worker<Index, kDropout>;
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
      for (int64_t r = 0; r < padded_rows; ++r) softmax(r, group, last);
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
      write_row(output_, p_.element, tile, head, first + r, dim_, sums_ + r * width_, any ? this->kept_ / weight : 0);
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

// ---------------------------------------------------------------- backward

// Sums of gradients that several items contribute to; added up in order once all are done.
struct Partial {
  Partial(const Problem& p, const Plan& plan)
      : table_size(p.contextual ? p.dim * p.buckets : p.buckets),
        keys_size(p.batch * p.heads * p.keys * p.dim),
        table(plan.items * table_size),
        key(plan.chunks > 1 ? plan.chunks * keys_size : 0),
        value(plan.chunks > 1 ? plan.chunks * keys_size : 0) {}

  // Chunk c's share of the gradient of the keys or values, as a (B, H, Lk, D) tensor.
  Heads share(const Problem& p, const Buffer& buffer, int64_t chunk) const {
    return {buffer.get() + chunk * keys_size, p.heads * p.keys * p.dim, p.keys * p.dim, p.dim};
  }

  int64_t table_size, keys_size;
  Buffer table, key, value;
};

template <class Index, bool kDropout>
class Backward : Worker<Index, kDropout> {
  using Base = Worker<Index, kDropout>;
  using Base::p_, Base::dim_, Base::width_, Base::padded_, Base::keys_, Base::query_, Base::bias_width_;

 public:
  Backward(const Problem& p, const Shared<Index>& shared, Pieces pieces, const Heads& grad_output, const Heads& output,
           const float* largest, const float* weight, const Heads& grad_query, const Heads& grad_key, const Heads& grad_value, Partial& partial)
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
    this->pack_queries(tile, head, first, rows);
    pack_gradients(tile, head, first, rows);
    const int64_t padded_rows = round_up(rows, 4);
    std::fill(query_sums_, query_sums_ + kRows * width_, 0.0f);
    std::fill(grad_bias_, grad_bias_ + kRows * bias_width_, 0.0f);
    std::fill(near_sums_, near_sums_ + kRows * near_.size() * kLanes, 0.0f);
    constexpr int64_t kStep = kKeys / kLanes;
    for (int64_t group = 0; group < keys_->groups; group += kStep) {
      const int64_t last = std::min(group + kStep, keys_->groups);
      const int64_t keys = (last - group) * kLanes, offset = group * kLanes * width_;
      score_gradients(group, last, padded_rows);
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
    }
  }

  // weights_ = P weight and grad_scores_ = dS = P (dP - delta), both with dropout, for a block of keys.
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
            Floats kept = weight, gradient = grad_weights[n][c];
            if constexpr (kDropout) {
              const Ints keep = this->keep(r + n, group + c);
              kept = keep ? weight * this->kept_ : Floats{};
              gradient = keep ? gradient * this->kept_ : Floats{};
            }
            simd::store(weights_ + (r + n) * kKeys + at + c * kLanes, kept);
            simd::store(grad_scores_ + (r + n) * kKeys + at + c * kLanes, weight * (gradient - delta_[r + n]));
          }
        }
      }
    });
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
  float top_[kRows];
  int64_t size_;
};

// ---------------------------------------------------------------- launch

// Runs every item on a worker made by make(pieces), one for each thread.
template <class Make>
void run_items(const Problem& p, const Plan& plan, const Make& make) {
  const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(p.threads, plan.items)));
  const int64_t size = round_up(make(Pieces(nullptr)).size(), 1024);
  const Buffer scratch(size * threads);
#pragma omp parallel num_threads(threads)
  {
    auto worker = make(Pieces(scratch.get() + size * omp_get_thread_num()));
#pragma omp for schedule(dynamic)
    for (int64_t number = 0; number < plan.items; ++number) worker.run(Item(p, plan, number));
  }
}

void add_chunks(const Problem& p, const Plan& plan, const Partial& partial, const Buffer& shares,
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

void add_tables(const Problem& p, const Plan& plan, const Partial& partial, float* gradient) {
  const int64_t tables = p.shared ? 1 : p.heads;
#pragma omp parallel for num_threads(p.threads)
  for (int64_t at = 0; at < tables * partial.table_size; ++at) {
    const int64_t head = at / partial.table_size;
    double sum = 0.0;
    for (int64_t number = 0; number < plan.items; ++number)
      if (p.shared || Item(p, plan, number).outer == head)
        sum += partial.table.get()[number * partial.table_size + at % partial.table_size];
    gradient[at] = static_cast<float>(sum);
  }
}

template <class Index, bool kDropout>
void forward_of(const Problem& p, const Heads& output, float* largest, float* weight) {
  const Shared<Index> shared(p);
  run_items(p, shared.plan,
            [&](Pieces pieces) { return Forward<Index, kDropout>(p, shared, pieces, output, largest, weight); });
}

template <class Index, bool kDropout>
void backward_of(const Problem& p, const Heads& grad_output, const Heads& output, const float* largest,
                 const float* weight, const Heads& grad_query, const Heads& grad_key, const Heads& grad_value, float* grad_table) {
  const Shared<Index> shared(p);
  Partial partial(p, shared.plan);
  run_items(p, shared.plan, [&](Pieces pieces) {
    return Backward<Index, kDropout>(p, shared, pieces, grad_output, output, largest, weight, grad_query, grad_key,
                                     grad_value, partial);
  });
  if (shared.plan.chunks > 1) {
    add_chunks(p, shared.plan, partial, partial.key, grad_key);
    add_chunks(p, shared.plan, partial, partial.value, grad_value);
  }
  add_tables(p, shared.plan, partial, grad_table);
}

}  // namespace

void forward(const Problem& p, const Heads& output, float* largest, float* weight) {
  const bool registers = p.buckets <= kRegisterBuckets;
  const auto run = p.dropout > 0 ? (registers ? forward_of<uint8_t, true> : forward_of<uint16_t, true>)
                                 : (registers ? forward_of<uint8_t, false> : forward_of<uint16_t, false>);
  run(p, output, largest, weight);
}

void backward(const Problem& p, const Heads& grad_output, const Heads& output, const float* largest,
              const float* weight, const Heads& grad_query, const Heads& grad_key, const Heads& grad_value, float* grad_table) {
  const bool registers = p.buckets <= kRegisterBuckets;
  const auto run = p.dropout > 0 ? (registers ? backward_of<uint8_t, true> : backward_of<uint16_t, true>)
                                 : (registers ? backward_of<uint8_t, false> : backward_of<uint16_t, false>);
  run(p, grad_output, output, largest, weight, grad_query, grad_key, grad_value, grad_table);
}

}  // namespace fusion::attention
