#include "engine/cache/zip_store.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/cache/tables.h"

namespace ashlar {
namespace {

ZipShape shape_of(const KvGroup& group) { return {group.key_dim, group.value_dim}; }

}  // namespace

ZipStore::ZipStore(const KvGroup& group, const ZipOptions& options, int64_t page_rows,
                   PagePool& pool)
    : options_(options),
      shape_(shape_of(group)),
      pool_(&pool),
      salient_(zip_page(shape_, kZipSalient, page_rows), pool),
      regular_(zip_page(shape_, kZipRegular, page_rows), pool),
      scores_(2) {}

ZipStore::~ZipStore() {
  for (const Segment& segment : segments_) pool_->give(segment.parameters);
}

ZipStore::ZipStore(ZipStore&& other) noexcept
    : options_(other.options_),
      shape_(other.shape_),
      pool_(other.pool_),
      salient_(std::move(other.salient_)),
      regular_(std::move(other.regular_)),
      segments_(std::exchange(other.segments_, {})),
      runs_(std::exchange(other.runs_, {})),
      scores_(std::exchange(other.scores_, {})) {}

ZipStore ZipStore::fork(PagePool& pool) const {
  KvGroup group;
  group.key_dim = shape_.key_dim;
  group.value_dim = shape_.value_dim;
  ZipStore copy(group, options_, salient_.shape().page_rows, pool);
  copy.salient_.adopt(salient_.pages(), salient_.rows());
  copy.regular_.adopt(regular_.pages(), regular_.rows());
  copy.segments_ = copy_table(segments_);
  for (const Segment& segment : segments_) pool.share(segment.parameters);
  for (size_t half = 0; half < scores_.size(); ++half) {
    copy.scores_[half] = copy_table(scores_[half]);
  }
  copy.rebuild_runs();
  return copy;
}

bool ZipStore::is_salient(int64_t slot) const {
  for (const Segment& segment : segments_) {
    if (slot < segment.rows) return slot < segment.salient;
    slot -= segment.rows;
  }
  fail(ErrorCode::kInternal, "slot {} behind all segments", slot);
}

int64_t ZipStore::table_bytes() const {
  size_t numbers = 0;
  for (const auto& half : scores_) numbers += half.capacity();
  return salient_.table_bytes() + regular_.table_bytes() +
         static_cast<int64_t>(segments_.capacity() * sizeof(Segment) +
                              runs_.capacity() * sizeof(KvRun) + 4 * numbers);
}

int64_t ZipStore::bits() const {
  int64_t bytes = segments() * zip_parameter_bytes(shape_);
  for (const RowStore* list : {&salient_, &regular_}) {
    bytes += list->rows() * (list->page_bytes() / list->shape().page_rows);
  }
  return 8 * bytes;
}

namespace {

// Of segments that `waiting` rows make, one after the other.
int64_t most_segments(const ZipOptions& options, int64_t waiting) {
  return waiting / options.every;
}

}  // namespace

int64_t ZipStore::reserve(PagePool& pool, int64_t waiting) const {
  const int64_t segments = most_segments(options_, waiting);
  if (segments == 0) return 0;
  // Each segment rounds its share by one row at most.
  const int64_t salient = std::min(waiting, ashlar::salient_rows(options_, waiting) + segments);
  const int64_t regular =
      std::min(waiting, waiting - ashlar::salient_rows(options_, waiting) + segments);
  int64_t bytes = 0;
  const auto put_aside = [&](int64_t page_bytes, int64_t pages) {
    pool.reserve(page_bytes, pages);
    bytes += page_bytes * pages;
  };
  put_aside(salient_.page_bytes(), salient_.pages_for(salient));
  put_aside(regular_.page_bytes(), regular_.pages_for(regular));
  put_aside(zip_parameter_bytes(shape_), segments);
  return bytes;
}

int64_t ZipStore::tables_for(int64_t waiting) const {
  const int64_t more = most_segments(options_, waiting), n = segments() + more;
  const int64_t page = static_cast<int64_t>(sizeof(PageId) + sizeof(void*));
  const int64_t pages = ceil_div(waiting, salient_.shape().page_rows) + 2 * kTablePages;
  int64_t bytes = static_cast<int64_t>(scores_.size()) * 4 * (waiting + kTableRows);
  if (more == 0) return bytes;
  bytes += 2 * pages * page;
  return bytes + round_up(n, kTablePages) * static_cast<int64_t>(sizeof(Segment)) +
         round_up(2 * n, kTablePages) * static_cast<int64_t>(sizeof(KvRun));
}

int64_t ZipStore::work_bytes(int64_t waiting) const {
  if (most_segments(options_, waiting) == 0) return 0;
  return waiting * (8 * (shape_.key_dim + shape_.value_dim) + 32);
}

void ZipStore::resize_scores(int64_t waiting, bool probe) {
  for (auto& half : scores_) {
    if (!half.empty() || probe) resize_table(half, waiting, kTableRows);
  }
}

void ZipStore::forget_scores() {
  for (auto& half : scores_) std::vector<uint32_t>().swap(half);
}

std::vector<int64_t> ZipStore::order(std::span<const int64_t> probes) const {
  const size_t n = probes.size();
  std::vector<float> saliency(n);
  for (size_t row = 0; row < n; ++row) {
    const double sum =
        row < scores_[0].size() ? score_value(scores_[0][row], scores_[1][row]) : 0.0;
    saliency[row] = probes[row] == 0 ? std::numeric_limits<float>::infinity()
                                     : static_cast<float>(sum / static_cast<double>(probes[row]));
  }
  std::vector<int64_t> rows(n);
  std::iota(rows.begin(), rows.end(), 0);
  const auto salient = rows.begin() + ashlar::salient_rows(options_, static_cast<int64_t>(n));
  std::nth_element(rows.begin(), salient, rows.end(), [&](int64_t a, int64_t b) {
    const float x = saliency[static_cast<size_t>(a)], y = saliency[static_cast<size_t>(b)];
    return x > y || (x == y && a > b);
  });
  std::sort(rows.begin(), salient);
  std::sort(salient, rows.end());
  return rows;
}

ZipChannels ZipStore::channels(const Segment& segment, CodecKind set) const {
  return zip_channels(shape_, set, pool_->arena().address(segment.parameters));
}

void ZipStore::add_segment(int64_t rows, int64_t salient) {
  fit_table(segments_, segments() + 1, kTablePages);
  segments_.push_back({static_cast<int32_t>(rows), static_cast<int32_t>(salient),
                       pool_->take(zip_parameter_bytes(shape_))});
}

void ZipStore::freeze(const float* keys, const float* values, int64_t rows) {
  ASHLAR_CHECK_GE(rows, 1);
  const int64_t salient = ashlar::salient_rows(options_, rows);
  const int64_t k = shape_.key_dim, v = shape_.value_dim;
  add_segment(rows, salient);
  zip_parameters(shape_, keys, values, rows, salient,
                 pool_->arena().writable(segments_.back().parameters));
  salient_.append(salient, {keys, values, k, v, channels(segments_.back(), kZipSalient)});
  regular_.append(rows - salient, {keys + salient * k, values + salient * v, k, v,
                                   channels(segments_.back(), kZipRegular)});
  rebuild_runs();
}

// Pages may have moved: the first of what a fork shares is copied when it is written to.
void ZipStore::rebuild_runs() {
  runs_.clear();
  fit_table(runs_, 2 * segments(), kTablePages);
  int64_t at[2] = {0, 0};
  for (const Segment& segment : segments_) {
    const auto add = [&](const RowStore& list, int64_t& first, int64_t rows) {
      if (rows == 0) return;
      KvRun run = list.run(0, first, rows);
      const ZipChannels c = channels(segment, list.shape().key_codec);
      run.key_channels = c.key;
      run.value_channels = c.value;
      runs_.push_back(run);
      first += rows;
    };
    add(salient_, at[0], segment.salient);
    add(regular_, at[1], segment.rows - segment.salient);
  }
}

std::vector<int32_t> ZipStore::image_segments() const {
  std::vector<int32_t> out;
  for (const Segment& segment : segments_) {
    out.push_back(segment.rows);
    out.push_back(segment.salient);
  }
  return out;
}

std::vector<std::byte> ZipStore::image_bytes() const {
  std::vector<std::byte> out = salient_.image();
  const std::vector<std::byte> others = regular_.image();
  out.insert(out.end(), others.begin(), others.end());
  for (const Segment& segment : segments_) {
    const std::byte* from = pool_->arena().address(segment.parameters);
    out.insert(out.end(), from, from + zip_parameter_bytes(shape_));
  }
  return out;
}

int64_t ZipStore::bytes_of(std::span<const int32_t> segments, const std::string& what) const {
  require(segments.size() % 2 == 0, ErrorCode::kData, "{}: half a segment", what);
  int64_t salient = 0, regular = 0;
  for (size_t s = 0; s < segments.size(); s += 2) {
    const int64_t rows = segments[s];
    require(rows >= options_.every && segments[s + 1] == ashlar::salient_rows(options_, rows),
            ErrorCode::kData, "{}: a segment of {} rows, of which {} are salient", what, rows,
            segments[s + 1]);
    salient += segments[s + 1];
    regular += rows - segments[s + 1];
  }
  const int64_t page_rows = salient_.shape().page_rows;
  const auto lists = checked_add(
      checked_mul(ceil_div(salient, page_rows), salient_.page_bytes(), "KV pages"),
      checked_mul(ceil_div(regular, page_rows), regular_.page_bytes(), "KV pages"), "KV pages");
  return checked_add(lists,
                     checked_mul(std::ssize(segments) / 2, zip_parameter_bytes(shape_), "KV pages"),
                     "KV pages");
}

void ZipStore::reserve_image(PagePool& pool, std::span<const int32_t> segments) const {
  int64_t salient = 0, regular = 0;
  for (size_t s = 0; s < segments.size(); s += 2) {
    salient += segments[s + 1];
    regular += segments[s] - segments[s + 1];
  }
  const int64_t page_rows = salient_.shape().page_rows;
  pool.reserve(salient_.page_bytes(), ceil_div(salient, page_rows));
  pool.reserve(regular_.page_bytes(), ceil_div(regular, page_rows));
  pool.reserve(zip_parameter_bytes(shape_), std::ssize(segments) / 2);
}

void ZipStore::load(std::span<const int32_t> segments, std::span<const std::byte> bytes,
                    std::vector<std::vector<uint32_t>> scores) {
  ASHLAR_CHECK_EQ(rows(), 0);
  int64_t salient = 0, regular = 0;
  for (size_t s = 0; s < segments.size(); s += 2) {
    salient += segments[s + 1];
    regular += segments[s] - segments[s + 1];
  }
  const auto list_bytes = [](const RowStore& list, int64_t rows) {
    return static_cast<size_t>(ceil_div(rows, list.shape().page_rows) * list.page_bytes());
  };
  const size_t first = list_bytes(salient_, salient), second = list_bytes(regular_, regular);
  salient_.load(bytes.subspan(0, first), salient);
  regular_.load(bytes.subspan(first, second), regular);
  const auto each = static_cast<size_t>(zip_parameter_bytes(shape_));
  for (size_t s = 0, at = first + second; s < segments.size(); s += 2, at += each) {
    add_segment(segments[s], segments[s + 1]);
    std::memcpy(pool_->arena().writable(segments_.back().parameters), bytes.data() + at, each);
  }
  scores_ = std::move(scores);
  rebuild_runs();
}

}  // namespace ashlar
