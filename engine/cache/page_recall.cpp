#include "engine/cache/page_recall.h"

#include <algorithm>
#include <limits>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/cache/tables.h"

namespace ashlar {

PageRecall::PageRecall(const RecallNeeds& needs, const KvPageShape& shape, BackupStore* store)
    : shape_(shape),
      store_(store),
      digest_{needs.digest, DigestAbout::kCuboid, true, shape.key_dim},
      digest_rows_(needs.digest_rows),
      units_(shape.page_rows / needs.digest_rows),
      digest_bytes_(ashlar::digest_bytes(digest_)) {
  ASHLAR_CHECK_EQ(needs.page_rows, shape.page_rows);
  ASHLAR_CHECK_EQ(units_ * digest_rows_, shape.page_rows);
}

PageRecall::PageRecall(const PageRecall& other)
    : shape_(other.shape_),
      store_(other.store_),
      digest_(other.digest_),
      digest_rows_(other.digest_rows_),
      units_(other.units_),
      digest_bytes_(other.digest_bytes_),
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

void PageRecall::fit_tables(int64_t n) {
  const int64_t per_page = digests_per_page() * digest_bytes_;
  fit_table(backups_, n, kTablePages);
  fit_table(resident_, n, kTablePages);
  fit_table(digests_, n * per_page, kTablePages * per_page);
}

// Digests are of what attention sees of the page, decoded.
void PageRecall::add(const std::byte* page) {
  const auto bytes = static_cast<size_t>(kv_page_bytes(shape_));
  const auto number = static_cast<int32_t>(pages());
  fit_tables(number + 1);
  backups_.push_back(store_->add({page, bytes}));
  const size_t at = digests_.size();
  digests_.resize(at + static_cast<size_t>(digests_per_page() * digest_bytes_));
  std::vector<std::byte> space(static_cast<size_t>(kv_features_scratch_bytes(shape_.key_dim, 0)) +
                               64);
  void* scratch = space.data();
  size_t room = space.size();
  std::align(64, room - 64, scratch, room);
  for (int64_t head = 0; head < shape_.heads; ++head) {
    KvHeadView view;
    view.runs[0] = kv_page_run(shape_, head);
    view.runs[0].pages = &page;
    view.runs[0].rows = shape_.page_rows;
    view.run_count = 1;
    for (int64_t unit = 0; unit < units_; ++unit) {
      digest_keys(digest_, view, unit * digest_rows_, digest_rows_,
                  digests_.data() + at + (unit * shape_.heads + head) * digest_bytes_,
                  static_cast<std::byte*>(scratch));
    }
  }
  resident_.push_back(number);
}

// Each thread takes one span of pages with all heads: memory is read fastest in long pieces. Where
// a page has one digest a head, the mean over query heads is one product with the sum of their
// weights.
void PageRecall::score(std::span<const float> query, ThreadPool* pool,
                       std::vector<float>& scores) const {
  constexpr int64_t kLeast = 64;  // pages that are worth a thread
  const int64_t threads = pool == nullptr ? 1 : pool->size();
  const int64_t span_pages = std::max(kLeast, ceil_div(pages(), threads));
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
    const std::byte* const digests = digests_.data() + first * digests_per_page() * digest_bytes_;
    if (units_ == 1) {
      digest_dots(digest_.half, shape_.heads * numbers, digests, shape_.heads * digest_bytes_, n,
                  weights.data(), 1, scores.data() + first);
      for (int64_t page = first; page < first + n; ++page) {
        scores[static_cast<size_t>(page)] /= static_cast<float>(query_heads);
      }
    } else {
      score_units(digests, n, weights, shared, scores.data() + first);
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
void PageRecall::score_units(const std::byte* digests, int64_t pages,
                             std::span<const float> weights, int64_t shared, float* scores) const {
  const int64_t numbers = digest_numbers(digest_);
  std::vector<float> of_units(static_cast<size_t>(pages * units_ * shared));
  std::vector<double> sums(static_cast<size_t>(pages), 0.0);
  for (int64_t head = 0; head < shape_.heads; ++head) {
    digest_dots(digest_.half, numbers, digests + head * digest_bytes_, shape_.heads * digest_bytes_,
                pages * units_, weights.data() + head * shared * numbers, shared, of_units.data());
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

int64_t PageRecall::page_table_bytes() const {
  return static_cast<int64_t>(sizeof(Backup)) + 4 + digests_per_page() * digest_bytes_;
}

int64_t PageRecall::tables_for(int64_t more) const {
  return (more + 2 * kTablePages) * page_table_bytes();
}

int64_t PageRecall::tables_of(int64_t pages) const {
  return round_up(pages, kTablePages) * page_table_bytes();
}

}  // namespace ashlar
