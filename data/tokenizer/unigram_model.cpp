#include "data/tokenizer/unigram_model.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/base/error.h"
#include "data/tokenizer/text.h"

namespace ashlar {
namespace {

constexpr float kUnknownPenalty = 10.0f;
/// Where the best path's sum falls below this, the library (0.2.3) counts on from zero, or a long
/// text's sums would round differences between pieces away.
constexpr float kRebase = -1e5f;

}  // namespace

UnigramModel::UnigramModel(const std::vector<SpmVocabulary::Piece>& pieces) {
  float lowest = std::numeric_limits<float>::max();
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].kind == SpmKind::kUnknown) unknown_ = static_cast<int32_t>(id);
    if (pieces[id].kind != SpmKind::kNormal) continue;
    lowest = std::min(lowest, pieces[id].score);
  }
  unknown_score_ = lowest - kUnknownPenalty;
  for (const SpmVocabulary::Piece& piece : pieces) {
    // Found by asking the library: its own score counts nothing, each byte but one 0.1.
    const double bonus = 0.1 * static_cast<double>(piece.text.size()) - 0.1;
    const bool defined = piece.kind == SpmKind::kUserDefined;
    scores_.push_back(defined ? static_cast<float>(bonus) : piece.score);
  }
  build_trie(pieces);
}

void UnigramModel::build_trie(const std::vector<SpmVocabulary::Piece>& pieces) {
  struct Entry {
    std::string_view text;
    int32_t id;
  };
  std::vector<Entry> entries;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const SpmKind kind = pieces[id].kind;
    if (kind != SpmKind::kNormal && kind != SpmKind::kUserDefined) continue;
    entries.push_back({pieces[id].text, static_cast<int32_t>(id)});
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.text < b.text; });
  // Breadth first: node i stands for entries [begin, end), equal in their first `depth` bytes.
  struct Range {
    size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, entries.size(), 0}};
  nodes_.assign(1, {});
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [at, end, depth] = ranges[node];
    while (at < end && entries[at].text.size() == depth) nodes_[node].id = entries[at++].id;
    nodes_[node].first = static_cast<int32_t>(nodes_.size());
    while (at < end) {
      const char label = entries[at].text[depth];
      const size_t begin = at;
      while (at < end && entries[at].text[depth] == label) ++at;
      nodes_.emplace_back().label = static_cast<uint8_t>(label);
      ranges.push_back({begin, at, depth + 1});
    }
    nodes_[node].count = static_cast<int32_t>(nodes_.size()) - nodes_[node].first;
  }
  root_.fill(-1);
  for (int32_t i = 0; i < nodes_[0].count; ++i) {
    root_[nodes_[static_cast<size_t>(nodes_[0].first + i)].label] = nodes_[0].first + i;
  }
}

int32_t UnigramModel::child(int32_t node, uint8_t label) const {
  if (node == 0) return root_[label];
  const Node& parent = nodes_[static_cast<size_t>(node)];
  const auto begin = nodes_.begin() + parent.first, end = begin + parent.count;
  const auto found = std::lower_bound(
      begin, end, label, [](const Node& child, uint8_t wanted) { return child.label < wanted; });
  if (found == end || found->label != label) return -1;
  return static_cast<int32_t>(found - nodes_.begin());
}

namespace {

/// The best path to each place behind `from`, as far as some piece reached.
class Ends {
 public:
  bool reached(size_t place) const { return place - from_ < ends_.size(); }
  float score(size_t place) const { return ends_[place - from_].score; }

  /// Takes the score of `place` off it and all behind it.
  void rebase(size_t place) {
    const float by = score(place);
    for (size_t i = place - from_; i < ends_.size(); ++i) ends_[i].score -= by;
  }

  void reach(size_t begin, size_t end, int32_t id, float score) {
    if (end - from_ >= ends_.size()) ends_.resize(end - from_ + 1);
    End& best = ends_[end - from_];
    if (best.id < 0 || score > best.score) best = {score, id, begin};
  }

  /// Appends the path to `end`, the furthest place reached, and goes on from there.
  void finish(size_t end, std::vector<UnigramModel::Span>& path) {
    const size_t before = path.size();
    for (size_t at = end; at > from_;) {
      const End& last = ends_[at - from_];
      ASHLAR_CHECK(last.id >= 0);
      path.push_back({last.begin, at, last.id});
      at = last.begin;
    }
    std::reverse(path.begin() + static_cast<std::ptrdiff_t>(before), path.end());
    ends_.assign(1, {score(end), -1, 0});
    from_ = end;
  }

 private:
  struct End {
    float score = 0;
    int32_t id = -1;   ///< of the last piece
    size_t begin = 0;  ///< of the last piece
  };
  std::vector<End> ends_ = std::vector<End>(1);
  size_t from_ = 0;
};

}  // namespace

std::vector<UnigramModel::Span> UnigramModel::best_path(std::string_view text) const {
  std::vector<Span> path;
  Ends ends;
  for (size_t begin = 0; begin < text.size();) {
    // Where no piece goes on, every path passes: memory is that of a word, not of the text.
    if (!ends.reached(begin + 1)) ends.finish(begin, path);
    if (ends.score(begin) < kRebase) ends.rebase(begin);
    const float so_far = ends.score(begin);
    const size_t next = begin + static_cast<size_t>(utf8_at(text, begin).length);
    bool single = false;
    int32_t node = 0;
    for (size_t at = begin; at < text.size(); ++at) {
      node = child(node, static_cast<uint8_t>(text[at]));
      if (node < 0) break;
      const int32_t id = nodes_[static_cast<size_t>(node)].id;
      if (id < 0) continue;
      ends.reach(begin, at + 1, id, scores_[static_cast<size_t>(id)] + so_far);
      single |= at + 1 == next;
    }
    if (!single) ends.reach(begin, next, unknown_, unknown_score_ + so_far);
    begin = next;
  }
  ends.finish(text.size(), path);
  return path;
}

}  // namespace ashlar
