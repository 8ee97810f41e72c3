// A lane's rows apart from where they lie: for swapping, saving and comparing.

#include <algorithm>
#include <functional>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/cache/lane.h"

namespace ashlar {

LaneImage Lane::image() const {
  ASHLAR_CHECK_EQ(raw_.rows(), raw_before_);  // between steps
  LaneImage image;
  image.positions = positions_;
  image.sinks = sinks_.rows();
  image.coded = coded();
  image.late = late_.rows();
  image.sink_pages = sinks_.image();
  image.coded_pages = zip_ ? zip_->image_bytes() : coded_.image();
  image.late_pages = late_.image();
  image.raw = raw_.image();
  image.scores = zip_ ? zip_->image_scores() : scores_.image();
  if (zip_) image.segments = zip_->image_segments();
  image.scored_rows = scores_.scored_rows();
  image.scored_end = scores_.scored_end();
  image.front = front_;
  if (!recall_) return image;
  const auto resident = recall_->resident();
  image.resident.assign(resident.begin(), resident.end());
  image.query.assign(recall_->query().begin(), recall_->query().end());
  for (int32_t page = 0; page < recall_->pages(); ++page) {
    if (std::ranges::binary_search(resident, page)) continue;
    const size_t end = image.backup.size();
    image.backup.resize(end + static_cast<size_t>(coded_.page_bytes()));
    recall_->backup(page).read(std::span(image.backup).subspan(end));
  }
  return image;
}

void Lane::load(const LaneImage& image) {
  ASHLAR_CHECK_EQ(rows(), 0);
  positions_ = image.positions;
  sinks_.load(image.sink_pages, image.sinks);
  if (zip_) {
    zip_->load(image.segments, image.coded_pages, image.scores);
  } else {
    coded_.load(image.coded_pages, image.coded);
    scores_.load(image.scores, image.scored_rows, image.scored_end);
  }
  late_.load(image.late_pages, image.late);
  raw_.load(image.raw);
  front_ = image.front;
  begin_step();
  if (recall_) load_recall(image);
}

void Lane::load_recall(const LaneImage& image) {
  intact_ = image.backup.empty();
  const std::byte* away = image.backup.data();
  size_t held = 0;
  const auto pages = static_cast<int32_t>(
      image.resident.size() + image.backup.size() / static_cast<size_t>(coded_.page_bytes()));
  for (int32_t page = 0; page < pages; ++page) {
    if (held < image.resident.size() && image.resident[held] == page) {
      recall_->add(coded_.address(static_cast<int64_t>(held++)));
    } else {
      recall_->add(away);
      away += coded_.page_bytes();
    }
  }
  recall_->set_resident(image.resident);
  recall_->set_query(image.query);
}

// Each filled page in one place: resident, or in the backup alone.
void Lane::check_recall(const LaneImage& image, int64_t complete, const std::string& what) const {
  const auto ok = [&](bool holds, const char* reason) {
    require(holds, ErrorCode::kData, "{}: {}", what, reason);
  };
  if (!recall_) {
    ok(image.resident.empty() && image.backup.empty() && image.query.empty(),
       "pages in a backup, but the policy recalls none");
    return;
  }
  const int64_t pages = complete / schedule_.page_rows;
  const auto resident = static_cast<int64_t>(image.resident.size());
  ok(resident <= pages && image.coded == resident * schedule_.page_rows &&
         static_cast<int64_t>(image.backup.size()) ==
             checked_mul(pages - resident, coded_.page_bytes(), "KV backup"),
     "the filled pages of the text are not all there");
  ok(std::ranges::adjacent_find(image.resident, std::greater_equal{}) == image.resident.end() &&
         (resident == 0 || (image.resident.front() >= 0 && image.resident.back() < pages)),
     "resident pages that are none of the text's, or in another order");
  for (int64_t row = 0; row < image.coded; ++row) {
    const int64_t page = image.resident[static_cast<size_t>(row / schedule_.page_rows)];
    ok(image.positions[static_cast<size_t>(row)] ==
           page * schedule_.page_rows + row % schedule_.page_rows,
       "rows of a resident page are not its own");
  }
  const auto query = static_cast<int64_t>(image.query.size());
  ok(query % (heads_ * group_->key_dim) == 0, "a query of no possible length");
}

void Lane::reserve_image(PagePool& pool, const LaneImage& image) const {
  const int64_t rows = schedule_.page_rows;
  pool.reserve(sinks_.page_bytes(), ceil_div(image.sinks, rows));
  if (zip_) {
    zip_->reserve_image(pool, image.segments);
  } else {
    pool.reserve(coded_.page_bytes(), ceil_div(image.coded, rows));
  }
  pool.reserve(late_.page_bytes(), ceil_div(image.late, rows));
  if (!image.raw.empty()) pool.reserve(raw_.page_bytes(), 1);
}

void Lane::check_image(const LaneImage& image, int64_t position, int64_t p,
                       const std::string& what) const {
  const auto ok = [&](bool holds, const char* reason) {
    require(holds, ErrorCode::kData, "{}: {}", what, reason);
  };
  const auto rows = static_cast<int64_t>(image.positions.size());
  ok(image.sinks >= 0 && image.coded >= 0 && image.late >= 0 && image.sinks <= rows &&
         image.coded <= rows - image.sinks && image.late <= rows - image.sinks - image.coded,
     "more encoded rows than positions");
  const int64_t encoded = image.sinks + image.coded + image.late, raw = rows - encoded;
  ok(raw <= schedule_.page_rows, "more raw rows than a page holds");
  const auto pages_are = [&](const std::vector<std::byte>& pages, const RowStore& store,
                             int64_t count) {
    return static_cast<int64_t>(pages.size()) ==
           checked_mul(ceil_div(count, schedule_.page_rows), store.page_bytes(), "KV pages");
  };
  ok(pages_are(image.sink_pages, sinks_, image.sinks) &&
         (zip_ || pages_are(image.coded_pages, coded_, image.coded)) &&
         pages_are(image.late_pages, late_, image.late) &&
         static_cast<int64_t>(image.raw.size()) == raw * raw_.row_floats(),
     "the rows' bytes do not fit their number");
  check_segments(image, what);
  ok(image.scores.size() == (zip_ ? zip_->image_scores() : scores_.image()).size(),
     "scores of another policy");
  ok(image.scored_rows >= 0 && image.scored_rows <= image.scored_end &&
         image.scored_end <= position && (image.scored_rows > 0 || image.scored_end == 0) &&
         (image.scored_rows == 0 || (!image.scores.empty() && !zip_)),
     "the rows that have scored do not fit the text");
  for (const auto& scores : image.scores) {
    // Rows of a segment have none; those that wait all or none.
    const int64_t of = zip_ ? (image.scores.front().empty() ? 0 : rows - image.coded)
                            : (image.scored_rows > 0 ? rows : 0);
    ok(static_cast<int64_t>(scores.size()) == of, "scores do not fit the rows");
  }
  // Every row where the schedule wants it, none twice.
  std::vector<int32_t> sorted = image.positions;
  std::sort(sorted.begin(), sorted.end());
  ok(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(), "a position twice");
  ok(sorted.empty() || (sorted.front() >= 0 && sorted.back() < position),
     "a position outside the text");
  const int64_t complete = schedule_.complete(p);
  const int64_t coded = zip_ ? image.coded : schedule_.coded(p);
  const auto all_in = [&](int64_t from, int64_t count, int64_t low, int64_t high, bool ascend) {
    const auto begin = image.positions.begin() + from, end = begin + count;
    return std::all_of(begin, end, [&](int32_t at) { return at >= low && at < high; }) &&
           (!ascend || std::is_sorted(begin, end));
  };
  const int64_t precise = std::min(schedule_.sinks, complete);
  ok(all_in(0, image.sinks, 0, precise, true) &&
         all_in(image.sinks, image.coded, precise, coded, group_->window > 0) &&
         all_in(image.sinks + image.coded, image.late, std::max(precise, coded), complete, true) &&
         all_in(encoded, raw, std::max(complete, coded), position, true),
     "a row is not where its position belongs");
  ok(image.front >= 0 && image.front <= position && image.front % schedule_.release == 0 &&
         (group_->window > 0 || image.front == 0),
     "released rows do not fit the text");
  ok(group_->window == 0 ||
         (rows == position - image.front && (rows == 0 || sorted.front() == image.front)),
     "rows of a window are not the newest ones");
  ok(!zip_ || rows == position, "rows of the text are missing");
  check_recall(image, complete, what);
}

}  // namespace ashlar
