#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "engine/cache/sequence_cache.h"
#include "kernels/kv_page.h"

// A cache as its description has it, without pages, sharing or steps under way: vectors of rows.

namespace ashlar::test {

struct ShadowRow {
  int32_t position = 0;
  std::vector<float> keys, values;  ///< of the lane's heads, as attention reads them
  std::vector<float> scores;        ///< of each (reader, head)
};

class ShadowLane {
 public:
  ShadowLane(const KvGroup& group, int64_t head_begin, int64_t heads, const CacheOptions& options,
             size_t buffers)
      : group_(&group),
        head_begin_(head_begin),
        heads_(heads),
        options_(options),
        buffers_(buffers) {}

  /// Query rows that have scored without a gap, and the position behind the last of them.
  int64_t run = 0, run_end = 0;

  /// The query at p scores: its probabilities of all rows up to its own. `afresh`: only the newest
  /// query counts.
  template <typename Probability>
  void score(int64_t p, bool afresh, const Probability& probability) {
    if (afresh || run == 0 || run_end != p) forget_scores();
    ++run;
    run_end = p + 1;
    for (ShadowRow* row : rows()) {
      if (row->position > p) continue;
      for (size_t b = 0; b < row->scores.size(); ++b) row->scores[b] += probability(*row, b);
    }
  }
  void forget_scores() {
    run = run_end = 0;
    for (ShadowRow* row : rows()) std::fill(row->scores.begin(), row->scores.end(), 0.0f);
  }

  int64_t head_begin() const { return head_begin_; }
  int64_t heads() const { return heads_; }

  /// A row of the whole group, [heads, key_dim] and [heads, value_dim].
  void append(int64_t position, const float* keys, const float* values) {
    ShadowRow row;
    row.position = static_cast<int32_t>(position);
    const float* k = keys + head_begin_ * group_->key_dim;
    row.keys.assign(k, k + heads_ * group_->key_dim);
    if (!group_->value_in_key) {
      const float* v = values + head_begin_ * group_->value_dim;
      row.values.assign(v, v + heads_ * group_->value_dim);
    }
    row.scores.resize(buffers_);
    raw_.push_back(std::move(row));
  }

  /// Gives every row the form that the query at p sees it in.
  void age(int64_t p) {
    const int64_t rows = options_.page_rows, complete = p / rows * rows;
    const auto pages = [&](int64_t n) { return (n + rows - 1) / rows * rows; };
    const int64_t coded = complete - pages(options_.residual);
    const int64_t sinks = group_->window > 0 ? 0 : pages(options_.precise_sinks);
    while (!raw_.empty() && raw_.front().position < complete) {
      ShadowRow row = take_first(raw_);
      if (row.position < sinks) {
        sinks_.push_back(stored(row, CodecKind::kF16, CodecKind::kF16));
      } else if (options_.residual > 0) {
        late_.push_back(stored(row, CodecKind::kF16, CodecKind::kF16));
      } else {
        coded_.push_back(stored(row, options_.key_codec, options_.value_codec));
      }
    }
    while (!late_.empty() && late_.front().position < coded) {
      coded_.push_back(stored(take_first(late_), options_.key_codec, options_.value_codec));
    }
  }

  /// What a group with a window forgets before the query at p.
  void forget(int64_t p) {
    if (group_->window == 0) return;
    const int64_t unit =
        std::lcm(attention_unit(options_.key_codec, options_.value_codec), options_.page_rows);
    const int64_t unseen = std::max<int64_t>(0, p + 1 - group_->window) - forgotten_;
    const int64_t gone = std::min(unseen, static_cast<int64_t>(coded_.size())) / unit * unit;
    coded_.erase(coded_.begin(), coded_.begin() + std::max<int64_t>(0, gone));
    forgotten_ += std::max<int64_t>(0, gone);
  }

  void drop(const std::vector<int64_t>& slots) {
    size_t first = 0, next = 0;
    for (std::vector<ShadowRow>* rows : {&sinks_, &coded_, &late_, &raw_}) {
      std::vector<bool> doomed(rows->size());
      for (; next < slots.size() && static_cast<size_t>(slots[next]) < first + rows->size(); ++next)
        doomed[static_cast<size_t>(slots[next]) - first] = true;
      first += rows->size();
      if (rows == &coded_) {
        fill_holes(doomed);
        continue;
      }
      std::vector<ShadowRow> kept;
      for (size_t r = 0; r < rows->size(); ++r) {
        if (!doomed[r]) kept.push_back(std::move((*rows)[r]));
      }
      *rows = std::move(kept);
    }
  }

  /// Rows in slot order.
  std::vector<ShadowRow*> rows() {
    std::vector<ShadowRow*> out;
    for (std::vector<ShadowRow>* part : {&sinks_, &coded_, &late_, &raw_}) {
      for (ShadowRow& row : *part) out.push_back(&row);
    }
    return out;
  }

 private:
  static ShadowRow take_first(std::vector<ShadowRow>& rows) {
    ShadowRow row = std::move(rows.front());
    rows.erase(rows.begin());
    return row;
  }

  ShadowRow stored(ShadowRow row, CodecKind key, CodecKind value) const {
    const KvPageShape shape{
        key, value, heads_, group_->key_dim, group_->value_dim, group_->value_in_key, 1};
    std::vector<std::byte> page(static_cast<size_t>(kv_page_bytes(shape)));
    float* values = row.values.empty() ? nullptr : row.values.data();
    kv_page_encode(shape, page.data(), 0, 1, row.keys.data(), 0, values, 0);
    kv_page_decode(shape, page.data(), 0, 1, row.keys.data(), 0, values, 0);
    return row;
  }

  // docs/adr/0002: the last rows fill the holes.
  void fill_holes(const std::vector<bool>& doomed) {
    const auto kept = static_cast<size_t>(std::count(doomed.begin(), doomed.end(), false));
    size_t source = coded_.size();
    for (size_t hole = 0; hole < kept; ++hole) {
      if (!doomed[hole]) continue;
      do --source;
      while (doomed[source]);
      coded_[hole] = std::move(coded_[source]);
    }
    coded_.resize(kept);
  }

  const KvGroup* group_;
  int64_t head_begin_, heads_;
  CacheOptions options_;
  size_t buffers_;
  int64_t forgotten_ = 0;
  std::vector<ShadowRow> sinks_, coded_, late_, raw_;
};

}  // namespace ashlar::test
