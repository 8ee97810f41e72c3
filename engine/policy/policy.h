#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/policy/policy_options.h"
#include "engine/policy/recall.h"
#include "models/spec/spec.h"

namespace ashlar {

/// How probabilities of query rows become a row's score.
enum class ScoreReducer {
  kNone,
  kSum,   ///< over the query rows that score
  kLast,  ///< of the newest query row alone
  /// How many query rows that score gave it less than 1/n, n rows being seen; the mean over the
  /// query heads of a KV head is compared (Scissorhands, arXiv 2305.17118).
  kCountBelow,
  kSumAndCount,
};

/// What a policy asks of the cache, as plain data. Vectors have one number per governed group, by
/// place (LaneView::place); an empty one means 0 for all.
struct PolicyNeeds {
  ScoreReducer reducer = ScoreReducer::kNone;

  // Which query rows score. They form one run that ends with the newest row that scored: where a
  // row that scores follows one that does not, scores begin anew.
  /// Of the rows of a prompt only the last so many; 0: all. A prompt's end is what the caller says
  /// (StepItem::acts and ::follow), never where a piece of it ends.
  int64_t prompt_rows = 0;
  bool decoded_rows = true;  ///< rows that come alone after a prompt
  /// Only rows that see more than so many rows of their lane …
  std::vector<int64_t> scored_above = {};
  /// … and lie behind the first so many of the text.
  int64_t scored_beyond = 0;

  bool per_head = false;     ///< one lane per KV head instead of one per group
  bool head_scores = false;  ///< scores of each KV head of a lane apart, beside their sum

  // Features of keys and values (kernels/kv_features.h), computed for lanes of more than
  // features_above rows when the policy acts.
  bool key_cosines = false;
  bool value_norms = false;
  std::vector<int64_t> features_above = {};

  /// Set: pages come and go instead of rows, and the policy is asked by choose_pages alone.
  std::optional<RecallNeeds> recall = {};
};

/// Metadata of one lane as a policy sees it after a step: never storage.
struct LaneView {
  int64_t group = 0;
  int64_t newest = 0;  ///< position of the newest row
  /// Position of each row in entries: ascending until the lane's first drop, in any order after it.
  std::span<const int32_t> positions = {};
  std::span<const float> scores = {};  ///< per row: sums, if the policy asked for them; else empty
  std::span<const float> counts = {};  ///< per row: counts, likewise
  int64_t place = 0;                   ///< of the group among the governed ones, by id
  int64_t head = 0;                    ///< first KV head of the lane
  int64_t heads = 1;                   ///< KV heads of the lane
  int64_t readers = 1;                 ///< layers that read the group: their scores are summed
  bool prompt_end = false;             ///< a prompt ended; else one row was decoded
  /// Query rows that the scores are of: the newest so many, and each saw the rows up to itself.
  int64_t scored_rows = 0;
  // Per head and row, [heads, rows], if the policy asked for them; else empty.
  std::span<const float> head_scores = {}, head_counts = {};
  /// Of a key to the mean of the lane's keys of that head, each divided by its length (KeyDiff).
  std::span<const float> key_cosines = {};
  std::span<const float> value_norms = {};

  int64_t rows() const { return static_cast<int64_t>(positions.size()); }
};

/// What is to happen to a lane.
struct LaneEdit {
  std::vector<int64_t> drop = {};  ///< slots to drop, in ascending order
  bool forget = false;             ///< the scores of what stays begin anew
};

/// Decides which rows of a lane stay. Policies act when a prompt is in and after every later entry,
/// once the group's last reader has run; what they see depends on tokens and options only. Groups
/// with a window and caches of a block are bounded by construction: policies never see them.
class Policy {
 public:
  explicit Policy(PolicyNeeds needs = {}) : needs_(std::move(needs)) {}
  virtual ~Policy() = default;

  const PolicyNeeds& needs() const { return needs_; }
  /// One edit per lane, in order. Called once per closed group and step for all sequences; must be
  /// a function of the view and the policy's options.
  virtual void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const = 0;

  // Policies that recall (PolicyNeeds::recall) only.
  /// Whether the query of `view`, whose scores are not there yet, changes what is resident.
  virtual bool chooses(const PagesView& /*view*/) const { return false; }
  /// The pages that are resident from this query on, ascending; after chooses() said so.
  virtual std::vector<int32_t> choose_pages(const PagesView& view) const {
    return {view.resident.begin(), view.resident.end()};
  }

 private:
  PolicyNeeds needs_;
};

/// The number of a group in a vector of PolicyNeeds.
inline int64_t need_of(const std::vector<int64_t>& numbers, int64_t place) {
  return numbers.empty() ? 0 : numbers[static_cast<size_t>(place)];
}

/// Whether policies act on a group: it lasts as long as the text and has no window.
inline bool governs(const KvGroup& group) {
  return group.lifetime == KvLifetime::kSequence && group.window == 0;
}
/// The governed ones, by place.
std::vector<KvGroup> governed_groups(std::span<const KvGroup> groups);

/// nullptr for "none". `groups`: all of the model's. Throws Error(kRequest) for an unknown name
/// (listing the known), an option out of range, one that the method cannot use, or a budget that is
/// not positive or below sink + recent.
std::unique_ptr<Policy> make_policy(const PolicyOptions& options, std::span<const KvGroup> groups);
/// Names in the registry, "none" first.
std::vector<std::string> policy_names();

}  // namespace ashlar
