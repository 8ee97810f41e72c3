#include "engine/cache/lane.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/cache/tables.h"

namespace ashlar {
namespace {

KvPageShape shape_of(const KvGroup& group, int64_t heads, int64_t page_rows, CodecKind key,
                     CodecKind value) {
  return {key, value, heads, group.key_dim, group.value_dim, group.value_in_key, page_rows};
}

KvPageShape precise_shape(const KvGroup& group, int64_t heads, int64_t page_rows) {
  return shape_of(group, heads, page_rows, CodecKind::kF16, CodecKind::kF16);
}

}  // namespace

Lane::Lane(const KvGroup& group, int64_t head_begin, int64_t heads, const CacheOptions& options,
           const ScoreKind& scores, PagePool& pool, const RecallNeeds* recall)
    : group_(&group),
      head_begin_(head_begin),
      heads_(heads),
      schedule_(schedule_of(options, group.window > 0)),
      sinks_(precise_shape(group, heads, options.page_rows), pool),
      coded_(shape_of(group, heads, options.page_rows, options.key_codec, options.value_codec),
             pool),
      late_(precise_shape(group, heads, options.page_rows), pool),
      raw_(group, heads, options.page_rows, pool),
      scores_(scores, heads) {
  if (recall != nullptr) recall_.emplace(*recall, coded_.shape(), &pool.arena().backups());
  if (zips(options, group)) zip_.emplace(group, *options.zip, options.page_rows, pool);
}

Lane::Lane(const Lane& other, const KvGroup& group, PagePool& pool)
    : group_(&group),
      head_begin_(other.head_begin_),
      heads_(other.heads_),
      schedule_(other.schedule_),
      sinks_(other.sinks_.fork(pool)),
      coded_(other.coded_.fork(pool)),
      late_(other.late_.fork(pool)),
      raw_(other.raw_.fork(pool)),
      positions_(copy_table(other.positions_)),
      scores_(other.scores_.fork()),
      front_(other.front_),
      intact_(other.intact_),
      sinks_before_(other.sinks_before_),
      coded_before_(other.coded_before_),
      late_before_(other.late_before_),
      raw_before_(other.raw_before_) {
  if (other.recall_) recall_.emplace(other.recall_->fork());
  if (other.zip_) zip_.emplace(other.zip_->fork(pool));
}

Lane Lane::fork(const KvGroup& group, PagePool& pool) const {
  ASHLAR_CHECK_EQ(raw_.rows(), raw_before_);  // between steps
  return {*this, group, pool};
}

int64_t Lane::table_bytes() const {
  return static_cast<int64_t>(4 * positions_.capacity()) + scores_.table_bytes() +
         sinks_.table_bytes() + coded_.table_bytes() + late_.table_bytes() + raw_.table_bytes() +
         (recall_ ? recall_->table_bytes() : 0) + (zip_ ? zip_->table_bytes() : 0);
}

// Rows among slots [slot, …), which hold ascending positions, that lie below `limit`.
int64_t Lane::below(int64_t slot, int64_t limit) const {
  const auto from = positions_.begin() + slot;
  return std::lower_bound(from, positions_.end(), limit) - from;
}

// Raw rows ascend; so do late and raw rows together. Rows go to the sinks only while no others are
// encoded, so slots of rows that change their form do not change.
Lane::Placement Lane::place(int64_t p) const {
  const int64_t complete = schedule_.complete(p);
  Placement at;
  at.ready = below(raw_slot(), complete);
  at.precise = below(raw_slot(), std::min(complete, schedule_.sinks));
  if (schedule_.residual > 0) {
    at.due = below(sinks_before_ + at.precise + coded_before_, schedule_.coded(p));
  }
  return at;
}

void Lane::code_late(int64_t from, int64_t to) {
  const int64_t rows = to - from;
  const int64_t key_width = heads_ * group_->key_dim;
  const int64_t value_width = group_->value_in_key ? 0 : heads_ * group_->value_dim;
  std::vector<float> keys(static_cast<size_t>(rows * key_width));
  std::vector<float> values(static_cast<size_t>(rows * value_width));
  late_.decode(from, rows, keys.data(), values.data());
  coded_.append(rows, {keys.data(), values.data(), key_width, value_width});
}

// Makes the encoded forms that the query at p sees.
void Lane::advance(int64_t p) {
  const Placement at = place(p);
  if (raw_gone_ < at.precise) {
    sinks_.append(at.precise - raw_gone_, raw_.from(raw_gone_));
    raw_gone_ = at.precise;
  }
  if (raw_gone_ < at.ready) {
    (schedule_.residual > 0 ? late_ : coded_).append(at.ready - raw_gone_, raw_.from(raw_gone_));
    raw_gone_ = at.ready;
  }
  if (late_gone_ < at.due) {
    code_late(late_gone_, at.due);
    late_gone_ = at.due;
  }
}

int64_t Lane::reserve(PagePool& pool, int64_t position, int64_t rows, int64_t step, bool drops,
                      bool freezes) const {
  int64_t bytes = zip_ && freezes ? zip_->reserve(pool, waiting() + rows) : 0;
  const auto put_aside = [&](int64_t page_bytes, int64_t pages) {
    pool.reserve(page_bytes, pages);
    bytes += page_bytes * pages;
  };
  put_aside(raw_.page_bytes(), raw_.pages_for(rows));
  if (drops) {
    for (const RowStore* store : {&sinks_, &coded_, &late_}) {
      put_aside(store->page_bytes(), store->shared_pages());
    }
  }
  // As place() will count once the rows are in.
  const int64_t end = position + rows, complete = schedule_.complete(end);
  const auto count = [&](int64_t slot, int64_t limit) {
    return below(slot, limit) + std::max<int64_t>(0, limit - position);
  };
  const int64_t ready = count(raw_slot(), complete);
  // Late rows that leave make the others move up, in pages of their own.
  if (schedule_.residual > 0 && (ready > raw_gone_ || late_gone_ > 0)) {
    put_aside(late_.page_bytes(), late_.shared_pages());
  }
  if (ready <= raw_gone_) return bytes;
  // Pages for `more` rows, of which the store never holds more than `most` at a time.
  const auto pages = [&](const RowStore& store, int64_t more, int64_t most) {
    const auto held = static_cast<int64_t>(store.pages().size());
    const int64_t bound = ceil_div(most, schedule_.page_rows) + 1 - held;
    return std::min(store.pages_for(more), std::max<int64_t>(0, bound) + store.shared_pages());
  };
  const int64_t precise = count(raw_slot(), std::min(complete, schedule_.sinks));
  const int64_t encoded = ready - std::max(precise, raw_gone_);
  const int64_t in_step = schedule_.page_rows + raw_.rows() + std::min(rows, step);
  const int64_t held =
      group_->window > 0 ? group_->window + schedule_.release + in_step : INT32_MAX;
  put_aside(sinks_.page_bytes(), sinks_.pages_for(std::max<int64_t>(0, precise - raw_gone_)));
  if (schedule_.residual == 0) {
    put_aside(coded_.page_bytes(), pages(coded_, encoded, held));
    return bytes;
  }
  put_aside(late_.page_bytes(), pages(late_, encoded, schedule_.residual + in_step));
  const int64_t due = count(sinks_.rows() + coded_before_, schedule_.coded(end));
  put_aside(coded_.page_bytes(), pages(coded_, due - late_gone_, held));
  return bytes;
}

int64_t Lane::staging_bytes(int64_t rows) const {
  const int64_t all = raw_.rows() + rows;
  return all <= schedule_.page_rows ? 0 : 4 * all * raw_.row_floats();
}

void Lane::append(int64_t position, int64_t before, int64_t rows, const float* keys,
                  const float* values) {
  raw_.append(rows, keys, values, head_begin_);
  fit_table(positions_, this->rows() + rows, kTableRows);
  const int64_t first = position + before;
  for (int64_t r = 0; r < rows; ++r) positions_.push_back(static_cast<int32_t>(first + r));
  scores_.resize(this->rows());
  advance(first + rows - 1);
}

QueryTile Lane::tile(int64_t position, int64_t p) const {
  const Placement at = place(p);
  QueryTile tile;
  tile.sinks = sinks_before_ + at.precise;
  const int64_t encoded = at.ready - at.precise;
  if (schedule_.residual == 0) {
    tile.coded = coded_before_ + encoded;
  } else {
    tile.coded = coded_before_ + at.due;
    tile.runs = kMaxKvRuns + (zip_ ? std::ssize(zip_->runs()) : 0);
    tile.late_first = at.due;
    tile.late = late_before_ + encoded - at.due;
  }
  tile.raw_offset = at.ready;
  tile.raw_visible = raw_before_ + p - position - at.ready + 1;
  return tile;
}

QueryTile Lane::everything() const {
  QueryTile tile;
  tile.rows = 1;
  tile.sinks = sinks_.rows();
  tile.coded = coded();
  tile.late = late_.rows();
  tile.raw_visible = raw_.rows();
  return tile;
}

KvHeadView Lane::view(int64_t head, const QueryTile& tile) const {
  const int64_t local = head - head_begin_;
  KvHeadView view;
  const auto add = [&](const RowStore& store, int64_t first, int64_t rows) {
    if (rows > 0) view.runs[view.run_count++] = store.run(local, first, rows);
  };
  add(sinks_, 0, tile.sinks);
  if (zip_) {
    view.segments = zip_->runs().data();
    view.segment_runs = std::ssize(zip_->runs());
  } else {
    add(coded_, 0, tile.coded);
  }
  add(late_, tile.late_first, tile.late);
  raw_.view(local, tile.raw_offset, view);
  return view;
}

void Lane::truncate(int64_t position, int64_t rows) {
  raw_.truncate(raw_before_ + rows);
  positions_.resize(static_cast<size_t>(sinks_before_ + coded_before_ + late_before_) +
                    static_cast<size_t>(raw_.rows()));
  scores_.resize(this->rows());
  const Placement at = rows == 0 ? Placement{} : place(position + rows - 1);
  const int64_t encoded = at.ready - at.precise;
  sinks_.truncate(sinks_before_ + at.precise);
  coded_.truncate(coded_before_ + (schedule_.residual == 0 ? encoded : at.due));
  late_.truncate(late_before_ + (schedule_.residual == 0 ? 0 : encoded));
  scores_.truncate_held(rows);
  raw_gone_ = at.ready;
  late_gone_ = at.due;
  if (rows == 0) raw_.settle();
}

void Lane::begin_step() {
  sinks_before_ = sinks_.rows();
  coded_before_ = coded();
  late_before_ = late_.rows();
  raw_before_ = raw_.rows();
  raw_gone_ = late_gone_ = 0;
}

void Lane::retire() {
  raw_.drop_front(raw_gone_);
  late_.drop_front(late_gone_);
  begin_step();
}

// Holes among coded rows are filled with the last of them, so a drop moves as many rows as it
// removes (docs/adr/0002); the few rows of the other kinds close up in order.
void Lane::drop(std::span<const int64_t> slots) {
  if (slots.empty()) return;
  ASHLAR_CHECK(!zip_);
  intact_ = false;
  const auto move = [&](int64_t from, int64_t to) {
    positions_[static_cast<size_t>(to)] = positions_[static_cast<size_t>(from)];
    scores_.move(from, to);
  };
  std::vector<int64_t> own;  // dropped slots of a store, from its first on
  size_t next = 0;
  int64_t first = 0, to = 0;
  const auto begin_store = [&](int64_t rows) {
    own.clear();
    for (; next < slots.size() && slots[next] < first + rows; ++next) {
      own.push_back(slots[next] - first);
    }
    return own.size();
  };
  const auto close_up = [&](auto& store) {
    const int64_t rows = store.rows();
    begin_store(rows);
    size_t gone = 0;
    for (int64_t r = 0; r < rows; ++r) {
      if (gone < own.size() && own[gone] == r) {
        ++gone;
      } else {
        if (to != first + r) move(first + r, to);
        ++to;
      }
    }
    store.drop_in_order(own);
    first += rows;
  };
  close_up(sinks_);
  const int64_t rows = coded_.rows(), shift = first - to;
  begin_store(rows);
  for (int64_t r = 0; shift > 0 && r < rows; ++r) move(first + r, to + r);
  coded_.drop_filling(own, [&](int64_t from, int64_t hole) { move(to + from, to + hole); });
  first += rows;
  to += coded_.rows();
  close_up(late_);
  close_up(raw_);
  positions_.resize(static_cast<size_t>(to));
  scores_.resize(to);
  begin_step();
}

void Lane::finish(int64_t position, int64_t p) {
  advance(p);
  retire();
  if (recall_) add_filled_pages();
  raw_.settle();
  release_front(position);
  fit_table(positions_, rows(), kTableRows);
  scores_.fit(rows());
}

void Lane::release_front(int64_t position) {
  const int64_t gone = released(position) - front_;
  if (gone <= 0) return;
  coded_.drop_front_pages(gone / schedule_.page_rows);
  positions_.erase(positions_.begin(), positions_.begin() + gone);
  front_ += gone;
  begin_step();
}

// Rows in front that are gone once the next row is the one at `position`: whole tiles from the
// first coded row on, so that attention reduces the others as before.
int64_t Lane::released(int64_t position) const {
  if (group_->window == 0) return 0;
  const int64_t unseen = std::max<int64_t>(0, position + 1 - group_->window);
  return std::min(unseen, schedule_.coded(position)) / schedule_.release * schedule_.release;
}

}  // namespace ashlar
