#include "data/tokenizer/score_merges.h"

#include <algorithm>
#include <unordered_map>

#include "core/base/error.h"
#include "data/tokenizer/tokenizer.h"

namespace ashlar {
namespace {

constexpr size_t kLongestPiece = 1024;  // bytes; the splits of a piece are all tried

/// One way to build a piece from two others.
struct Split {
  int32_t result = 0;
  size_t at = 0;  ///< bytes of the left part
  int32_t left = 0, right = 0;
};

class Ranker {
 public:
  Ranker(const std::vector<ScoredPiece>& pieces, const std::string& file) : pieces_(pieces) {
    for (int32_t id = 0; id < static_cast<int32_t>(pieces.size()); ++id) {
      require(ids_.emplace(piece(id), id).second, ErrorCode::kData, "{}: token {}: '{}' twice",
              file, id, to_valid_utf8(piece(id)));
    }
    for (int32_t id = 0; id < static_cast<int32_t>(pieces.size()); ++id) {
      if (!merges(id)) continue;
      require(piece(id).size() <= kLongestPiece, ErrorCode::kData,
              "{}: token {}: {} bytes, expected at most {}", file, id, piece(id).size(),
              kLongestPiece);
      find_splits(id);
    }
    // The highest score first; of the splits of one piece the longest left part, because of two
    // overlapping pairs that build the same piece (ab·a and a·ba in "ababa") the left one wins.
    std::stable_sort(splits_.begin(), splits_.end(), [&](const Split& a, const Split& b) {
      if (score(a.result) != score(b.result)) return score(a.result) > score(b.result);
      return a.result != b.result ? a.result < b.result : a.at > b.at;
    });
  }

  std::vector<BpeModel::Merge> shared_ranks() const {
    std::vector<BpeModel::Merge> merges;
    int32_t rank = -1;
    for (size_t i = 0; i < splits_.size(); ++i) {
      const Split& split = splits_[i];
      if (i == 0 || score(split.result) != score(splits_[i - 1].result)) ++rank;
      merges.push_back({split.left, split.right, rank, split.result});
    }
    return merges;
  }

  std::vector<BpeModel::Merge> strict_ranks() const {
    std::vector<BpeModel::Merge> merges = shared_ranks();
    for (size_t i = 0; i < merges.size(); ++i) merges[i].rank = static_cast<int32_t>(i);
    return merges;
  }

  /// Take two pairs of one rank that are present at once. Apart, they do not influence each other.
  /// Overlapping (u·v and v·w with uv = vw), the left one must come first in the strict order.
  /// Adjacent (uv next to vw), the one merged first, T, may at once form a better piece with the
  /// nearer half of the other: T·v' or u'·T.
  std::string doubtful() const {
    for (size_t i = 0; i < splits_.size(); ++i) {
      const Split& split = splits_[i];
      const std::string& whole = piece(split.result);
      if (i > 0 && splits_[i - 1].result != split.result &&
          score(splits_[i - 1].result) == score(split.result)) {
        return whole;
      }
      if (!is_split_many_ways(i)) continue;
      // u·v is this split, v·w the mirrored one, listed earlier because its left part is longer.
      const size_t mirror = whole.size() - split.at;
      if (mirror > split.at && whole.compare(split.at, std::string::npos, whole, 0, mirror) == 0 &&
          has_earlier_split(i, mirror)) {
        return whole;
      }
      for (const std::string& joined : {whole + piece(split.left), piece(split.right) + whole}) {
        const auto found = ids_.find(joined);
        if (found != ids_.end() && score(found->second) > score(split.result)) return whole;
      }
    }
    return {};
  }

 private:
  const std::string& piece(int32_t id) const { return pieces_[static_cast<size_t>(id)].bytes; }
  bool merges(int32_t id) const { return pieces_[static_cast<size_t>(id)].merges; }
  float score(int32_t id) const { return pieces_[static_cast<size_t>(id)].score; }

  void find_splits(int32_t id) {
    const std::string& whole = piece(id);
    for (size_t at = 1; at < whole.size(); ++at) {
      const auto left = ids_.find(whole.substr(0, at)), right = ids_.find(whole.substr(at));
      if (left == ids_.end() || right == ids_.end()) continue;
      if (!merges(left->second) || !merges(right->second)) continue;
      splits_.push_back({id, at, left->second, right->second});
    }
  }
  bool is_split_many_ways(size_t i) const {
    return (i > 0 && splits_[i - 1].result == splits_[i].result) ||
           (i + 1 < splits_.size() && splits_[i + 1].result == splits_[i].result);
  }
  /// Splits of one piece lie together.
  bool has_earlier_split(size_t i, size_t at) const {
    for (size_t j = i; j > 0 && splits_[j - 1].result == splits_[i].result; --j) {
      if (splits_[j - 1].at == at) return true;
    }
    return false;
  }

  const std::vector<ScoredPiece>& pieces_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<Split> splits_;
};

}  // namespace

ScoreMerges merges_by_score(const std::vector<ScoredPiece>& pieces, const std::string& file) {
  const Ranker ranker(pieces, file);
  return {ranker.shared_ranks(), ranker.strict_ranks(), ranker.doubtful()};
}

}  // namespace ashlar
