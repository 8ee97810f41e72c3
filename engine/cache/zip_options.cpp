#include "engine/cache/zip_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

template <typename Number>
Number number_of(std::string_view key, std::string_view text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  require(error == std::errc{} && stop == end, ErrorCode::kRequest, "--kv-zip {}={}: is no number",
          key, text);
  return number;
}

void read_item(std::string_view key, std::string_view text, int64_t block_length, ZipOptions& out) {
  if (key == "salient") {
    out.salient = number_of<double>(key, text);
  } else if (key == "probes") {
    out.probes = number_of<double>(key, text);
  } else if (key == "every") {
    const auto tokens = number_of<int64_t>(key, text);
    require(tokens >= 1, ErrorCode::kRequest, "--kv-zip every={}: needs at least one token", text);
    out.every = ceil_div(tokens, block_length);
  } else if (key == "seed") {
    out.seed = number_of<uint64_t>(key, text);
  } else {
    fail(ErrorCode::kRequest,
         "--kv-zip: '{}' is not one of salient, probes, every, seed (as in salient=0.6)", key);
  }
}

int64_t nearest(double x) { return static_cast<int64_t>(std::floor(x + 0.5)); }

}  // namespace

ZipOptions read_zip(const std::string& text, int64_t block_length) {
  ZipOptions out;
  out.every = ceil_div(out.every, block_length);
  std::vector<std::string_view> seen;
  const std::string_view whole = text;
  for (size_t at = 0; !whole.empty() && at <= whole.size();) {
    const size_t end = std::min(whole.find(',', at), whole.size());
    const std::string_view item = whole.substr(at, end - at);
    const size_t equals = std::min(item.find('='), item.size());
    const std::string_view key = item.substr(0, equals);
    require(std::ranges::find(seen, key) == seen.end(), ErrorCode::kRequest,
            "--kv-zip: {} is given twice", key);
    seen.push_back(key);
    read_item(key, item.substr(std::min(equals + 1, item.size())), block_length, out);
    at = end + 1;
  }
  validate(out);
  return out;
}

std::string write_zip(const ZipOptions& o) {
  return fmt::format("salient={},probes={},every={},seed={}", o.salient, o.probes, o.every, o.seed);
}

std::string zip_help() {
  return fmt::format(
      "zipcache: share of rows that get 4 bits (the others 2), share of query rows that rank them, "
      "tokens that wait in fp16, seed of the probes, as in {}, which is the default",
      write_zip({}));
}

void validate(const ZipOptions& o) {
  require(o.salient >= 0 && o.salient <= 1, ErrorCode::kRequest,
          "--kv-zip salient={}: a share of the rows is a number from 0 to 1", o.salient);
  require(o.probes > 0 && o.probes <= 1, ErrorCode::kRequest,
          "--kv-zip probes={}: a share of the query rows is a number above 0, up to 1", o.probes);
  require(o.every >= 1 && o.every <= INT32_MAX, ErrorCode::kRequest,
          "--kv-zip every={}: use 1 to {} rows", o.every, INT32_MAX);
}

int64_t salient_rows(const ZipOptions& options, int64_t rows) {
  return std::clamp<int64_t>(nearest(options.salient * static_cast<double>(rows)), 0, rows);
}

ProbeRows::ProbeRows(const ZipOptions& options, int64_t begin, int64_t end)
    : seed_(options.seed), begin_(begin), end_(end) {
  ASHLAR_CHECK(begin >= 0 && end > begin);
  const int64_t half = nearest(options.probes / 2 * static_cast<double>(end - begin));
  newest_ = std::clamp<int64_t>(half, 1, end - begin);
  drawn_ = std::min(half, end - begin - newest_);
}

bool ProbeRows::contains(int64_t row) const {
  if (row < begin_ || row >= end_) return false;
  if (row >= end_ - newest_) return true;
  if (drawn_ == 0) return false;
  const int64_t older = end_ - newest_ - begin_, place = row - begin_;
  const int64_t stretch = place * drawn_ / older;
  const int64_t first = ceil_div(stretch * older, drawn_);
  const int64_t last = ceil_div((stretch + 1) * older, drawn_);
  const Philox rng(seed_, static_cast<uint64_t>(begin_) << 32 | static_cast<uint64_t>(end_));
  const uint64_t pick =
      rng.below(static_cast<uint64_t>(stretch), static_cast<uint64_t>(last - first));
  return place == first + static_cast<int64_t>(pick);
}

std::vector<int64_t> ProbeRows::counts_from(int64_t first, int64_t last) const {
  std::vector<int64_t> counts(static_cast<size_t>(last - first));
  int64_t count = 0;
  for (int64_t row = last - 1; row >= first; --row) {
    count += contains(row) ? 1 : 0;
    counts[static_cast<size_t>(row - first)] = count;
  }
  return counts;
}

}  // namespace ashlar
