#include "engine/cache/page_recall.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/cache/scratch.h"
#include "engine/cache/tables.h"

namespace ashlar {
namespace {

// Corners that bound the keys are rounded outwards, a sphere's radius is no element of a vector:
// they stay fp16.
bool is_coded(DigestKind kind) {
  return kind == DigestKind::kCuboidCentre || kind == DigestKind::kCuboidMean;
}

}  // namespace

PageRecall::PageRecall(const RecallNeeds& needs, const KvPageShape& shape, BackupStore* store)
    : shape_(shape),
      store_(store),
      coded_(is_coded(needs.digest)),
      digest_{needs.digest, DigestAbout::kCuboid, !coded_, shape.key_dim},
      digest_rows_(needs.digest_rows),
      units_(shape.page_rows / needs.digest_rows),
      head_bytes_(coded_ ? coded_block_bytes({2, shape.key_dim}) : digest_bytes(digest_)) {
  ASHLAR_CHECK_EQ(needs.page_rows, shape.page_rows);
  ASHLAR_CHECK_EQ(units_ * digest_rows_, shape.page_rows);
}

PageRecall::PageRecall(const PageRecall& other)
    : shape_(other.shape_),
      store_(other.store_),
      coded_(other.coded_),
      digest_(other.digest_),
      digest_rows_(other.digest_rows_),
      units_(other.units_),
      head_bytes_(other.head_bytes_),
      backups_(copy_table(other.backups_)),
      digests_(copy_table(other.digests_)),
      resident_(copy_table(other.resident_)),
      query_(copy_table(other.query_)) {}

void PageRecall::set_resident(std::span<const int32_t> pages) {
  resident_.assign(pages.begin(), pages.end());
}

void PageRecall::set_query(std::span<const float> query) {
  if (query.empty()) {
    query_ = {};
  } else {
    query_.assign(query.begin(), query.end());
  }
}

int64_t PageRecall::digest_table_bytes(int64_t pages) const {
  const int64_t blocks =
      coded_ ? ceil_div(pages * units_, kCodedDigests) : round_up(pages, kTablePages) * units_;
  return blocks * block_bytes();
}

// Digests are of what attention sees of the page, decoded.
void PageRecall::add(const std::byte* page) {
  const auto bytes = static_cast<size_t>(kv_page_bytes(shape_));
  const auto number = static_cast<int32_t>(pages());
  fit_table(backups_, number + 1, kTablePages);
  fit_table(resident_, number + 1, kTablePages);
  fit_table(digests_, digest_table_bytes(number + 1), 1);
  backups_.push_back(store_->add({page, bytes}));
  digests_.resize(static_cast<size_t>(ceil_div(pages() * units_, block_units()) * block_bytes()));
  std::vector<std::byte> space;
  std::byte* const scratch = fit_aligned(space, kv_features_scratch_bytes(shape_.key_dim, 0));
  std::vector<float> corners(static_cast<size_t>(digest_numbers(digest_)));
  for (int64_t head = 0; head < shape_.heads; ++head) {
    KvHeadView view;
    view.runs[0] = kv_page_run(shape_, head);
    view.runs[0].pages = &page;
    view.runs[0].rows = shape_.page_rows;
    view.run_count = 1;
    for (int64_t unit = 0; unit < units_; ++unit) {
      const int64_t index = number * units_ + unit;
      std::byte* const at =
          digests_.data() + index / block_units() * block_bytes() + head * head_bytes_;
      std::byte* const digest = coded_ ? reinterpret_cast<std::byte*>(corners.data()) : at;
      digest_keys(digest_, view, unit * digest_rows_, digest_rows_, digest, scratch);
      if (coded_) code_digest({2, shape_.key_dim}, at, index % kCodedDigests, corners.data());
    }
  }
  resident_.push_back(number);
}

// Estimates from `count` digests of `heads` heads, from the first digest of a block and head `head`
// on: weights [queries, heads, numbers], dots [count, queries].
void PageRecall::dots(int64_t first, int64_t count, int64_t head, int64_t heads,
                      std::span<const float> weights, int64_t queries, float* dots) const {
  const int64_t numbers = heads * digest_numbers(digest_);
  const std::byte* const at =
      digests_.data() + first / block_units() * block_bytes() + head * head_bytes_;
  if (!coded_) {
    digest_dots(digest_.half, numbers, at, block_bytes(), count, weights.data(), queries, dots);
    return;
  }
  const CodedDigests shape{2 * heads, shape_.key_dim};
  std::vector<std::byte> space;
  std::byte* const scratch = fit_aligned(space, coded_scratch_bytes(shape));
  const auto query_dots = [&](int64_t h, float* out) {
    coded_dots(shape, at, block_bytes(), count, weights.data() + h * numbers, out, scratch);
  };
  if (queries == 1) return query_dots(0, dots);
  std::vector<float> own(static_cast<size_t>(count));
  for (int64_t h = 0; h < queries; ++h) {
    query_dots(h, own.data());
    for (int64_t i = 0; i < count; ++i) dots[i * queries + h] = own[static_cast<size_t>(i)];
  }
}

// Each thread takes one span of pages with all heads: memory is read fastest in long pieces. Where
// a page has one digest a head, the mean over query heads is one product with the sum of their
// weights.
void PageRecall::score(std::span<const float> query, ThreadPool* pool,
                       std::vector<float>& scores) const {
  constexpr int64_t kLeast = 64;  // pages that are worth a thread
  const int64_t threads = pool == nullptr ? 1 : pool->size();
  const int64_t span_pages = round_up(std::max(kLeast, ceil_div(pages(), threads)), kCodedDigests);
  const int64_t query_heads = static_cast<int64_t>(query.size()) / shape_.key_dim;
  const int64_t shared = query_heads / shape_.heads, numbers = digest_numbers(digest_);
  ASHLAR_CHECK_EQ(shared * shape_.heads * shape_.key_dim, static_cast<int64_t>(query.size()));
  scores.resize(static_cast<size_t>(pages()));
  const int64_t summed = units_ == 1 ? shared : 1;  // query heads whose weights are one
  std::vector<float> weights(static_cast<size_t>(query_heads / summed * numbers));
  for (int64_t h = 0; h < query_heads; ++h) {
    add_digest_weights(digest_, query.data() + h * shape_.key_dim,
                       weights.data() + h / summed * numbers);
  }
  const auto score_span = [&](int64_t span, int) {
    const int64_t first = span * span_pages, n = std::min(span_pages, pages() - first);
    if (units_ == 1) {
      dots(first, n, 0, shape_.heads, weights, 1, scores.data() + first);
      for (int64_t page = first; page < first + n; ++page) {
        scores[static_cast<size_t>(page)] /= static_cast<float>(query_heads);
      }
    } else {
      score_units(first, n, weights, shared, scores.data() + first);
    }
  };
  const int64_t spans = ceil_div(pages(), span_pages);
  if (pool != nullptr) {
    pool->parallel_for(spans, score_span);
  } else {
    for (int64_t span = 0; span < spans; ++span) score_span(span, 0);
  }
}

// Of a page's digests a query head counts the largest estimate.
void PageRecall::score_units(int64_t first, int64_t pages, std::span<const float> weights,
                             int64_t shared, float* scores) const {
  const int64_t of_head = shared * digest_numbers(digest_), units = pages * units_;
  std::vector<float> of_units(static_cast<size_t>(units * shared));
  std::vector<double> sums(static_cast<size_t>(pages), 0.0);
  for (int64_t head = 0; head < shape_.heads; ++head) {
    dots(first * units_, units, head, 1,
         weights.subspan(static_cast<size_t>(head * of_head), static_cast<size_t>(of_head)), shared,
         of_units.data());
    for (int64_t page = 0; page < pages; ++page) {
      const float* const of_page = of_units.data() + page * units_ * shared;
      for (int64_t h = 0; h < shared; ++h) {
        float best = of_page[h];
        for (int64_t u = 1; u < units_; ++u) best = std::max(best, of_page[u * shared + h]);
        sums[static_cast<size_t>(page)] += static_cast<double>(best);
      }
    }
  }
  for (int64_t page = 0; page < pages; ++page) {
    scores[page] = static_cast<float>(sums[static_cast<size_t>(page)] /
                                      static_cast<double>(shared * shape_.heads));
  }
}

void PageRecall::fetch_ahead(std::span<const float> scores, int64_t count) const {
  if (count == 0 || store_->file_bytes() == 0) return;
  std::vector<int32_t> others;
  size_t held = 0;
  for (int32_t page = 0; page < static_cast<int32_t>(pages()); ++page) {
    if (held < resident_.size() && resident_[held] == page) {
      ++held;
    } else {
      others.push_back(page);
    }
  }
  const auto better = [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  };
  count = std::min(count, std::ssize(others));
  if (count == 0) return;
  std::nth_element(others.begin(), others.begin() + (count - 1), others.end(), better);
  for (int64_t i = 0; i < count; ++i) backup(others[static_cast<size_t>(i)]).will_need();
}

int64_t PageRecall::table_bytes() const {
  return static_cast<int64_t>(backups_.capacity() * sizeof(Backup) + digests_.capacity() +
                              4 * resident_.capacity());
}

int64_t PageRecall::backup_bytes() const { return pages() * kv_page_bytes(shape_); }

int64_t PageRecall::tables_for(int64_t more) const {
  const int64_t pages = more + 2 * kTablePages;
  return pages * kPageEntries + digest_table_bytes(pages) + 2 * block_bytes();
}

int64_t PageRecall::tables_of(int64_t pages) const {
  return round_up(pages, kTablePages) * kPageEntries + digest_table_bytes(pages);
}

}  // namespace ashlar
