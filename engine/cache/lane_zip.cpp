// A lane whose rows become segments of ZipCache (engine/cache/zip_store.h).

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "engine/cache/lane.h"

namespace ashlar {

// Rows are decoded one by one: what waits in fp16 is coded from there.
void Lane::freeze(std::span<const int64_t> probes) {
  const int64_t n = waiting(), first = coded();
  ASHLAR_CHECK(zip_.has_value() && heads_ == 1 && raw_gone_ == 0);
  ASHLAR_CHECK_EQ(std::ssize(probes), n);
  const int64_t k = group_->key_dim, v = group_->value_dim;
  const std::vector<int64_t> order = zip_->order(probes);
  std::vector<float> keys(static_cast<size_t>(n * k)), values(static_cast<size_t>(n * v));
  std::vector<int32_t> positions;
  const FloatRows raw = raw_.rows() == 0 ? FloatRows{} : raw_.from(0);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = order[static_cast<size_t>(i)];
    positions.push_back(positions_[static_cast<size_t>(first + row)]);
    if (row < late_.rows()) {
      late_.decode(row, 1, keys.data() + i * k, values.data() + i * v);
      continue;
    }
    const int64_t at = row - late_.rows();
    std::copy_n(raw.keys + at * raw.key_stride, k, keys.data() + i * k);
    std::copy_n(raw.values + at * raw.value_stride, v, values.data() + i * v);
  }
  zip_->freeze(keys.data(), values.data(), n);
  zip_->forget_scores();
  std::ranges::copy(positions, positions_.begin() + first);
  late_.truncate(0);
  raw_.truncate(0);
  raw_.settle();
  begin_step();
}

// Segments are the text from its beginning on, each a stretch of it, both of its sets in order.
void Lane::check_segments(const LaneImage& image, const std::string& what) const {
  const auto ok = [&](bool holds, const char* reason) {
    require(holds, ErrorCode::kData, "{}: {}", what, reason);
  };
  if (!zip_) {
    ok(image.segments.empty(), "segments of a codec that the cache does not have");
    return;
  }
  int64_t first = 0;
  for (size_t s = 0; s + 1 < image.segments.size(); s += 2) {
    const int64_t rows = image.segments[s], salient = image.segments[s + 1];
    ok(rows >= 0 && salient >= 0 && salient <= rows && rows <= image.coded - first,
       "segments of more rows than are coded");
    const auto begin = image.positions.begin() + first;
    std::vector<int32_t> sorted(begin, begin + rows);
    ok(std::ranges::is_sorted(begin, begin + salient) &&
           std::ranges::is_sorted(begin + salient, begin + rows),
       "rows of a segment in another order");
    std::ranges::sort(sorted);
    ok(rows == 0 || (sorted.front() == first && sorted.back() == first + rows - 1),
       "a segment is no stretch of the text");
    first += rows;
  }
  ok(first == image.coded, "coded rows that are in no segment");
  ok(static_cast<int64_t>(image.coded_pages.size()) == zip_->bytes_of(image.segments, what),
     "the segments' bytes do not fit their rows");
}

}  // namespace ashlar
