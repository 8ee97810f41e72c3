#include "engine/cache/lane_scores.h"

#include <algorithm>

#include "core/base/error.h"
#include "engine/cache/tables.h"

namespace ashlar {

LaneScores::LaneScores(ScoreReducer reducer, int64_t buffers) : reducer_(reducer) {
  if (reducer == ScoreReducer::kNone) return;
  now_.resize(static_cast<size_t>(buffers) * channels());
  held_.resize(now_.size());
}

LaneScores LaneScores::fork() const {
  LaneScores copy;
  copy.reducer_ = reducer_;
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

void LaneScores::resize(int64_t slots) {
  for (Buffer& buffer : now_) {
    if (slots > static_cast<int64_t>(buffer.capacity())) fit_table(buffer, slots, kTableRows);
    buffer.resize(static_cast<size_t>(slots), 0.0f);
  }
}

void LaneScores::fit(int64_t slots) {
  for (Buffer& buffer : now_) fit_table(buffer, slots, kTableRows);
}

void LaneScores::move(int64_t from, int64_t to) {
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

ScoreRows LaneScores::add_to(int64_t buffer, bool newest) {
  if (now_.empty()) return {};
  Buffer* own = now_.data() + static_cast<size_t>(buffer) * channels();
  if (afresh()) {
    if (!newest) return {};
    std::fill(own->begin(), own->end(), 0.0f);
  }
  return rows_of(own[0].data(), channels() == 2 ? own[1].data() : nullptr);
}

ScoreRows LaneScores::hold(int64_t buffer, int64_t row, int64_t slots) {
  if (now_.empty()) return {};
  float* added[2] = {};
  for (size_t c = 0; c < channels(); ++c) {
    const size_t i = static_cast<size_t>(buffer) * channels() + c;
    auto& held = held_[i];
    ASHLAR_CHECK_EQ(static_cast<int64_t>(held.size()), row);
    Buffer scores;
    if (!afresh()) scores = held.empty() ? now_[i] : held.back();
    scores.resize(static_cast<size_t>(slots), 0.0f);
    added[c] = held.emplace_back(std::move(scores)).data();
  }
  return rows_of(added[0], added[1]);
}

void LaneScores::truncate_held(int64_t rows) {
  for (auto& held : held_) held.resize(std::min(held.size(), static_cast<size_t>(rows)));
}

void LaneScores::adopt_held(int64_t slots) {
  for (size_t i = 0; i < now_.size(); ++i) {
    if (held_[i].empty()) continue;
    now_[i] = std::move(held_[i].back());
    now_[i].resize(static_cast<size_t>(slots), 0.0f);
    held_[i].clear();
  }
}

std::span<const float> LaneScores::total(size_t channel, Buffer& scratch) const {
  if (now_.empty()) return {};
  if (now_.size() == channels()) return now_[channel];
  scratch = now_[channel];
  for (size_t i = channel + channels(); i < now_.size(); i += channels()) {
    for (size_t s = 0; s < scratch.size(); ++s) scratch[s] += now_[i][s];
  }
  return scratch;
}

std::span<const float> LaneScores::sums(Buffer& scratch) const {
  if (reducer_ == ScoreReducer::kCountBelow) return {};
  return total(0, scratch);
}

std::span<const float> LaneScores::counts(Buffer& scratch) const {
  if (reducer_ == ScoreReducer::kCountBelow) return total(0, scratch);
  if (reducer_ == ScoreReducer::kSumAndCount) return total(1, scratch);
  return {};
}

void LaneScores::load(std::vector<Buffer> image) {
  ASHLAR_CHECK_EQ(image.size(), now_.size());
  now_ = std::move(image);
}

}  // namespace ashlar
