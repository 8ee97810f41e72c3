#include "engine/cache/lane_scores.h"

#include <algorithm>

#include "core/base/error.h"
#include "engine/cache/tables.h"

namespace ashlar {

LaneScores::LaneScores(const ScoreKind& kind, int64_t heads)
    : kind_(kind), heads_(heads), now_(static_cast<size_t>(kind.tables(heads))) {}

LaneScores LaneScores::fork() const {
  LaneScores copy;
  copy.kind_ = kind_;
  copy.heads_ = heads_;
  copy.scored_rows_ = scored_rows_;
  copy.scored_end_ = scored_end_;
  for (const Table& table : now_) copy.now_.push_back(copy_table(table));
  return copy;
}

int64_t LaneScores::table_bytes() const {
  size_t numbers = 0;
  for (const Table& table : now_) numbers += table.capacity();
  for (const HeldRow& row : held_) {
    for (const Table& table : row.tables) numbers += table.capacity();
  }
  return static_cast<int64_t>(sizeof(uint32_t) * numbers);
}

void LaneScores::advance(int64_t from, int64_t end) {
  if (now_.empty() || from >= end) return;
  const int64_t before = begins_at(from) ? 0 : scored_rows_;
  scored_rows_ = kind_.reducer == ScoreReducer::kLast ? 1 : before + end - from;
  scored_end_ = end;
}

void LaneScores::forget() {
  scored_rows_ = scored_end_ = 0;
  for (Table& table : now_) Table().swap(table);
}

namespace {

void give_slots(std::vector<LaneScores::Table>& tables, int64_t slots) {
  for (LaneScores::Table& table : tables) resize_table(table, slots, kTableRows);
}

}  // namespace

void LaneScores::resize(int64_t slots) {
  if (now_.empty() || (scored_rows_ == 0 && now_[0].empty())) return;
  give_slots(now_, slots);
}

void LaneScores::begin(int64_t from, int64_t slots) {
  give_slots(now_, slots);
  if (!begins_at(from)) return;
  for (Table& table : now_) std::fill(table.begin(), table.end(), 0);
}

void LaneScores::fit(int64_t slots) {
  if (scored_rows_ == 0) return;
  for (Table& table : now_) fit_table(table, slots, kTableRows);
}

void LaneScores::move(int64_t from, int64_t to) {
  if (scored_rows_ == 0) return;
  for (Table& table : now_) table[static_cast<size_t>(to)] = table[static_cast<size_t>(from)];
}

ScoreRows LaneScores::rows_of(std::vector<Table>& tables, int64_t head) {
  ScoreRows rows;
  if (tables.empty()) return rows;
  Table* own = tables.data() + (kind_.by_head ? static_cast<size_t>(head) * each() : 0);
  if (kind_.sums()) rows.sums = {own[0].data(), own[1].data()};
  if (kind_.counts()) rows.counts = own[each() - 1].data();
  return rows;
}

void LaneScores::hold(int64_t slots, bool scores, bool anew) {
  HeldRow& row = held_.emplace_back();
  row.scores = scores;
  row.anew = anew;
  if (!scores) return;
  row.tables.resize(now_.size());
  give_slots(row.tables, slots);
}

ScoreRows LaneScores::add_to_held(int64_t row, int64_t head) {
  return rows_of(held_[static_cast<size_t>(row)].tables, head);
}

void LaneScores::truncate_held(int64_t rows) {
  held_.resize(std::min(held_.size(), static_cast<size_t>(rows)));
}

void LaneScores::adopt_held(int64_t slots) {
  for (HeldRow& row : held_) {
    if (!row.scores) continue;
    give_slots(now_, slots);
    if (row.anew) {
      for (Table& table : now_) std::fill(table.begin(), table.end(), 0);
    }
    for (int64_t b = 0; b < buffers(); ++b) {
      const auto first = static_cast<size_t>(b) * each();
      const auto n =
          static_cast<int64_t>(std::min(row.tables[first].size(), static_cast<size_t>(slots)));
      Table *to = now_.data() + first, *from = row.tables.data() + first;
      if (kind_.sums()) {
        add_scores({to[0].data(), to[1].data()}, {from[0].data(), from[1].data()}, n);
      }
      if (!kind_.counts()) continue;
      add_counts(to[each() - 1].data(), from[each() - 1].data(), n);
    }
  }
  held_.clear();
}

// value(tables of a buffer, slot) is a whole number of `unit`s; those of all buffers are added, or
// stay apart.
template <typename Value>
std::span<const float> LaneScores::numbers(bool kept, bool apart, double unit, int64_t slots,
                                           std::vector<float>& scratch, Value value) const {
  if (!kept || (apart && !kind_.by_head)) return {};
  const int64_t parts = apart ? buffers() : 1, added = buffers() / parts;
  scratch.assign(static_cast<size_t>(parts * slots), 0.0f);
  if (scored_rows_ == 0) return scratch;
  for (int64_t part = 0; part < parts; ++part) {
    const Table* const first = now_.data() + static_cast<size_t>(part * added) * each();
    float* const out = scratch.data() + part * slots;
    for (int64_t slot = 0; slot < slots; ++slot) {
      uint64_t sum = 0;
      for (int64_t b = 0; b < added; ++b) {
        sum += value(first + static_cast<size_t>(b) * each(), static_cast<size_t>(slot));
      }
      out[slot] = static_cast<float>(unit * static_cast<double>(static_cast<int64_t>(sum)));
    }
  }
  return scratch;
}

namespace {

uint64_t sum_in(const LaneScores::Table* tables, size_t slot) {
  return score_units(tables[0][slot], tables[1][slot]);
}

}  // namespace

std::span<const float> LaneScores::sums(int64_t slots, std::vector<float>& scratch) const {
  return numbers(kind_.sums(), false, kScoreUnit, slots, scratch, sum_in);
}

std::span<const float> LaneScores::head_sums(int64_t slots, std::vector<float>& scratch) const {
  return numbers(kind_.sums(), true, kScoreUnit, slots, scratch, sum_in);
}

std::span<const float> LaneScores::all_counts(bool apart, int64_t slots,
                                              std::vector<float>& scratch) const {
  return numbers(kind_.counts(), apart, 1, slots, scratch,
                 [last = each() - 1](const Table* tables, size_t slot) -> uint64_t {
                   return tables[last][slot];
                 });
}

std::span<const float> LaneScores::counts(int64_t slots, std::vector<float>& scratch) const {
  return all_counts(false, slots, scratch);
}

std::span<const float> LaneScores::head_counts(int64_t slots, std::vector<float>& scratch) const {
  return all_counts(true, slots, scratch);
}

void LaneScores::load(std::vector<Table> image, int64_t scored_rows, int64_t scored_end) {
  ASHLAR_CHECK_EQ(image.size(), now_.size());
  now_ = std::move(image);
  scored_rows_ = scored_rows;
  scored_end_ = scored_end;
}

}  // namespace ashlar
