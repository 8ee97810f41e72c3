// ArkVale: page-based recall (Chen et al., NeurIPS 2024, "ArkVale: Efficient Generative LLM
// Inference with Recallable Key-Value Eviction"), written from its description.
//
// Every filled page has a digest of its keys (eq. 1–4: DigestKind) and a copy in a backup. A query
// q scores all of them (eq. for max_k q·k), the k best pages must be resident when it attends; what
// they displace are the resident pages of least score. The first n_sink and the newest n_win pages
// always are. k = topk − n_sink − (n_win − 1) over pages [n_sink, n_pages − n_win), n_pages and
// n_win counting the page under way. At a prompt's end its last query fills the whole budget.
//
// Choices and deviations:
// - The budget is in rows: B = ⌊budget/P⌋ pages, the one under way included, and nothing is evicted
//   while the text is no longer than the budget (the authors count pages of a text that is).
// - A page that fills up where the budget is used up displaces the page of least score by the next
//   query; the authors' code lets the oldest page of the window go.
// - Scores stay fp32; equal ones: the newer page is better, as everywhere here. A score that is not
//   a number is the least.
// - topk defaults to the paper's min(1280 tokens, half the budget), but to one page at least beside
//   sinks and window. n_win is that of `recent`, one page of rows by default: 2 pages.
// - Attention reads resident pages in the order of the text (the authors: in slots' order).

#include "engine/policy/arkvale.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <ranges>
#include <string>
#include <utility>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "engine/policy/policy_uses.h"
#include "engine/policy/row_budget.h"

namespace ashlar {
namespace {

constexpr std::pair<DigestKind, std::string_view> kDigests[] = {
    {DigestKind::kCuboidMax, "cuboid_max"},       {DigestKind::kCuboidCentre, "cuboid_center"},
    {DigestKind::kCuboidMean, "cuboid_mean"},     {DigestKind::kSphereMax, "sphere_max"},
    {DigestKind::kSphereCentre, "sphere_center"}, {DigestKind::kSphereMean, "sphere_mean"},
};

constexpr int64_t kMostTopkTokens = 1280;  // C of the paper

// "cuboid_mean:8"
void read_digest(const PolicyOptions& o, RecallNeeds& needs) {
  needs.page_rows = needs.digest_rows = o.page_rows;
  if (o.digest.empty()) return;
  const size_t colon = std::min(o.digest.find(':'), o.digest.size());
  needs.digest = digest_from_name(std::string_view(o.digest).substr(0, colon));
  if (colon == o.digest.size()) return;
  const char *begin = o.digest.data() + colon + 1, *end = o.digest.data() + o.digest.size();
  const auto [stop, error] = std::from_chars(begin, end, needs.digest_rows);
  require(error == std::errc{} && stop == end && needs.digest_rows >= 1 &&
              o.page_rows % needs.digest_rows == 0,
          ErrorCode::kRequest,
          "--kv-digest {}: the rows of a digest must divide a page, which has {} rows", o.digest,
          o.page_rows);
}

class Arkvale final : public Policy {
 public:
  Arkvale(const ArkvaleBudget& budget, const RecallNeeds& needs)
      : Policy({.recall = needs}), budget_(budget) {}

  void select(std::span<const LaneView> /*lanes*/, std::span<LaneEdit> /*edits*/) const override {}

  bool chooses(const PagesView& view) const override {
    if (view.query < budget_.rows) return false;
    const auto resident = static_cast<int64_t>(view.resident.size());
    return view.prompt_end || view.query % budget_.every == 0 || resident > budget_.pages - 1;
  }
  std::vector<int32_t> choose_pages(const PagesView& view) const override {
    return arkvale_pages(budget_, view);
  }

 private:
  ArkvaleBudget budget_;
};

// A page's score and number as one: the larger is better, of equal scores the newer page. Pages are
// compared many times for every group and token, in an order that nothing predicts: no branches.
uint64_t rank_of(int32_t page, float score) {
  const float known = std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
  const float x = known + 0.0f;  // zeros have one sign
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t ascending = bits ^ (0x80000000u | (0u - (bits >> 31)));
  return uint64_t{ascending} << 32 | static_cast<uint32_t>(page);
}

// The elements of `all` that are `least` or more, in their order.
std::vector<uint64_t> at_least(const std::vector<uint64_t>& all, uint64_t least) {
  std::vector<uint64_t> out(all.size());
  size_t n = 0;
  for (const uint64_t x : all) {
    out[n] = x;
    n += x >= least ? 1 : 0;
  }
  out.resize(n);
  return out;
}

// The count-th largest, 1 ≤ count ≤ size.
uint64_t nth_largest(std::vector<uint64_t> all, int64_t count) {
  const auto nth = all.begin() + (count - 1);
  std::nth_element(all.begin(), nth, all.end(), std::greater<>());
  return *nth;
}

// Elements among which the `count` largest most likely are, and few others: those as large as what
// a sample's share of `count`, and three standard deviations more, reaches down to.
std::vector<uint64_t> likely_best(const std::vector<uint64_t>& all, int64_t count) {
  constexpr size_t kSample = 128;
  if (all.size() < 4 * kSample) return all;
  std::vector<uint64_t> sample(kSample);
  for (size_t i = 0; i < kSample; ++i) sample[i] = all[i * all.size() / kSample];
  const double share = static_cast<double>(count * kSample) / static_cast<double>(all.size());
  const auto rank = static_cast<int64_t>(share + 3 * std::sqrt(share)) + 1;
  if (2 * rank > std::ssize(sample)) return all;
  return at_least(all, nth_largest(std::move(sample), rank));
}

// The `count` best of `pages`, which ascend as the result does; all of them if there are fewer.
template <typename Pages>
std::vector<int32_t> best(const Pages& pages, int64_t count, const PagesView& view) {
  if (count <= 0) return {};
  std::vector<uint64_t> ranks(static_cast<size_t>(std::ranges::ssize(pages)));
  std::ranges::transform(pages, ranks.begin(), [&](int32_t page) {
    return rank_of(page, view.scores[static_cast<size_t>(page)]);
  });
  if (count < std::ssize(ranks)) {
    std::vector<uint64_t> few = likely_best(ranks, count);
    if (std::ssize(few) < count) few = std::move(ranks);
    ranks = at_least(few, nth_largest(few, count));
  }
  return {ranks.begin(), ranks.end()};  // the lower half: the page
}

std::vector<int32_t> united(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> out;
  std::ranges::set_union(a, b, std::back_inserter(out));
  return out;
}

}  // namespace

std::string_view digest_name(DigestKind kind) {
  for (const auto& [known, name] : kDigests) {
    if (known == kind) return name;
  }
  fail(ErrorCode::kInternal, "digest kind {} has no name", static_cast<int>(kind));
}

DigestKind digest_from_name(std::string_view name) {
  std::vector<std::string_view> names;
  for (const auto& [kind, known] : kDigests) {
    if (known == name) return kind;
    names.push_back(known);
  }
  fail(ErrorCode::kRequest, "--kv-digest: '{}' is not one of {}", name, fmt::join(names, ", "));
}

ArkvaleBudget arkvale_budget(const PolicyOptions& o, std::span<const KvGroup> governed) {
  const int64_t p = o.page_rows;
  ArkvaleBudget b;
  b.rows = o.budget;
  b.pages = o.budget / p;
  b.every = o.select_every;
  b.sinks = ceil_div(o.sink, p);
  // Whatever the query's place in its page, its `recent` newest rows lie in so many pages.
  b.window = 1 + ceil_div(o.recent == -1 ? p : std::max<int64_t>(0, o.recent - 1), p);
  const int64_t kept = b.sinks + b.window;
  require(b.pages > kept, ErrorCode::kRequest,
          "--kv-policy {}: a budget of {} rows is {} pages of {} rows: it must be larger than the "
          "{} of the first rows, the {} of the newest (the one under way included) and one that "
          "is chosen, which take {} rows",
          o.name, o.budget, b.pages, p, b.sinks, b.window, (kept + 1) * p);
  const int64_t most = rows_of_tokens(governed, kMostTopkTokens);
  const int64_t rows = o.topk == -1 ? std::min(most, o.budget / 2) : o.topk;
  b.ranked = rows / p - (kept - 1);
  if (o.topk == -1) b.ranked = std::max<int64_t>(1, b.ranked);
  require(b.ranked >= 1, ErrorCode::kRequest,
          "--kv-policy {}: --kv-topk of {} rows leaves no page to choose: the {} pages of the "
          "first rows and {} of the newest count among its pages of {} rows",
          o.name, o.topk, b.sinks, b.window - 1, p);
  require(b.ranked <= b.pages - kept, ErrorCode::kRequest,
          "--kv-policy {}: --kv-topk of {} rows is more than the budget of {} rows holds beside "
          "the page under way",
          o.name, o.topk, o.budget);
  return b;
}

std::vector<int32_t> arkvale_pages(const ArkvaleBudget& budget, const PagesView& view) {
  const auto pages = static_cast<int32_t>(view.pages);
  const auto sinks = static_cast<int32_t>(std::min(budget.sinks, view.pages));
  const auto window =
      static_cast<int32_t>(std::max<int64_t>(sinks, view.pages - (budget.window - 1)));
  std::vector<int32_t> kept, others;
  for (int32_t page = 0; page < sinks; ++page) kept.push_back(page);
  for (int32_t page = window; page < pages; ++page) kept.push_back(page);
  const auto ranked = std::views::iota(sinks, window);
  ASHLAR_CHECK(std::ranges::includes(view.resident, kept));
  const int64_t room = std::max<int64_t>(0, budget.pages - 1 - std::ssize(kept));
  if (view.prompt_end) return united(kept, best(ranked, room, view));
  const std::vector<int32_t> top = best(ranked, std::min(budget.ranked, room), view);
  const std::vector<int32_t> needed = united(kept, top);
  std::ranges::set_difference(view.resident, needed, std::back_inserter(others));
  return united(needed, best(others, room - std::ssize(top), view));
}

std::unique_ptr<Policy> make_arkvale(const PolicyOptions& options,
                                     std::span<const KvGroup> governed) {
  require(options.page_rows >= 1 && options.select_every >= 1 && options.topk >= -1 &&
              options.dense_groups >= 0,
          ErrorCode::kRequest,
          "--kv-policy {}: pages of {} rows, --kv-select-every {}, --kv-topk {} and "
          "--kv-dense-layers {}: the first two must be positive, no other may be negative",
          options.name, options.page_rows, options.select_every, options.topk,
          options.dense_groups);
  const auto groups = static_cast<int64_t>(governed.size());
  require(options.dense_groups == 0 || options.dense_groups < groups, ErrorCode::kRequest,
          "--kv-dense-layers {}: policies govern {} groups of layers in this model, so nothing "
          "would be bounded",
          options.dense_groups, groups);
  RecallNeeds needs;
  read_digest(options, needs);
  needs.exempt = options.dense_groups;
  return std::make_unique<Arkvale>(arkvale_budget(options, governed), needs);
}

}  // namespace ashlar
