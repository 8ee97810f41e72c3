#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ashlar {

/// What a user asks for. `sink`, `recent` and `budget` mean the same in every policy and are cache
/// rows (a Block Transformer's row covers L_B tokens).
struct PolicyOptions {
  std::string name = "none";
  int64_t budget = 0;   ///< rows kept per lane once the prompt is in; ignored by "none"
  int64_t sink = 4;     ///< first rows of the text that are never dropped
  int64_t recent = -1;  ///< newest rows that are never dropped; −1: the policy's default

  bool operator==(const PolicyOptions&) const = default;
};

/// Metadata of one lane as a policy sees it after a step: never storage.
struct LaneView {
  int64_t group = 0;
  int64_t newest = 0;  ///< position of the newest row
  /// Position of each row in entries: ascending until the lane's first drop, in any order after it.
  std::span<const int32_t> positions;
  std::span<const float> scores;  ///< per row: sums, if the policy asked for them; else empty
  std::span<const float> counts;  ///< per row: counts, likewise
};

/// Slots of one lane to drop, in ascending order.
struct LaneEdit {
  std::vector<int64_t> drop;
};

/// How probabilities of query rows become a row's score.
enum class ScoreReducer {
  kNone,
  kSum,   ///< over all query rows so far
  kLast,  ///< of the newest query row alone
  /// How many query rows so far gave it less than 1/n, n rows being seen; the mean over the query
  /// heads of a KV head is compared (Scissorhands, arXiv 2305.17118).
  kCountBelow,
  kSumAndCount,
};

/// Decides which rows of a lane stay. Policies act when a prompt is in and after every later entry,
/// once the group's last reader has run; what they see depends on tokens and options only. Groups
/// with a window and caches of a block are bounded by construction: policies never see them.
class Policy {
 public:
  virtual ~Policy() = default;
  /// Which reduction of attention probabilities it wants; heads of a lane and readers are summed.
  virtual ScoreReducer reducer() const { return ScoreReducer::kNone; }
  /// One lane per KV head instead of one per group.
  virtual bool per_head() const { return false; }
  /// One edit per lane, in order. Called once per closed group and step for all sequences.
  virtual void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const = 0;
};

/// nullptr for "none". Throws Error(kRequest) for an unknown name (listing the known) or a budget
/// that is not positive or below sink + recent.
std::unique_ptr<Policy> make_policy(const PolicyOptions& options);
/// Names in the registry, "none" first.
std::vector<std::string> policy_names();

// Constructors the registry calls; one per policy source file.
std::unique_ptr<Policy> make_streaming(const PolicyOptions& options);
std::unique_ptr<Policy> make_h2o(const PolicyOptions& options);

}  // namespace ashlar
