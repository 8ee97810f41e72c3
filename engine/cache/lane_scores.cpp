#include "engine/cache/lane_scores.h"

#include <algorithm>

#include "core/base/error.h"
#include "engine/cache/tables.h"

namespace ashlar {

LaneScores::LaneScores(ScoreReducer reducer, int64_t readers, int64_t heads)
    : reducer_(reducer), heads_(heads) {
  if (reducer == ScoreReducer::kNone) return;
  now_.resize(static_cast<size_t>(readers * heads) * channels());
  held_.resize(now_.size());
}

LaneScores LaneScores::fork() const {
  LaneScores copy;
  copy.reducer_ = reducer_;
  copy.heads_ = heads_;
  copy.scored_rows_ = scored_rows_;
  copy.scored_end_ = scored_end_;
  for (const Buffer& buffer : now_) copy.now_.push_back(copy_table(buffer));
  copy.held_.resize(held_.size());
  return copy;
}

int64_t LaneScores::table_bytes() const {
  size_t floats = 0;
  for (const Buffer& buffer : now_) floats += buffer.capacity();
  for (const auto& rows : held_) {
    for (const Buffer& buffer : rows) floats += buffer.capacity();
  }
  return static_cast<int64_t>(4 * floats);
}

void LaneScores::advance(int64_t from, int64_t end) {
  if (now_.empty() || from >= end) return;
  const int64_t before = begins_at(from) ? 0 : scored_rows_;
  scored_rows_ = reducer_ == ScoreReducer::kLast ? 1 : before + end - from;
  scored_end_ = end;
}

void LaneScores::forget() {
  scored_rows_ = scored_end_ = 0;
  for (Buffer& buffer : now_) Buffer().swap(buffer);
}

void LaneScores::resize(int64_t slots, bool scores) {
  const bool none = now_.empty() || (scored_rows_ == 0 && now_[0].empty());
  if (none && !scores) return;
  for (Buffer& buffer : now_) {
    if (slots > static_cast<int64_t>(buffer.capacity())) fit_table(buffer, slots, kTableRows);
    buffer.resize(static_cast<size_t>(slots), 0.0f);
  }
}

void LaneScores::fit(int64_t slots) {
  if (scored_rows_ == 0) return;
  for (Buffer& buffer : now_) fit_table(buffer, slots, kTableRows);
}

void LaneScores::move(int64_t from, int64_t to) {
  if (scored_rows_ == 0) return;
  for (Buffer& b : now_) b[static_cast<size_t>(to)] = b[static_cast<size_t>(from)];
}

ScoreRows LaneScores::rows_of(float* first, float* second) const {
  switch (reducer_) {
    case ScoreReducer::kNone:
      return {};
    case ScoreReducer::kSum:
    case ScoreReducer::kLast:
      return {first, nullptr};
    case ScoreReducer::kCountBelow:
      return {nullptr, first};
    case ScoreReducer::kSumAndCount:
      return {first, second};
  }
  fail(ErrorCode::kInternal, "unknown reducer {}", static_cast<int>(reducer_));
}

ScoreRows LaneScores::add_to(int64_t buffer, bool anew) {
  Buffer* own = now_.data() + static_cast<size_t>(buffer) * channels();
  for (size_t c = 0; anew && c < channels(); ++c) std::fill(own[c].begin(), own[c].end(), 0.0f);
  return rows_of(own[0].data(), channels() == 2 ? own[1].data() : nullptr);
}

ScoreRows LaneScores::hold(int64_t buffer, int64_t row, int64_t slots, bool scores, bool anew) {
  float* added[2] = {};
  for (size_t c = 0; c < channels(); ++c) {
    const size_t i = static_cast<size_t>(buffer) * channels() + c;
    auto& held = held_[i];
    ASHLAR_CHECK_EQ(static_cast<int64_t>(held.size()), row);
    Buffer after;
    if (!scores || !anew) after = held.empty() ? now_[i] : held.back();
    if (scores) after.resize(static_cast<size_t>(slots), 0.0f);
    added[c] = held.emplace_back(std::move(after)).data();
  }
  return scores ? rows_of(added[0], added[1]) : ScoreRows{};
}

void LaneScores::truncate_held(int64_t rows) {
  for (auto& held : held_) held.resize(std::min(held.size(), static_cast<size_t>(rows)));
}

void LaneScores::adopt_held(int64_t slots) {
  for (size_t i = 0; i < now_.size(); ++i) {
    if (held_[i].empty()) continue;
    now_[i] = std::move(held_[i].back());
    if (!now_[i].empty()) now_[i].resize(static_cast<size_t>(slots), 0.0f);
    held_[i].clear();
  }
}

int LaneScores::count_channel() const {
  return reducer_ == ScoreReducer::kCountBelow    ? 0
         : reducer_ == ScoreReducer::kSumAndCount ? 1
                                                  : -1;
}

std::span<const float> LaneScores::total(int channel, int64_t slots, Buffer& scratch) const {
  if (now_.empty() || channel < 0) return {};
  const auto c = static_cast<size_t>(channel);
  if (scored_rows_ > 0 && now_.size() == channels()) return now_[c];
  scratch.assign(static_cast<size_t>(slots), 0.0f);
  if (scored_rows_ == 0) return scratch;
  scratch = now_[c];
  for (size_t i = c + channels(); i < now_.size(); i += channels()) {
    for (size_t s = 0; s < scratch.size(); ++s) scratch[s] += now_[i][s];
  }
  return scratch;
}

std::span<const float> LaneScores::by_head(int channel, int64_t slots, Buffer& scratch) const {
  if (now_.empty() || channel < 0) return {};
  const auto n = static_cast<size_t>(slots), heads = static_cast<size_t>(heads_);
  scratch.assign(heads * n, 0.0f);
  if (scored_rows_ == 0) return scratch;
  for (size_t i = static_cast<size_t>(channel); i < now_.size(); i += channels()) {
    float* out = scratch.data() + i / channels() % heads * n;
    for (size_t s = 0; s < n; ++s) out[s] += now_[i][s];
  }
  return scratch;
}

std::span<const float> LaneScores::sums(int64_t slots, Buffer& scratch) const {
  return total(sum_channel(), slots, scratch);
}

std::span<const float> LaneScores::counts(int64_t slots, Buffer& scratch) const {
  return total(count_channel(), slots, scratch);
}

std::span<const float> LaneScores::head_sums(int64_t slots, Buffer& scratch) const {
  return by_head(sum_channel(), slots, scratch);
}

std::span<const float> LaneScores::head_counts(int64_t slots, Buffer& scratch) const {
  return by_head(count_channel(), slots, scratch);
}

void LaneScores::load(std::vector<Buffer> image, int64_t scored_rows, int64_t scored_end) {
  ASHLAR_CHECK_EQ(image.size(), now_.size());
  now_ = std::move(image);
  scored_rows_ = scored_rows;
  scored_end_ = scored_end;
}

}  // namespace ashlar
